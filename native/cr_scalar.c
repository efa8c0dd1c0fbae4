/* The plain kernels: the definition of correct (the law is in cr_kernels.h). Everything works on 16 lanes held in an
 * array, which compilers turn into whatever vectors the machine has; the results do not depend on it.
 * Compile without contraction of a * b + c, and never with -ffast-math. */
#include <string.h>

#include "cr_format.h"
#include "cr_kernels.h"

#if defined(__GNUC__)
#define CR_INLINE static inline __attribute__((always_inline)) /* loops are compiled anew for each constant function */
#else
#define CR_INLINE static inline
#endif

enum { LANES = CR_LANES };

CR_INLINE void cr_load(float x[LANES], const float *from, size_t n, float absent)
{
    if (n >= LANES) {
        memcpy(x, from, sizeof(float) * LANES);
        return;
    }
    for (size_t j = 0; j < LANES; j++) x[j] = j < n ? from[j] : absent;
}

CR_INLINE void cr_store(float *to, const float x[LANES], size_t n)
{
    if (n >= LANES)
        memcpy(to, x, sizeof(float) * LANES);
    else
        memcpy(to, x, sizeof(float) * n);
}

CR_INLINE float cr_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

CR_INLINE uint32_t cr_to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

CR_INLINE float cr_max(float a, float b)
{
    return a > b || a != a ? a : b;
}

CR_INLINE float cr_min(float a, float b)
{
    return a < b || a != a ? a : b;
}

/* Rational 9/8 approximation, published in google/XNNPACK (BSD-3-Clause); absolute error below 4e-7. */
CR_INLINE float cr_tanh(float x)
{
    x = x < -7.8522667885f ? -7.8522667885f : x;
    x = x > 7.8522667885f ? 7.8522667885f : x;
    float y = x * x;
    float p = 1.4248920266e-08f * y + 2.1235626264e-05f;
    float q = 8.1365948290e-07f * y + 3.3472978976e-04f;
    p = p * y + 3.5330520477e-03f;
    q = q * y + 2.6018999517e-02f;
    p = p * y + 1.3412411511e-01f;
    q = q * y + 4.6745735407e-01f;
    p = p * y + 1.0f;
    q = q * y + 1.0f;
    return x * p / q;
}

CR_INLINE float cr_sigmoid(float x)
{
    return 0.5f + 0.5f * cr_tanh(0.5f * x);
}

/* e^x = 2^n 2^f with n whole and |f| <= 1/2; relative error below 4e-7. Adding 1.5 * 2^23 rounds to a whole number,
 * which then stands in the low bits. */
CR_INLINE float cr_exp(float x)
{
    float clamped = x < -87.0f ? -87.0f : x;
    clamped = clamped > 89.0f ? 89.0f : clamped;
    float shifted = clamped * 1.44269504f + 12582912.0f;
    float n = shifted - 12582912.0f;
    uint32_t whole = cr_to_bits(shifted) - 0x4b400000u;
    float f = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    f = f * 1.44269504f;
    float p = 0.00132745639f * f + 0.00967196317f;
    p = p * f + 0.0555067867f;
    p = p * f + 0.240222353f;
    p = p * f + 0.693147061f;
    p = p * f + 1.0f;
    /* 2^n in two factors, for 2^128 is no float */
    uint32_t half = (whole + 256u) / 2u - 128u;
    p = p * cr_from_bits((half + 127u) << 23) * cr_from_bits((whole - half + 127u) << 23);
    p = x < -87.0f ? 0.0f : p;
    return x != x ? x : p;
}

/* The mantissa in [sqrt(1/2), sqrt(2)) by a polynomial (Cephes logf, S. Moshier); error below 3e-7 + 2e-7 |log x|. */
CR_INLINE float cr_log(float x)
{
    uint32_t bits = cr_to_bits(x) - 0x3f3504f3u;
    float e = (float)((int32_t)bits >> 23);
    float m = cr_from_bits((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float z = m * m;
    float p = 7.0376836292e-2f * m + -1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m + -1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m + -1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m + -2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z + e * -2.12194440e-4f;
    p = p - 0.5f * z;
    p = m + p + e * 0.693359375f;
    p = x < 1.17549435e-38f ? cr_from_bits(0xff800000u) : p; /* 0, and what is flushed to it */
    p = x > 3.40282347e38f ? x : p;
    p = x < 0.0f ? cr_from_bits(0x7fc00000u) : p;
    return x != x ? x : p;
}

/* Abramowitz and Stegun 7.1.26; absolute error below 1e-6. */
CR_INLINE float cr_erf(float x)
{
    float size = x < 0.0f ? -x : x;
    float t = 1.0f / (1.0f + 0.3275911f * size);
    float p = 1.061405429f * t + -1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t + -0.284496736f;
    p = p * t + 0.254829592f;
    float y = 1.0f - p * t * cr_exp(-(size * size));
    return x < 0.0f ? -y : y;
}

/* The fixed tree that ends a reduction over lanes. */
CR_INLINE float cr_sum_lanes(float x[LANES])
{
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t j = 0; j < half; j++) x[j] += x[j + half];
    return x[0];
}

CR_INLINE float cr_max_lanes(float x[LANES])
{
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t j = 0; j < half; j++) x[j] = cr_max(x[j], x[j + half]);
    return x[0];
}

CR_INLINE float cr_min_lanes(float x[LANES])
{
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t j = 0; j < half; j++) x[j] = cr_min(x[j], x[j + half]);
    return x[0];
}

static float cr_sum(const float *a, size_t n)
{
    float sum[LANES] = {0}, x[LANES];
    for (size_t i = 0; i < n; i += LANES) {
        cr_load(x, a + i, n - i, 0.0f);
        for (size_t j = 0; j < LANES; j++) sum[j] += x[j];
    }
    return cr_sum_lanes(sum);
}

static float cr_largest(const float *a, size_t n)
{
    float infinity = cr_from_bits(0x7f800000u), best[LANES], x[LANES];
    for (size_t j = 0; j < LANES; j++) best[j] = -infinity;
    for (size_t i = 0; i < n; i += LANES) {
        cr_load(x, a + i, n - i, -infinity);
        for (size_t j = 0; j < LANES; j++) best[j] = cr_max(best[j], x[j]);
    }
    return cr_max_lanes(best);
}

static float cr_smallest(const float *a, size_t n)
{
    float infinity = cr_from_bits(0x7f800000u), best[LANES], x[LANES];
    for (size_t j = 0; j < LANES; j++) best[j] = infinity;
    for (size_t i = 0; i < n; i += LANES) {
        cr_load(x, a + i, n - i, infinity);
        for (size_t j = 0; j < LANES; j++) best[j] = cr_min(best[j], x[j]);
    }
    return cr_min_lanes(best);
}

/* Matrices ---------------------------------------------------------------------------------------------------- */

/* Four arrays of four: each stays in one register of a machine with 128 bits, where one array of 16 would not. */
static void cr_affine_f32(float *dst, const float *matrix, const float *x, const float *init, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i += LANES) {
        float sum[LANES] = {0}, s0[4], s1[4], s2[4], s3[4];
        if (init) cr_load(sum, init + i, n - i, 0.0f);
        memcpy(s0, sum, sizeof s0);
        memcpy(s1, sum + 4, sizeof s1);
        memcpy(s2, sum + 8, sizeof s2);
        memcpy(s3, sum + 12, sizeof s3);
        for (size_t j = 0; j < k; j++, matrix += LANES) {
            float xj = x[j];
            for (size_t r = 0; r < 4; r++) s0[r] += matrix[r] * xj;
            for (size_t r = 0; r < 4; r++) s1[r] += matrix[4 + r] * xj;
            for (size_t r = 0; r < 4; r++) s2[r] += matrix[8 + r] * xj;
            for (size_t r = 0; r < 4; r++) s3[r] += matrix[12 + r] * xj;
        }
        memcpy(sum, s0, sizeof s0);
        memcpy(sum + 4, s1, sizeof s1);
        memcpy(sum + 8, s2, sizeof s2);
        memcpy(sum + 12, s3, sizeof s3);
        cr_store(dst + i, sum, n - i);
    }
}

/* The form of a quantised vector here: for each four inputs, eight 16-bit lanes x0 x2 x0 x2 ..., then x1 x3 x1 x3 ...
 * A line of weights is 32 pairs of bytes; each pair's products are summed in 16 bits, where |sum| <= 2 * 127 * 127, and
 * two such sums are the halves of a row's 32-bit word. Measured at baseline SSE2: 17e9 products a second at 3.7 GHz. */
static float cr_quantize(void *quantized, const float *x, float scale, size_t k)
{
    int16_t *to = quantized;
    if (scale == 0) {
        float largest[LANES] = {0}, v[LANES];
        for (size_t i = 0; i < k; i += LANES) {
            cr_load(v, x + i, k - i, 0.0f);
            for (size_t j = 0; j < LANES; j++) {
                float size = v[j] < 0.0f ? -v[j] : v[j];
                size = size > 3.40282347e38f ? 3.40282347e38f : size;
                largest[j] = size > largest[j] ? size : largest[j];
            }
        }
        scale = cr_max_lanes(largest) / 127.0f;
        scale = scale < 1e-30f / 127.0f ? 0.0f : scale;
    }
    float inverse = scale == 0 ? 0.0f : 1.0f / scale;
    for (size_t i = 0; i < k; i += LANES, to += 64) {
        float v[LANES];
        int16_t q[LANES];
        cr_load(v, x + i, k - i, 0.0f);
        for (size_t j = 0; j < LANES; j++) {
            float s = v[j] * inverse;
            s = s != s ? 0.0f : s;
            s = s < -127.0f ? -127.0f : s;
            s = s > 127.0f ? 127.0f : s;
            q[j] = (int16_t)(int32_t)((s + 12582912.0f) - 12582912.0f);
        }
        for (size_t group = 0; group < 4; group++) {
            const uint32_t even = (uint16_t)q[4 * group] | (uint32_t)(uint16_t)q[4 * group + 2] << 16;
            const uint32_t odd = (uint16_t)q[4 * group + 1] | (uint32_t)(uint16_t)q[4 * group + 3] << 16;
            const uint32_t words[8] = {even, even, even, even, odd, odd, odd, odd};
            memcpy(to + 16 * group, words, sizeof words);
        }
    }
    return scale;
}

CR_INLINE void cr_add_products(int32_t sum[4], const int8_t *weights, const int16_t *x)
{
    int16_t half[8];
    int32_t word[4];
    for (size_t j = 0; j < 8; j++) {
        int16_t pair;
        memcpy(&pair, weights + 2 * j, sizeof pair);
        int16_t low = (int16_t)((uint16_t)pair << 8);
        half[j] = (int16_t)((low >> 8) * x[j] + (pair >> 8) * x[8 + j]);
    }
    memcpy(word, half, sizeof word);
    for (size_t r = 0; r < 4; r++) sum[r] += ((int32_t)((uint32_t)word[r] << 16) >> 16) + (word[r] >> 16);
}

static void cr_affine_i8(float *dst, const int8_t *matrix, const float *row_scale, const void *quantized, float x_scale,
                         const float *init, size_t n, size_t k)
{
    size_t groups = (k + 3) / 4;
    for (size_t i = 0; i < n; i += LANES) {
        int32_t sum[LANES], s0[4] = {0}, s1[4] = {0}, s2[4] = {0}, s3[4] = {0};
        const int16_t *x = quantized;
        for (size_t g = 0; g < groups; g++, x += 16, matrix += 64) {
            cr_add_products(s0, matrix, x);
            cr_add_products(s1, matrix + 16, x);
            cr_add_products(s2, matrix + 32, x);
            cr_add_products(s3, matrix + 48, x);
        }
        memcpy(sum, s0, sizeof s0);
        memcpy(sum + 4, s1, sizeof s1);
        memcpy(sum + 8, s2, sizeof s2);
        memcpy(sum + 12, s3, sizeof s3);
        float y[LANES] = {0}, scale[LANES];
        if (init) cr_load(y, init + i, n - i, 0.0f);
        cr_load(scale, row_scale + i, n - i, 0.0f);
        for (size_t r = 0; r < LANES; r++) y[r] += (float)sum[r] * (scale[r] * x_scale);
        cr_store(dst + i, y, n - i);
    }
}

/* Tables ------------------------------------------------------------------------------------------------------ */

static void cr_row_i8(float *dst, const int8_t *row, float scale, size_t n)
{
    for (size_t i = 0; i < n; i++) dst[i] = (float)row[i] * scale;
}

static void cr_row_f16(float *dst, const uint16_t *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(row[i] & 0x8000u) << 16;
        uint32_t rest = (uint32_t)(row[i] & 0x7fffu) << 13;
        /* exponent 31: infinity and NaN; 0: zero and subnormals, whose mantissa counts in 2^-24 */
        uint32_t normal = rest >= 0x0f800000u ? rest + 0x70000000u : rest + 0x38000000u;
        uint32_t small = cr_to_bits((float)(row[i] & 0x3ffu) * 0x1p-24f);
        dst[i] = cr_from_bits(sign | (rest < 0x00800000u ? small : normal));
    }
}

/* Element-wise ------------------------------------------------------------------------------------------------ */

CR_INLINE float cr_apply_unary(unsigned fn, float x, float p0, float p1)
{
    switch (fn) {
    case CR_SCALE_SHIFT: return p0 * x + p1;
    case CR_ABS: return cr_from_bits(cr_to_bits(x) & 0x7fffffffu);
    case CR_CLAMP: x = x < p0 ? p0 : x; return x > p1 ? p1 : x;
    case CR_RECIPROCAL: return 1.0f / x;
    case CR_SQRT: return __builtin_sqrtf(x);
    case CR_EXP: return cr_exp(x);
    case CR_LOG: return cr_log(x);
    case CR_ERF: return cr_erf(x);
    case CR_TANH: return cr_tanh(x);
    case CR_SIGMOID: return cr_sigmoid(x);
    default: return x;
    }
}

CR_INLINE void cr_map_unary(unsigned fn, float *dst, const float *a, size_t n, float p0, float p1)
{
    for (size_t i = 0; i < n; i += LANES) {
        float x[LANES];
        cr_load(x, a + i, n - i, 0.0f);
        for (size_t j = 0; j < LANES; j++) x[j] = cr_apply_unary(fn, x[j], p0, p1);
        cr_store(dst + i, x, n - i);
    }
}

/* Each case hands a constant to the loop, which is then compiled for that function alone. */
static void cr_unary(unsigned fn, float *dst, const float *a, size_t n, float p0, float p1)
{
    switch (fn) {
    case CR_SCALE_SHIFT: cr_map_unary(CR_SCALE_SHIFT, dst, a, n, p0, p1); break;
    case CR_ABS: cr_map_unary(CR_ABS, dst, a, n, p0, p1); break;
    case CR_CLAMP: cr_map_unary(CR_CLAMP, dst, a, n, p0, p1); break;
    case CR_RECIPROCAL: cr_map_unary(CR_RECIPROCAL, dst, a, n, p0, p1); break;
    case CR_SQRT: cr_map_unary(CR_SQRT, dst, a, n, p0, p1); break;
    case CR_EXP: cr_map_unary(CR_EXP, dst, a, n, p0, p1); break;
    case CR_LOG: cr_map_unary(CR_LOG, dst, a, n, p0, p1); break;
    case CR_ERF: cr_map_unary(CR_ERF, dst, a, n, p0, p1); break;
    case CR_TANH: cr_map_unary(CR_TANH, dst, a, n, p0, p1); break;
    case CR_SIGMOID: cr_map_unary(CR_SIGMOID, dst, a, n, p0, p1); break;
    default: memmove(dst, a, sizeof(float) * n);
    }
}

CR_INLINE float cr_apply_binary(unsigned fn, float a, float b)
{
    switch (fn) {
    case CR_ADD: return a + b;
    case CR_SUB: return a - b;
    case CR_MUL: return a * b;
    case CR_DIV: return a / b;
    case CR_MAX: return cr_max(a, b);
    default: return cr_min(a, b);
    }
}

CR_INLINE void cr_map_binary(unsigned fn, float *dst, const float *a, const float *b, size_t n, size_t k)
{
    for (size_t group = 0; group < n; group += k)
        for (size_t i = 0; i < k; i += LANES) {
            float x[LANES], y[LANES];
            cr_load(x, a + group + i, k - i, 0.0f);
            cr_load(y, b + i, k - i, 1.0f);
            for (size_t j = 0; j < LANES; j++) x[j] = cr_apply_binary(fn, x[j], y[j]);
            cr_store(dst + group + i, x, k - i);
        }
}

/* k = 1: the same number for all. */
CR_INLINE void cr_map_number(unsigned fn, float *dst, const float *a, float b, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        float x[LANES];
        cr_load(x, a + i, n - i, 0.0f);
        for (size_t j = 0; j < LANES; j++) x[j] = cr_apply_binary(fn, x[j], b);
        cr_store(dst + i, x, n - i);
    }
}

static void cr_binary(unsigned fn, float *dst, const float *a, const float *b, size_t n, size_t k)
{
    if (k == 1) {
        switch (fn) {
        case CR_ADD: cr_map_number(CR_ADD, dst, a, *b, n); break;
        case CR_SUB: cr_map_number(CR_SUB, dst, a, *b, n); break;
        case CR_MUL: cr_map_number(CR_MUL, dst, a, *b, n); break;
        case CR_DIV: cr_map_number(CR_DIV, dst, a, *b, n); break;
        case CR_MAX: cr_map_number(CR_MAX, dst, a, *b, n); break;
        case CR_MIN: cr_map_number(CR_MIN, dst, a, *b, n); break;
        }
        return;
    }
    switch (fn) {
    case CR_ADD: cr_map_binary(CR_ADD, dst, a, b, n, k); break;
    case CR_SUB: cr_map_binary(CR_SUB, dst, a, b, n, k); break;
    case CR_MUL: cr_map_binary(CR_MUL, dst, a, b, n, k); break;
    case CR_DIV: cr_map_binary(CR_DIV, dst, a, b, n, k); break;
    case CR_MAX: cr_map_binary(CR_MAX, dst, a, b, n, k); break;
    case CR_MIN: cr_map_binary(CR_MIN, dst, a, b, n, k); break;
    }
}

/* Groups ------------------------------------------------------------------------------------------------------ */

static void cr_reduce(unsigned fn, float *dst, const float *a, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++, a += k)
        dst[i] = fn == CR_SUM ? cr_sum(a, k) : fn == CR_REDUCE_MAX ? cr_largest(a, k) : cr_smallest(a, k);
}

static void cr_softmax(float *dst, const float *a, size_t n, size_t k)
{
    for (size_t group = 0; group < n; group += k) {
        float largest = cr_largest(a + group, k);
        cr_map_number(CR_SUB, dst + group, a + group, largest, k);
        cr_map_unary(CR_EXP, dst + group, dst + group, k, 0, 0);
        cr_map_number(CR_DIV, dst + group, dst + group, cr_sum(dst + group, k), k);
    }
}

static void cr_log_softmax(float *dst, const float *a, size_t n, size_t k)
{
    for (size_t group = 0; group < n; group += k) {
        float largest = cr_largest(a + group, k), sum[LANES] = {0};
        cr_map_number(CR_SUB, dst + group, a + group, largest, k);
        for (size_t i = 0; i < k; i += LANES) {
            float x[LANES];
            cr_load(x, dst + group + i, k - i, cr_from_bits(0xff800000u));
            for (size_t j = 0; j < LANES; j++) sum[j] += cr_exp(x[j]);
        }
        cr_map_number(CR_SUB, dst + group, dst + group, cr_log(cr_sum_lanes(sum)), k);
    }
}

static void cr_layer_norm(float *dst, const float *a, size_t n, size_t k, float epsilon)
{
    for (size_t group = 0; group < n; group += k) {
        float mean = cr_sum(a + group, k) / (float)k, sum[LANES] = {0};
        for (size_t i = 0; i < k; i += LANES) {
            float x[LANES];
            cr_load(x, a + group + i, k - i, mean);
            for (size_t j = 0; j < LANES; j++) sum[j] += (x[j] - mean) * (x[j] - mean);
        }
        float factor = 1.0f / __builtin_sqrtf(cr_sum_lanes(sum) / (float)k + epsilon);
        cr_map_number(CR_SUB, dst + group, a + group, mean, k);
        cr_map_number(CR_MUL, dst + group, dst + group, factor, k);
    }
}

/* Cells ------------------------------------------------------------------------------------------------------- */

static void cr_lstm(float *dst, const float *gates, float *cell, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        float in[LANES], forget[LANES], candidate[LANES], out[LANES], c[LANES];
        cr_load(in, gates + i, n - i, 0.0f);
        cr_load(forget, gates + n + i, n - i, 0.0f);
        cr_load(candidate, gates + 2 * n + i, n - i, 0.0f);
        cr_load(out, gates + 3 * n + i, n - i, 0.0f);
        cr_load(c, cell + i, n - i, 0.0f);
        for (size_t j = 0; j < LANES; j++) {
            c[j] = cr_sigmoid(forget[j]) * c[j] + cr_sigmoid(in[j]) * cr_tanh(candidate[j]);
            out[j] = cr_sigmoid(out[j]) * cr_tanh(c[j]);
        }
        cr_store(cell + i, c, n - i);
        cr_store(dst + i, out, n - i);
    }
}

static void cr_gru(float *dst, const float *from_x, const float *from_h, const float *h, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        float xr[LANES], xz[LANES], xn[LANES], hr[LANES], hz[LANES], hn[LANES], y[LANES];
        cr_load(xr, from_x + i, n - i, 0.0f);
        cr_load(xz, from_x + n + i, n - i, 0.0f);
        cr_load(xn, from_x + 2 * n + i, n - i, 0.0f);
        cr_load(hr, from_h + i, n - i, 0.0f);
        cr_load(hz, from_h + n + i, n - i, 0.0f);
        cr_load(hn, from_h + 2 * n + i, n - i, 0.0f);
        cr_load(y, h + i, n - i, 0.0f);
        for (size_t j = 0; j < LANES; j++) {
            float update = cr_sigmoid(xz[j] + hz[j]);
            float candidate = cr_tanh(xn[j] + cr_sigmoid(xr[j] + hr[j]) * hn[j]);
            y[j] = (1.0f - update) * candidate + update * y[j];
        }
        cr_store(dst + i, y, n - i);
    }
}

const cr_kernels cr_kernels_scalar = {
    .name = "scalar",
    .affine_f32 = cr_affine_f32,
    .affine_i8 = cr_affine_i8,
    .quantize = cr_quantize,
    .unary = cr_unary,
    .binary = cr_binary,
    .reduce = cr_reduce,
    .softmax = cr_softmax,
    .log_softmax = cr_log_softmax,
    .layer_norm = cr_layer_norm,
    .lstm = cr_lstm,
    .gru = cr_gru,
    .row_i8 = cr_row_i8,
    .row_f16 = cr_row_f16,
};
