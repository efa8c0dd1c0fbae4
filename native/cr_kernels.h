/* The kernels: everything that computes. cr_body.h has them once, over the vector operations that cr_scalar.c, cr_avx2.c,
 * cr_avx512.c and cr_neon.c give; cr_scalar.c defines what is correct, and every other table gives the same bits. That is
 * possible because of this law:
 *
 * - Only add, subtract, multiply, divide, square root, comparison and exact conversions, each rounded once, unfused, in
 *   round-to-nearest-even with subnormals flushed. No library functions, no estimates.
 * - A vector is 16 lanes, on every machine. Element-wise work is per lane, so the width of registers cannot matter.
 * - A float32 matrix row is one sequential chain: acc = init, then acc = acc + w[j] * x[j] for j = 0, 1, ... In a sparse
 *   matrix j goes through the stored lines, or the row's single entries: what x has elsewhere, NaN and infinity too, does
 *   not count. A single int8 entry is the float32 number entry * row_scale.
 * - CR_DELTA has a float32 sum for each row. At step t of the stream the sums of the rows of block number i, `block` panels, begin
 *   from 0 as above if t + i is a multiple of CR_DELTA_PERIOD, or if a number of x that changes was NaN or infinite; else they
 *   go on by w[j] * (x[j] - what x[j] was) for each j at which x has changed. The result is init + sum. Of int8 entries the sums
 *   are exact, and the result is what an int8 matrix gives.
 * - CR_DEPTHWISE is such a chain over the taps; without an init it starts with the first product.
 * - An int8 matrix row is an exact int32 sum, in any order, then init + (float)sum * (row_scale * x_scale). An int4 row is
 *   the same; its sum is that over the groups of group_scale * (sum over the group).
 * - A row that is looked up in whole numbers is (float)(entry * group_scale) * row_scale, int8 without a group_scale.
 * - A sum over a group: lane j adds entries j, j+16, j+32, ... in that order, starting from 0; then lane j += lane j+8,
 *   then j+4, j+2, j+1. Maximum and minimum go the same way, starting from -infinity or infinity.
 * - max(a, b) is a where a > b or a is NaN, else b; min likewise: a NaN is never lost. A subnormal comes out as zero.
 * - A large Toeplitz-like matrix is multiplied as cr_spectral.h says, lane by lane; the result is then added to init.
 * - Quantizing: x * (1 / scale), clamped to [-127, 127], rounded to nearest even. The scale is p0, or absmax / 127;
 *   absmax < 1e-30 gives all zeros. A NaN or infinity anywhere in x makes the scale a NaN, and with it every result.
 * - ARGMAX and TOP: of equal numbers the first counts, and NaN counts as the largest.
 * - ATTEND goes through the steps in tiles of 16, each query by itself. A score is p0 times the chain over the products of q and
 *   k, from 0. With m the largest score up to and with this tile, 0 where that is -infinity, and c = e^(m before - m): the sum
 *   of weights and each number of the result are multiplied by c, then for each step of the tile in turn w = e^(score - m) is
 *   added to the sum, and w * v to the result. In the end the result is divided by the sum.
 *
 * Kernels trust their arguments: cr_load.c has verified them. Operands need no alignment, matrices lie at lines. */
#ifndef CR_KERNELS_H
#define CR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "cr_format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A quantized vector of k numbers: its scale in the first line, int8 numbers padded with zeros to whole groups of 64,
 * and an int32 sum of each group. */
#define CR_LINES(bytes) (((size_t)(bytes) + 63) / 64 * 64)
#define CR_QUANTIZED_SUMS(k) (64 + CR_LINES(k))
#define CR_QUANTIZED_BYTES(k) (CR_QUANTIZED_SUMS(k) + CR_LINES(CR_LINES(k) / 16))

/* A matrix as cr_format.h lays it out; sums: of the rows of an i8 matrix. */
typedef struct cr_matrix {
    const void *lines;
    const float *scale;
    const int32_t *sums;
    size_t rows;
    size_t columns;
    size_t block;
    const uint32_t *starts;  /* the first line of each panel, and the j of each line; or, of single entries, the first of
                                each column, and the row of each */
    const uint16_t *numbers;
} cr_matrix;

static inline int cr_is_sparse(unsigned type)
{
    return type == CR_SPARSE_F32 || type == CR_SPARSE_I8;
}

static inline int cr_has_single_entries(unsigned type)
{
    return type == CR_ENTRIES_F32 || type == CR_ENTRIES_I8;
}

/* What kernels have of their own: a CR_MATRIX_I4 with a byte for each entry, see cr_unpacked.h. */
enum { CR_UNPACKED_I4 = CR_TYPE_COUNT, CR_KERNEL_TYPES };

/* Whether products with a matrix of this type take quantized inputs. */
static inline int cr_takes_quantized(unsigned type)
{
    return type == CR_MATRIX_I8 || type == CR_MATRIX_I4 || type == CR_UNPACKED_I4 || type == CR_SPARSE_I8 ||
           type == CR_COLUMNS_I8;
}

/* A Toeplitz-like matrix of k columns as remainders of polynomials, see cr_spectra.c: `gates` gates of `of_gate` blocks each,
 * cut off at `units` rows. The vectors g (first) and h (second) are `count` groups of k lines each, `groups` for every
 * `beside` blocks. */
typedef struct cr_spectra {
    size_t k;
    size_t gates;
    size_t of_gate;
    size_t units;
    size_t beside;
    size_t groups;
    size_t count;
    int interleaved;
    const float *numbers;    /* k numbers for the roots, then the groups of `second`, then those of `first` */
} cr_spectra;
#define CR_SPECTRAL_WORK(k) (33 * (size_t)(k)) /* numbers that a product needs beside its result */

/* A vector for each of some time steps, `stride` bytes apart. */
typedef struct cr_rows {
    void *first;
    size_t stride;
} cr_rows;

/* dst = init + W x for each of `steps`: init.first NULL: zeros; dst may be init. x as quantized, for float32 as it is. */
typedef void cr_affine(cr_rows dst, const cr_matrix *matrix, cr_rows x, cr_rows init, size_t steps);
/* CR_LSTM and CR_GRU of n units: gates and x as above; dst may be h. `backwards`: from the last units to the first; steps
 * that go back and forth find the end of the matrix, where the step before was last, still in a near cache. */
typedef void cr_lstm(float *dst, const cr_matrix *matrix, const void *x, const float *gates, float *cell, size_t n,
                     int backwards);
typedef void cr_gru(float *dst, const cr_matrix *matrix, const void *x, const float *gates, const float *bias,
                    const float *h, size_t n, int backwards);

/* CR_MATMUL: dst = init + W X, X of `count` columns, or init + X W^T, X of as many rows, which begin `step` numbers after each
 * other: they may overlap. init NULL: zeros; dst may be init. X as the products above take a vector of all its numbers; `work`
 * has room for it column by column. */
#define CR_MATMUL_WORK(count, columns) (CR_LINES(4 * (size_t)(count)) * ((size_t)(columns) + 2))
typedef void cr_matmul(float *dst, const cr_matrix *matrix, const void *x, const float *init, size_t count, size_t step,
                       void *work);

/* CR_DELTA: dst = init + W x, x as the products above take it; `memory` as the operation has it, zeros at first. */
#define CR_DELTA_WORK(columns) CR_LINES(12 * ((size_t)(columns) + 4))
typedef void cr_delta(float *dst, const cr_matrix *matrix, const void *x, const float *init, float *memory, void *work);

/* CR_DEPTHWISE: `count` taps, a row of `period` numbers each; the vectors under them begin `step` numbers after each other. */
typedef struct cr_taps {
    const float *weights;
    size_t count;
    size_t period;
    size_t step;
} cr_taps;

/* CR_ATTEND: the vectors k and v of the steps. For the first query `count` of them count; for the next ones as many or, `causal`,
 * one more each. */
#define CR_ATTEND_WORK(n, k) (4 * CR_LANES * ((size_t)(n) + (k)))
typedef struct cr_attended {
    cr_rows keys;
    cr_rows values;
    size_t count;
    int causal;
} cr_attended;

typedef struct cr_kernels {
    const char *name;
    /* by type of the matrix; CR_TOEPLITZ_F32 has none of its own, CR_UNPACKED_I4 where it pays */
    cr_affine *affine[CR_KERNEL_TYPES];
    cr_lstm *lstm[CR_KERNEL_TYPES];
    cr_gru *gru[CR_KERNEL_TYPES];
    /* by function and by type: CR_MATRIX_F32, CR_MATRIX_I8 */
    cr_matmul *matmul[CR_MATMUL_COUNT][2];
    /* by type: CR_MATRIX_F32, CR_COLUMNS_I8 */
    cr_delta *delta[CR_TYPE_COUNT];
    /* the rows of the matrix times x; rows that are only padding are left as they are */
    void (*spectral)(float *dst, const cr_spectra *matrix, const float *x, float *work);
    void (*quantize)(void *to, const float *x, float scale, size_t k);
    /* element-wise: dst may be a, or b where k = n; enum cr_unary, enum cr_binary */
    void (*unary)(unsigned fn, float *dst, const float *a, size_t n, float p0, float p1);
    void (*binary)(unsigned fn, float *dst, const float *a, const float *b, size_t n, size_t k);
    /* which[i] != 0 ? a[i] : b[i]; dst may be any of them */
    void (*select)(float *dst, const float *which, const float *a, const float *b, size_t n);
    /* CR_LSTM_CELL and CR_GRU_CELL; dst may be h */
    void (*lstm_cell)(float *dst, const float *gates, float *cell, size_t n);
    void (*gru_cell)(float *dst, const float *from_x, const float *from_h, const float *h, size_t n);
    /* within groups of k: n results, or n numbers in all; dst may be a but in reduce */
    void (*reduce)(unsigned fn, float *dst, const float *a, size_t n, size_t k);
    void (*softmax)(float *dst, const float *a, size_t n, size_t k);
    void (*log_softmax)(float *dst, const float *a, size_t n, size_t k);
    void (*layer_norm)(float *dst, const float *a, size_t n, size_t k, float epsilon);
    /* n numbers; init NULL: none; dst may be init */
    void (*depthwise)(float *dst, const cr_taps *taps, const float *a, const float *init, size_t n);
    /* n numbers for each of `many` queries of k numbers, at most CR_LANES; `work`: CR_ATTEND_WORK bytes */
    void (*attend)(cr_rows dst, cr_rows queries, size_t many, const cr_attended *steps, size_t n, size_t k, float scale,
                   float *work);
    /* one row of an int8 table */
    void (*row_i8)(float *dst, const int8_t *row, float scale, size_t n);
    /* a copy in which every NaN has the same bits */
    void (*output)(float *dst, const float *a, size_t n);
    /* reads `bytes`, a multiple of 256, as the matrix kernels do, and nothing else: to measure what memory gives */
    uint32_t (*read)(const void *memory, size_t bytes);
} cr_kernels;

/* The table of that name, NULL = the best for this processor; NULL where there is none. */
const cr_kernels *cr_find_kernels(const char *name);

/* The names of all tables for this processor, best first; NULL from `number` = their count on. */
const char *cr_isa_name(size_t number);

/* Bytes of this processor's second level of cache; where it does not say, the least that is in use. */
size_t cr_near_cache(void);

#ifdef __cplusplus
}
#endif
#endif
