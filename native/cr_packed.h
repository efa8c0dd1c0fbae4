/* A quantized matrix in memory, as training multiplies with it: row scales, a line after another, then the sums of rows, in as
 * many lines (zero for int4), then the panels of cr_format.h in blocks of four. */
#ifndef CR_PACKED_H
#define CR_PACKED_H

#include "cr_kernels.h"

enum { CR_PACKED_BLOCK = 4 };

static inline size_t cr_packed_rows(size_t rows)
{
    return (rows + CR_LANES - 1) / CR_LANES * CR_LANES;
}

/* The bytes of the scales, and again of the sums. */
static inline size_t cr_packed_head(size_t rows)
{
    return CR_LINES(4 * cr_packed_rows(rows));
}

static inline size_t cr_packed_bytes(unsigned type, size_t rows, size_t columns)
{
    size_t panels = cr_packed_rows(rows) / CR_LANES, lines = panels * ((columns + 3) / 4);
    if (type == CR_MATRIX_I4)
        lines = panels * ((columns + 7) / 8) +
                (panels + CR_PACKED_BLOCK - 1) / CR_PACKED_BLOCK * ((columns + CR_GROUP - 1) / CR_GROUP);
    return 2 * cr_packed_head(rows) + 64 * lines;
}

static inline cr_matrix cr_packed_matrix(const void *memory, size_t rows, size_t columns)
{
    const unsigned char *at = (const unsigned char *)memory;
    size_t head = cr_packed_head(rows);
    cr_matrix matrix = {0};
    matrix.lines = at + 2 * head;
    matrix.scale = (const float *)(const void *)at;
    matrix.sums = (const int32_t *)(const void *)(at + head);
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.block = CR_PACKED_BLOCK;
    return matrix;
}

#endif
