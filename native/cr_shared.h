/* Matrices that are made of vectors when a file is opened, beside Toeplitz-like ones: how many numbers are stored, and which
 * of them an entry is. See cr_toeplitz. */
#ifndef CR_SHARED_H
#define CR_SHARED_H

#include "cr_format.h"

/* How many numbers a form with columns of `columns` stores. */
static inline uint64_t cr_form_numbers(const cr_toeplitz *form, uint64_t columns)
{
    uint64_t gates = form->gates, units = form->units, size = form->size;
    if (form->rule == CR_RULE_HASHED) return gates * size;
    if (form->rule == CR_RULE_CIRCULANT) return gates * ((units + size - 1) / size) * columns;
    return 2 * gates * ((units + columns - 1) / columns) * form->rank * columns;
}

/* Whether the sizes that a form gives fit together; of them follows what is stored. */
static inline int cr_form_fits(const cr_toeplitz *form, uint64_t columns)
{
    if (!form->gates || !form->units || form->interleaved > 1) return 0;
    if (form->rule == CR_RULE_TOEPLITZ) return form->rank && form->rank <= columns && !form->size;
    if (form->rank || !form->size) return 0;
    if (form->rule == CR_RULE_CIRCULANT) return columns % form->size == 0;
    return form->rule == CR_RULE_HASHED && form->size <= (uint64_t)form->units * columns;
}

/* 32 well mixed bits of a number: the finalizer of MurmurHash3. */
static inline uint32_t cr_mix(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

/* Entry (unit, column) of a gate. */
static inline float cr_shared_entry(const cr_toeplitz *form, const float *v, uint64_t columns, uint64_t gate, uint64_t unit,
                                    uint64_t column)
{
    uint64_t size = form->size;
    if (form->rule == CR_RULE_HASHED) {
        uint32_t mixed = cr_mix((uint32_t)(unit * columns + column));
        float number = v[gate * size + (mixed >> 1) % size];
        return mixed & 1 ? -number : number;
    }
    uint64_t down = (form->units + size - 1) / size, block = (gate * down + unit / size) * (columns / size) + column / size;
    return v[block * size + (unit % size + size - column % size) % size];
}

#endif
