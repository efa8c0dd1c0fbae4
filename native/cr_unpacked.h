/* Int4 matrices as some kernels multiply with them: a byte for each entry, where all of the model stays in a near cache.
 *
 * On AVX2 it takes longer to get two entries out of a byte than to multiply with them, and products of an entry of four bits
 * with a number of eight leave room to add up those of a whole group in 16. */
#ifndef CR_UNPACKED_H
#define CR_UNPACKED_H

#include "cr.h"
#include "cr_kernels.h"

/* After those made of vectors come the numbers of the lines, one for each tensor, where its unpacked matrix starts, then these
 * matrices. In a block each group of CR_GROUP columns has, for its panels side by side, a line where the sums start, a line of
 * the group's scales, and a line for each four columns. Entries are signed. Two sums of 16 bits are a row's: of the first two
 * columns of each four and of the other two. With 128 added to x they go beyond 16 bits and come back: they start from -128
 * times the sum of their entries, and in the end are 32 * 8 * 127 at most. The scale of a row stands there twice, for a
 * product of both with it. */
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
