/* The kernels of cr_kernels.h, written once. The file that includes this one has defined
 *     cr_v  16 floats      cr_w  16 int32      cr_m  16 truth values
 *     cr_x  what a product takes of four inputs            cr_h  sums of i4 products that are not yet put together
 * and the operations on them that are used here: v_*, w_*, i8_*, i4_*, CR_TABLE (the table's name), CR_ISA_NAME, and
 * CR_TILE_PANELS (how many panels of 16 rows one sweep serves where it serves CR_TILE_STEPS vectors; a single panel may meet
 * CR_MAX_STEPS at a time). CR_I8_CHAINS: how many sums of i8 products a single vector has for each row, 2 unless said.
 * CR_HAS_MASKED_LOADS says that it has its own v_load_some, CR_HAS_MASKED_STORES that it has its own v_store_some, CR_HAS_UNSIGNED_PRODUCTS the same of i8_start,
 * i4_start and i4_sum; CR_HAS_UNPACKED_I4 that it has s4_splat, s4_dot and s4_sum, see cr_unpacked.h; CR_HAS_TURNED_COLUMNS and CR_HAS_TURNED_PRODUCTS that it has i8_turn, see cr_delta.h.
 * v_over(a, b) is a > b ? a : b, v_under(a, b) is a < b ? a : b: a NaN in b stays, one in a is dropped. */
#include "cr_format.h"
#include "cr_kernels.h"

enum { CR_TILE_STEPS = 4, CR_MAX_STEPS = 2 * CR_TILE_STEPS, CR_MAX_SUMS = CR_MAX_BLOCK_PANELS * CR_TILE_STEPS };

#ifndef CR_I8_CHAINS
#define CR_I8_CHAINS 2
#endif

#ifndef CR_HAS_UNSIGNED_PRODUCTS
/* Sums of products start from nothing and are what they are. */
CR_INLINE cr_w i8_start(const int32_t *sums)
{
    (void)sums;
    return w_splat(0);
}

CR_INLINE cr_h i4_start(int32_t x)
{
    return w_splat(x);
}

CR_INLINE cr_w i4_sum(cr_h sum)
{
    return sum;
}
#endif

#include "cr_math.h"

/* Reductions -------------------------------------------------------------------------------------------------- */

enum cr_fold { CR_FOLD_SUM, CR_FOLD_MAX, CR_FOLD_MIN };

CR_INLINE cr_v cr_combine(enum cr_fold fold, cr_v a, cr_v b)
{
    return fold == CR_FOLD_SUM ? v_add(a, b) : fold == CR_FOLD_MAX ? cr_max(a, b) : cr_min(a, b);
}

/* The fixed tree that ends a reduction: what lands in the lanes behind the middle is never read. */
CR_INLINE float cr_fold_lanes(enum cr_fold fold, cr_v x)
{
    float lanes[2 * LANES] = {0};
    for (size_t half = LANES / 2; half; half /= 2) {
        v_store(lanes, x);
        x = cr_combine(fold, x, v_load(lanes + half));
    }
    v_store(lanes, x);
    return lanes[0];
}

CR_INLINE float cr_fold_numbers(enum cr_fold fold, const float *a, size_t n)
{
    cr_v infinity = w_bits(w_splat(0x7f800000));
    cr_v best = fold == CR_FOLD_SUM ? v_splat(0.0f) : fold == CR_FOLD_MAX ? cr_negative(infinity) : infinity;
    float lanes[LANES];
    v_store(lanes, best);
    for (size_t i = 0; i < n; i += LANES) best = cr_combine(fold, best, v_load_some(a + i, n - i, lanes[0]));
    best = v_splat(cr_fold_lanes(fold, best));
    v_store(lanes, fold == CR_FOLD_SUM ? best : cr_flush(best));
    return lanes[0];
}

static float cr_sum(const float *a, size_t n)
{
    return cr_fold_numbers(CR_FOLD_SUM, a, n);
}

static float cr_largest(const float *a, size_t n)
{
    return cr_fold_numbers(CR_FOLD_MAX, a, n);
}

static float cr_smallest(const float *a, size_t n)
{
    return cr_fold_numbers(CR_FOLD_MIN, a, n);
}

static float cr_first_largest(const float *a, size_t n)
{
    float largest = cr_largest(a, n);
    size_t i = 0;
    while (i + 1 < n && !(a[i] >= largest) && a[i] == a[i]) i++;
    return (float)i;
}

static void cr_reduce(unsigned fn, float *dst, const float *a, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++, a += k)
        dst[i] = fn == CR_REDUCE_SUM   ? cr_sum(a, k)
                 : fn == CR_REDUCE_MAX ? cr_largest(a, k)
                 : fn == CR_REDUCE_MIN ? cr_smallest(a, k)
                                       : cr_first_largest(a, k);
}

/* Matrices ---------------------------------------------------------------------------------------------------- */

#include "cr_products.h"
#include "cr_matmul.h"
#include "cr_delta.h"
#include "cr_spectral.h"
#include "cr_attend.h"

static void cr_row_i8(float *dst, const int8_t *row, float scale, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(dst + i, v_mul(v_from_whole(w_load_i8(row + i)), v_splat(scale)));
    for (; i < n; i++) dst[i] = (float)row[i] * scale;
}

static void cr_output(float *dst, const float *a, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        cr_v x = v_load_some(a + i, n - i, 0.0f);
        v_store_some(dst + i, v_select(v_is_nan(x), w_bits(w_splat(0x7fc00000)), x), n - i);
    }
}

static uint32_t cr_read(const void *memory, size_t bytes)
{
    const char *at = memory;
    cr_w a = w_splat(0), b = a, c = a, d = a;
    for (const char *end = at + bytes; at < end; at += 256) {
        a = w_xor(a, w_load(at));
        b = w_xor(b, w_load(at + 64));
        c = w_xor(c, w_load(at + 128));
        d = w_xor(d, w_load(at + 192));
    }
    return (uint32_t)w_sum(w_xor(w_xor(a, b), w_xor(c, d)));
}

/* Element-wise ------------------------------------------------------------------------------------------------ */

CR_INLINE cr_v cr_apply_unary(unsigned fn, cr_v x, float p0, float p1)
{
    switch (fn) {
#define CR_CASE(name, number, parameters, kernel) case CR_UNARY_##name: return kernel;
        CR_UNARY_FUNCTIONS(CR_CASE)
#undef CR_CASE
    default: return x;
    }
}

CR_INLINE void cr_map_unary(unsigned fn, float *dst, const float *a, size_t n, float p0, float p1)
{
    for (size_t i = 0; i < n; i += LANES)
        v_store_some(dst + i, cr_apply_unary(fn, v_load_some(a + i, n - i, 0.0f), p0, p1), n - i);
}

/* Each case hands a constant to the loop, which is then compiled for that function alone. */
static void cr_unary(unsigned fn, float *dst, const float *a, size_t n, float p0, float p1)
{
    if (fn == CR_UNARY_COPY) {
        memmove(dst, a, sizeof(float) * n);
        return;
    }
    switch (fn) {
#define CR_CASE(name, number, parameters, kernel) case CR_UNARY_##name: cr_map_unary(number, dst, a, n, p0, p1); break;
        CR_UNARY_FUNCTIONS(CR_CASE)
#undef CR_CASE
    }
}

CR_INLINE cr_v cr_truth(cr_m x)
{
    return v_select(x, v_splat(1.0f), v_splat(0.0f));
}

CR_INLINE cr_v cr_apply_binary(unsigned fn, cr_v a, cr_v b)
{
    switch (fn) {
#define CR_CASE(name, number, kernel) case CR_BINARY_##name: return kernel;
        CR_BINARY_FUNCTIONS(CR_CASE)
#undef CR_CASE
    default: return a;
    }
}

/* k = 1: the same number for all. */
CR_INLINE void cr_map_number(unsigned fn, float *dst, const float *a, float b, size_t n)
{
    for (size_t i = 0; i < n; i += LANES)
        v_store_some(dst + i, cr_apply_binary(fn, v_load_some(a + i, n - i, 0.0f), v_splat(b)), n - i);
}

CR_INLINE void cr_map_binary(unsigned fn, float *dst, const float *a, const float *b, size_t n, size_t k)
{
    if (k == 1) {
        cr_map_number(fn, dst, a, *b, n);
        return;
    }
    for (size_t group = 0; group < n; group += k)
        for (size_t i = 0; i < k; i += LANES) {
            cr_v x = v_load_some(a + group + i, k - i, 0.0f), y = v_load_some(b + i, k - i, 1.0f);
            v_store_some(dst + group + i, cr_apply_binary(fn, x, y), k - i);
        }
}

static void cr_binary(unsigned fn, float *dst, const float *a, const float *b, size_t n, size_t k)
{
    switch (fn) {
#define CR_CASE(name, number, kernel) case CR_BINARY_##name: cr_map_binary(number, dst, a, b, n, k); break;
        CR_BINARY_FUNCTIONS(CR_CASE)
#undef CR_CASE
    }
}

static void cr_select(float *dst, const float *which, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        cr_m no = v_equal(v_load_some(which + i, n - i, 0.0f), v_splat(0.0f));
        v_store_some(dst + i, v_select(no, v_load_some(b + i, n - i, 0.0f), v_load_some(a + i, n - i, 0.0f)), n - i);
    }
}

static void cr_lstm_cell(float *dst, const float *gates, float *cell, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        cr_v y[4];
        CR_UNROLL for (size_t g = 0; g < 4; g++) y[g] = v_load_some(gates + g * n + i, n - i, 0.0f);
        cr_lstm_units(cr_tanh_numbers, y, cell + i, dst + i, n - i);
    }
}

static void cr_gru_cell(float *dst, const float *from_x, const float *from_h, const float *h, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        cr_v x[3], y[3];
        CR_UNROLL for (size_t g = 0; g < 3; g++) {
            x[g] = v_load_some(from_x + g * n + i, n - i, 0.0f);
            y[g] = v_load_some(from_h + g * n + i, n - i, 0.0f);
        }
        cr_v reset = v_add(x[0], y[0]), update = v_add(x[1], y[1]);
        cr_gru_units(cr_tanh_numbers, reset, update, x[2], y[2], h + i, dst + i, n - i);
    }
}

static void cr_depthwise(float *dst, const cr_taps *taps, const float *a, const float *init, size_t n)
{
    size_t period = taps->period;
    for (size_t i = 0; i < period; i += LANES)
        for (size_t at = i; at < n; at += period) {
            size_t left = period - i, first = init ? 0 : 1;
            const float *w = taps->weights + i, *x = a + at;
            cr_v sum = init ? v_load_some(init + at, left, 0.0f)
                            : v_mul(v_load_some(w, left, 0.0f), v_load_some(x, left, 0.0f));
            for (size_t tap = first; tap < taps->count; tap++)
                sum = v_add(sum, v_mul(v_load_some(w + tap * period, left, 0.0f),
                                       v_load_some(x + tap * taps->step, left, 0.0f)));
            v_store_some(dst + at, sum, left);
        }
}

static void cr_softmax(float *dst, const float *a, size_t n, size_t k)
{
    for (size_t group = 0; group < n; group += k) {
        float largest = cr_largest(a + group, k);
        cr_map_number(CR_BINARY_SUB, dst + group, a + group, largest, k);
        cr_map_unary(CR_UNARY_EXP, dst + group, dst + group, k, 0, 0);
        cr_map_number(CR_BINARY_DIV, dst + group, dst + group, cr_sum(dst + group, k), k);
    }
}

static void cr_log_softmax(float *dst, const float *a, size_t n, size_t k)
{
    for (size_t group = 0; group < n; group += k) {
        float largest = cr_largest(a + group, k), lanes[LANES];
        cr_v sum = v_splat(0.0f);
        cr_map_number(CR_BINARY_SUB, dst + group, a + group, largest, k);
        for (size_t i = 0; i < k; i += LANES)
            sum = v_add(sum, cr_exp(v_load_some(dst + group + i, k - i, -1000.0f))); /* e^-1000 is 0 */
        v_store(lanes, cr_log(v_splat(cr_fold_lanes(CR_FOLD_SUM, sum))));
        cr_map_number(CR_BINARY_SUB, dst + group, dst + group, lanes[0], k);
    }
}

static void cr_layer_norm(float *dst, const float *a, size_t n, size_t k, float epsilon)
{
    for (size_t group = 0; group < n; group += k) {
        float mean = cr_sum(a + group, k) / (float)k, lanes[LANES];
        cr_v sum = v_splat(0.0f);
        for (size_t i = 0; i < k; i += LANES) {
            cr_v x = v_sub(v_load_some(a + group + i, k - i, mean), v_splat(mean));
            sum = v_add(sum, v_mul(x, x));
        }
        float variance = cr_fold_lanes(CR_FOLD_SUM, sum) / (float)k;
        v_store(lanes, v_div(v_splat(1.0f), v_sqrt(v_splat(variance + epsilon))));
        cr_map_number(CR_BINARY_SUB, dst + group, a + group, mean, k);
        cr_map_number(CR_BINARY_MUL, dst + group, dst + group, lanes[0], k);
    }
}

const cr_kernels CR_TABLE = {
    .name = CR_ISA_NAME,
    .affine = {CR_BY_TYPE(cr_affine), [CR_ENTRIES_F32] = cr_affine_entries_f32, [CR_ENTRIES_I8] = cr_affine_entries_i8},
    .lstm = {CR_BY_TYPE(cr_lstm)},
    .gru = {CR_BY_TYPE(cr_gru)},
    .matmul = {{cr_left_f32, cr_left_i8}, {cr_right_f32, cr_right_i8}, {cr_right_f32, cr_right_i8}},
    .delta = {[CR_MATRIX_F32] = cr_delta_f32, [CR_COLUMNS_I8] = cr_delta_i8},
    .spectral = cr_spectral,
    .quantize = cr_quantize,
    .unary = cr_unary,
    .binary = cr_binary,
    .select = cr_select,
    .lstm_cell = cr_lstm_cell,
    .gru_cell = cr_gru_cell,
    .reduce = cr_reduce,
    .softmax = cr_softmax,
    .log_softmax = cr_log_softmax,
    .layer_norm = cr_layer_norm,
    .depthwise = cr_depthwise,
    .attend = cr_attend,
    .row_i8 = cr_row_i8,
    .output = cr_output,
    .read = cr_read,
};
