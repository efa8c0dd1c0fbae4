/* The kernels: everything that computes. One table per instruction set; cr_scalar.c defines what is correct, and every
 * other table gives the same bits. That is possible because of this law:
 *
 * - Only add, subtract, multiply, divide, square root, comparison and exact conversions, each rounded once, unfused, in
 *   round-to-nearest-even with subnormals flushed. No library functions, no estimates.
 * - A vector is 16 lanes, on every machine. Element-wise work is per lane, so the width of registers cannot matter.
 * - A float32 matrix row is one sequential chain: acc = init, then acc = acc + w[j] * x[j] for j = 0, 1, ...
 * - An int8 matrix row is an exact int32 sum, in any order, then init + (float)sum * (row_scale * x_scale).
 * - A sum over a group: lane j adds entries j, j+16, j+32, ... in that order, starting from 0; then lane j += lane j+8,
 *   then j+4, j+2, j+1. Maximum and minimum go the same way, starting from -infinity or infinity.
 * - max(a, b) is a where a > b or a is NaN, else b; min likewise: a NaN is never lost.
 * - Quantising: x * (1 / scale), clamped to [-127, 127], rounded to nearest even, NaN becomes 0. The scale is p0, or
 *   absmax / 127 where absmax skips NaN and takes infinity as the largest float; absmax < 1e-30 gives all zeros.
 *
 * Kernels trust their arguments: cr_load.c has verified them. Operands need no alignment, matrices lie at lines. */
#ifndef CR_KERNELS_H
#define CR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes that a quantised vector of k numbers may take, in whatever form a table's kernels like best. */
#define CR_QUANTIZED_BYTES(k) ((((size_t)(k) + 15) / 16) * 128)

typedef struct cr_kernels {
    const char *name;
    /* dst[n] = init[n] (NULL: zeros) + W x[k]; dst may be init */
    void (*affine_f32)(float *dst, const float *matrix, const float *x, const float *init, size_t n, size_t k);
    /* the same, x from quantize, which returns the scale of x */
    void (*affine_i8)(float *dst, const int8_t *matrix, const float *row_scale, const void *quantized, float x_scale,
                      const float *init, size_t n, size_t k);
    float (*quantize)(void *quantized, const float *x, float scale, size_t k);
    /* element-wise: dst may be a, or b where k = n; enum cr_unary, enum cr_binary */
    void (*unary)(unsigned fn, float *dst, const float *a, size_t n, float p0, float p1);
    void (*binary)(unsigned fn, float *dst, const float *a, const float *b, size_t n, size_t k);
    /* within groups of k: n results, or n numbers in all; dst may be a but in reduce */
    void (*reduce)(unsigned fn, float *dst, const float *a, size_t n, size_t k);
    void (*softmax)(float *dst, const float *a, size_t n, size_t k);
    void (*log_softmax)(float *dst, const float *a, size_t n, size_t k);
    void (*layer_norm)(float *dst, const float *a, size_t n, size_t k, float epsilon);
    /* the cell updates of CR_LSTM and CR_GRU; dst may be h */
    void (*lstm)(float *dst, const float *gates, float *cell, size_t n);
    void (*gru)(float *dst, const float *from_x, const float *from_h, const float *h, size_t n);
    /* one row of an int8 or float16 table */
    void (*row_i8)(float *dst, const int8_t *row, float scale, size_t n);
    void (*row_f16)(float *dst, const uint16_t *row, size_t n);
} cr_kernels;

extern const cr_kernels cr_kernels_scalar;

/* The table of that name, NULL = the best for this processor; NULL where there is none. */
const cr_kernels *cr_find_kernels(const char *name);

#ifdef __cplusplus
}
#endif
#endif
