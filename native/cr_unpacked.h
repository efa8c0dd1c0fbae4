/* Int4 matrices as some kernels multiply with them: a byte for each entry, where all of the model stays in a near cache.
 *
 * On AVX2 it takes longer to get two entries out of a byte than to multiply with them. The product of an entry of four bits
 * without a sign with a number of eight leaves room to add up several in 16 bits. */
#ifndef CR_UNPACKED_H
#define CR_UNPACKED_H

#include "cr.h"
#include "cr_kernels.h"

/* After those made of vectors come the numbers of the lines, one for each tensor, where its unpacked matrix starts, then these
 * matrices, laid out as they are in the file but that a line of packed entries is two: the columns of the lower halves of its
 * bytes, then those of the higher ones. */
uint64_t cr_unpacked_bytes(const cr_model *model);
void cr_unpack(const cr_model *model, unsigned char *memory);

static inline int cr_is_unpacked(const cr_model *model, const cr_tensor *tensor)
{
    return tensor->type == CR_MATRIX_I4 && model->expanded && model->expanded_bytes != model->vector_bytes;
}

static inline const void *cr_unpacked_lines(const cr_model *model, const cr_tensor *tensor)
{
    const unsigned char *at = model->expanded + model->vector_bytes;
    return at + (size_t)CR_LINE * ((const uint32_t *)(const void *)at)[tensor - model->tensors];
}

#endif
