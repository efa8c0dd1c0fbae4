/* What the parts of the loader share. */
#ifndef CR_LOAD_H
#define CR_LOAD_H

#include "cr.h"

/* A walk over the file: `at` is a multiple of 64, never beyond `size`. */
typedef struct {
    const unsigned char *file;
    uint64_t at;
    uint64_t size;
} cr_walk;

/* Take the next `bytes` bytes and the zero padding after them; their place goes to `place`. */
int cr_take_section(cr_walk *walk, uint64_t bytes, uint64_t *place);

/* What a read or a write in a segment may name. */
int cr_check_read(const cr_model *model, uint32_t segment, cr_ref ref, uint64_t width);
int cr_check_write(const cr_model *model, uint32_t segment, cr_ref ref, uint64_t width);

/* A tensor, which the walk has come to. */
int cr_check_tensor(cr_model *model, cr_walk *walk, const cr_tensor *tensor);

/* Whether products can be made with tensors of this type. */
static inline int cr_is_matrix(uint32_t type)
{
    return type <= CR_MATRIX_I4 || (type >= CR_TOEPLITZ_F32 && type <= CR_COLUMNS_I8);
}

static inline int cr_is_index(uint32_t type)
{
    return type == CR_INDEX || type == CR_RUNS || type == CR_REPEATS;
}

/* The row within a block of 64 that byte `byte` of a line of a CR_COLUMNS_I8 belongs to. */
static inline uint64_t cr_row_in_line(uint64_t byte)
{
    return byte / 4 % 4 * 16 + byte / 16 * 4 + byte % 4;
}

/* How many numbers an op writes at dst. */
static inline uint64_t cr_written_width(const cr_op *op)
{
    return cr_operations[op->code].writes_k ? op->k : op->n;
}

/* All ops; sets `fault`. `looks`: see CR_MAX_LOOKS. */
int cr_check_ops(cr_model *model, uint64_t *looks);

/* Whether the ops before number `end` have written all of `width` numbers at `ref`. */
int cr_check_written(const cr_model *model, uint32_t end, cr_ref ref, uint64_t width, uint64_t *looks);

#endif
