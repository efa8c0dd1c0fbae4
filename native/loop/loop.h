/* A loop over time for training: one step, as a list of operations on (rows, width) arrays of float32, run for every
 * time step forwards or backwards. layers/loop/native.py writes the list; nothing here knows what a cell is.
 *
 * Rows (the sequences of a batch) do not depend on each other, so threads share them out and never wait. A thread takes
 * LOOP_TILE rows at a time through the whole list, which keeps what it makes on the way in the first-level cache. */
#ifndef LOOP_H
#define LOOP_H

#include <stddef.h>
#include <stdint.h>

#include "cr_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LOOP_TILE = 8 };

/* X(NAME, operands, value). A condition holds where a number is above zero; comparisons give 1 and 0. */
#define LOOP_FUNCTIONS(X) \
    X(COPY, 1, a) \
    X(ADD, 2, v_add(a, b)) \
    X(SUB, 2, v_sub(a, b)) \
    X(MUL, 2, v_mul(a, b)) \
    X(DIV, 2, v_div(a, b)) \
    X(MUL_ADD, 3, v_add(v_mul(a, b), c)) \
    X(NEG, 1, cr_negative(a)) \
    X(ABS, 1, cr_abs(a)) \
    X(SQRT, 1, v_sqrt(a)) \
    X(EXP, 1, cr_exp(a)) \
    X(LOG, 1, cr_log(a)) \
    X(ERF, 1, cr_erf(a)) \
    X(SIGMOID, 1, cr_sigmoid(a)) \
    X(TANH, 1, cr_tanh(a)) \
    X(RELU, 1, cr_max(a, v_splat(0.0f))) \
    X(MAXIMUM, 2, v_select(v_is_nan(b), b, cr_max(a, b))) \
    X(MINIMUM, 2, v_select(v_is_nan(b), b, cr_min(a, b))) \
    X(GREATER, 2, v_select(v_less(b, a), v_splat(1.0f), v_splat(0.0f))) \
    X(WHERE, 3, v_select(v_less(v_splat(0.0f), a), b, c)) \
    X(SIGMOID_GRAD, 2, v_mul(a, v_mul(b, v_sub(v_splat(1.0f), b)))) \
    X(TANH_GRAD, 2, v_mul(a, v_sub(v_splat(1.0f), v_mul(b, b))))

enum loop_code {
#define LOOP_NAME(NAME, operands, value) LOOP_##NAME,
    LOOP_FUNCTIONS(LOOP_NAME)
#undef LOOP_NAME
    LOOP_LINEAR, /* to = a W^T, or b + a W^T */
    LOOP_QUANTIZED, /* the same with a quantized matrix and a quantized: the product as the engine makes it */
    LOOP_SPREAD, /* every number of to = the first of a */
    LOOP_TOTAL,  /* one number, the sum of the `depth` numbers of a row of a */
    LOOP_SUM,    /* the sum over rows and time of a, into sums of the thread's own */
    LOOP_CODES
};

/* Entry (t, row, column) stands at base + t * time + row * row_stride + column; `tile` is row_stride where rows are those
 * of the batch, 0 where they are those of the tile, or all the same. */
typedef struct loop_place {
    float *base;
    ptrdiff_t time, tile, row;
} loop_place;

typedef struct loop_op {
    int32_t code;
    int32_t has_addend;
    size_t width;
    size_t depth;
    loop_place to, a, b, c;
    const float *panels; /* W in panels of 16 rows, each column by column, padded with zeros */
    cr_matrix matrix;    /* a quantized one, */
    unsigned type;       /* CR_MATRIX_I8 or CR_MATRIX_I4, */
    float scale;         /* of its inputs, 0 for one of each row; */
    char *quantized;     /* room for LOOP_TILE rows of them, */
    const struct cr_kernels *kernels;
    float *sums;
    double *total;
} loop_op;

/* Runs `ops` for rows [first, end) and steps 0 to `steps` - 1, or back. */
typedef void loop_run(const loop_op *ops, size_t count, size_t steps, int backwards, size_t first, size_t end);

/* to[i][j] = sum over r of a[r][i] b[r][j], (height, width) from `rows` rows that lie `a_row` and `b_row` numbers apart. */
typedef struct loop_outer {
    float *to;
    const float *a, *b;
    ptrdiff_t a_row, b_row;
    size_t rows, width;
} loop_outer;

enum { LOOP_OUTER_ROWS = 256, LOOP_OUTER_DOWN = 12 };
#define LOOP_OUTER_ROOM(width) (LOOP_OUTER_ROWS * ((width) + 64))

/* Rows `top` to `bottom` of the result, in blocks of LOOP_OUTER_DOWN at most; `room`: LOOP_OUTER_ROOM(width) numbers. */
typedef void loop_run_outer(const loop_outer *job, size_t top, size_t bottom, float *room);

typedef struct loop_functions {
    loop_run *run;
    loop_run_outer *outer;
} loop_functions;

/* The fastest for this processor, and its kernels; `name` (NULL for any) asks for one, NULL where there is none. `exact`:
 * each operation rounds as in the engine. */
const loop_functions *loop_find(const char *name, int exact, const struct cr_kernels **found);

#ifdef __cplusplus
}
#endif
#endif
