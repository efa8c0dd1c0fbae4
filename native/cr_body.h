/* The kernels of cr_kernels.h, written once. The file that includes this one has defined
 *     cr_v  16 floats      cr_w  16 int32      cr_m  16 truth values
 *     cr_x  what a product takes of four inputs            cr_h  sums of i4 products that are not yet put together
 * and the operations on them that are used here: v_*, w_*, i8_*, i4_*, CR_TABLE (the table's name), CR_ISA_NAME, and
 * CR_TILE_PANELS (how many panels of 16 rows one sweep serves where it serves CR_TILE_STEPS vectors).
 * CR_HAS_MASKS says that it has its own v_load_some and v_store_some, CR_HAS_UNSIGNED_PRODUCTS the same of i8_start,
 * i4_start and i4_sum.
 * v_over(a, b) is a > b ? a : b, v_under(a, b) is a < b ? a : b: a NaN in b stays, one in a is dropped. */
#include <string.h>

#include "cr_format.h"
#include "cr_kernels.h"

enum { LANES = CR_LANES, CR_TILE_STEPS = 4 };

#ifndef CR_HAS_MASKS
/* These leave the memory behind the first n >= 1 lanes alone. */
CR_INLINE cr_v v_load_some(const float *from, size_t n, float absent)
{
    float lanes[LANES];
    if (n >= LANES) return v_load(from);
    v_store(lanes, v_splat(absent));
    memcpy(lanes, from, sizeof(float) * n);
    return v_load(lanes);
}

CR_INLINE void v_store_some(float *to, cr_v x, size_t n)
{
    float lanes[LANES];
    v_store(n < LANES ? lanes : to, x);
    if (n < LANES) memcpy(to, lanes, sizeof(float) * n);
}
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

/* Functions --------------------------------------------------------------------------------------------------- */

CR_INLINE cr_v cr_max(cr_v a, cr_v b)
{
    return v_select(v_is_nan(a), a, v_over(a, b));
}

CR_INLINE cr_v cr_min(cr_v a, cr_v b)
{
    return v_select(v_is_nan(a), a, v_under(a, b));
}

CR_INLINE cr_v cr_clamp(cr_v x, float low, float high)
{
    return v_under(v_splat(high), v_over(v_splat(low), x));
}

/* p * x + c, rounded twice */
CR_INLINE cr_v cr_horner(cr_v p, cr_v x, float c)
{
    return v_add(v_mul(p, x), v_splat(c));
}

/* Rational 9/8 approximation of tanh, published in google/XNNPACK (BSD-3-Clause); absolute error below 4e-7. */
static const float cr_tanh_numbers[] = {
    -7.8522667885f,    7.8522667885f,     1.4248920266e-08f, 8.1365948290e-07f, 2.1235626264e-05f, 3.3472978976e-04f,
    3.5330520477e-03f, 2.6018999517e-02f, 1.3412411511e-01f, 4.6745735407e-01f, 1.0f,              0.5f,
};

/* `k`: cr_tanh_numbers. */
CR_INLINE cr_v cr_tanh_by(const float *k, cr_v x)
{
    x = cr_clamp(x, k[0], k[1]);
    cr_v y = v_mul(x, x);
    cr_v p = cr_horner(v_splat(k[2]), y, k[4]);
    cr_v q = cr_horner(v_splat(k[3]), y, k[5]);
    p = cr_horner(p, y, k[6]);
    q = cr_horner(q, y, k[7]);
    p = cr_horner(p, y, k[8]);
    q = cr_horner(q, y, k[9]);
    p = cr_horner(p, y, k[10]);
    q = cr_horner(q, y, k[10]);
    return v_div(v_mul(x, p), q);
}

CR_INLINE cr_v cr_sigmoid_by(const float *k, cr_v x)
{
    cr_v half = v_splat(k[11]);
    return v_add(half, v_mul(half, cr_tanh_by(k, v_mul(half, x))));
}

CR_INLINE cr_v cr_tanh(cr_v x)
{
    return cr_tanh_by(cr_tanh_numbers, x);
}

CR_INLINE cr_v cr_sigmoid(cr_v x)
{
    return cr_sigmoid_by(cr_tanh_numbers, x);
}

/* e^x = 2^n 2^f with n whole and |f| <= 1/2; relative error below 4e-7. Adding 1.5 * 2^23 rounds to a whole number,
 * which then stands in the low bits. */
CR_INLINE cr_v cr_exp(cr_v x)
{
    cr_v clamped = cr_clamp(x, -87.0f, 89.0f);
    cr_v shifted = cr_horner(clamped, v_splat(1.44269504f), 12582912.0f);
    cr_v n = v_sub(shifted, v_splat(12582912.0f));
    cr_w whole = w_sub(v_bits(shifted), w_splat(0x4b400000));
    cr_v f = v_sub(v_sub(clamped, v_mul(n, v_splat(0.693359375f))), v_mul(n, v_splat(-2.12194440e-4f)));
    f = v_mul(f, v_splat(1.44269504f));
    cr_v p = cr_horner(v_splat(0.00132745639f), f, 0.00967196317f);
    p = cr_horner(p, f, 0.0555067867f);
    p = cr_horner(p, f, 0.240222353f);
    p = cr_horner(p, f, 0.693147061f);
    p = cr_horner(p, f, 1.0f);
    /* 2^n in two factors, for 2^128 is no float */
    cr_w half = w_sub(w_shift_right(w_add(whole, w_splat(256)), 1), w_splat(128));
    p = v_mul(p, w_bits(w_shift_left(w_add(half, w_splat(127)), 23)));
    p = v_mul(p, w_bits(w_shift_left(w_add(w_sub(whole, half), w_splat(127)), 23)));
    p = v_select(v_less(x, v_splat(-87.0f)), v_splat(0.0f), p);
    return v_select(v_is_nan(x), x, p);
}

/* The mantissa in [sqrt(1/2), sqrt(2)) by a polynomial (Cephes logf, S. Moshier); error below 3e-7 + 2e-7 |log x|. */
CR_INLINE cr_v cr_log(cr_v x)
{
    cr_w bits = w_sub(v_bits(x), w_splat(0x3f3504f3));
    cr_v e = v_from_whole(w_shift_right_signed(bits, 23));
    cr_v m = v_sub(w_bits(w_add(w_and(bits, w_splat(0x007fffff)), w_splat(0x3f3504f3))), v_splat(1.0f));
    cr_v z = v_mul(m, m);
    cr_v p = cr_horner(v_splat(7.0376836292e-2f), m, -1.1514610310e-1f);
    p = cr_horner(p, m, 1.1676998740e-1f);
    p = cr_horner(p, m, -1.2420140846e-1f);
    p = cr_horner(p, m, 1.4249322787e-1f);
    p = cr_horner(p, m, -1.6668057665e-1f);
    p = cr_horner(p, m, 2.0000714765e-1f);
    p = cr_horner(p, m, -2.4999993993e-1f);
    p = cr_horner(p, m, 3.3333331174e-1f);
    p = v_add(v_mul(v_mul(p, m), z), v_mul(e, v_splat(-2.12194440e-4f)));
    p = v_sub(p, v_mul(v_splat(0.5f), z));
    p = v_add(v_add(m, p), v_mul(e, v_splat(0.693359375f)));
    p = v_select(v_less(x, v_splat(1.17549435e-38f)), w_bits(w_splat((int32_t)0xff800000)), p); /* 0, or flushed to it */
    p = v_select(v_less(v_splat(3.40282347e38f), x), x, p);
    p = v_select(v_less(x, v_splat(0.0f)), w_bits(w_splat(0x7fc00000)), p);
    return v_select(v_is_nan(x), x, p);
}

CR_INLINE cr_v cr_abs(cr_v x)
{
    return w_bits(w_and(v_bits(x), w_splat(0x7fffffff)));
}

CR_INLINE cr_v cr_negative(cr_v x)
{
    return v_sub(v_splat(-0.0f), x);
}

/* Abramowitz and Stegun 7.1.26; absolute error below 1e-6. */
CR_INLINE cr_v cr_erf(cr_v x)
{
    cr_m below = v_less(x, v_splat(0.0f));
    cr_v size = v_select(below, cr_negative(x), x);
    cr_v t = v_div(v_splat(1.0f), v_add(v_splat(1.0f), v_mul(v_splat(0.3275911f), size)));
    cr_v p = cr_horner(v_splat(1.061405429f), t, -1.453152027f);
    p = cr_horner(p, t, 1.421413741f);
    p = cr_horner(p, t, -0.284496736f);
    p = cr_horner(p, t, 0.254829592f);
    cr_v y = v_sub(v_splat(1.0f), v_mul(v_mul(p, t), cr_exp(cr_negative(v_mul(size, size)))));
    return v_select(below, cr_negative(y), y);
}

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
    return cr_fold_lanes(fold, best);
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
    while (a[i] != largest && a[i] == a[i]) i++;
    return (float)i;
}

static void cr_reduce(unsigned fn, float *dst, const float *a, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++, a += k)
        dst[i] = fn == CR_SUM          ? cr_sum(a, k)
                 : fn == CR_REDUCE_MAX ? cr_largest(a, k)
                 : fn == CR_REDUCE_MIN ? cr_smallest(a, k)
                                       : cr_first_largest(a, k);
}

/* Matrices ---------------------------------------------------------------------------------------------------- */

static void cr_quantize(void *to, const float *x, float scale, size_t k)
{
    int8_t *numbers = (int8_t *)to + 64;
    int32_t *sums = (int32_t *)(void *)((char *)to + CR_QUANTIZED_SUMS(k));
    if (scale == 0) {
        cr_v largest = v_splat(0.0f);
        for (size_t i = 0; i < k; i += LANES)
            largest = v_over(v_under(v_splat(3.40282347e38f), cr_abs(v_load_some(x + i, k - i, 0.0f))), largest);
        scale = cr_fold_lanes(CR_FOLD_MAX, largest) / 127.0f;
        scale = scale < 1e-30f / 127.0f ? 0.0f : scale;
    }
    memcpy(to, &scale, sizeof scale);
    cr_v inverse = v_splat(scale == 0 ? 0.0f : 1.0f / scale);
    for (size_t i = 0; i < k;) {
        cr_w sum = w_splat(0);
        for (size_t end = i + CR_GROUP; i < end; i += LANES) {
            if (i >= k) {
                memset(numbers + i, 0, LANES);
                continue;
            }
            cr_v s = v_mul(v_load_some(x + i, k - i, 0.0f), inverse);
            s = cr_clamp(v_select(v_is_nan(s), v_splat(0.0f), s), -127.0f, 127.0f);
            cr_w whole = v_to_whole(v_sub(v_add(s, v_splat(12582912.0f)), v_splat(12582912.0f)));
            w_store_i8(numbers + i, whole);
            sum = w_add(sum, whole);
        }
        *sums++ = w_sum(sum);
    }
}

CR_INLINE float cr_scale_of(const void *quantized)
{
    float scale;
    memcpy(&scale, quantized, sizeof scale);
    return scale;
}

CR_INLINE const char *cr_step_of(cr_rows rows, size_t step)
{
    return (const char *)rows.first + step * rows.stride;
}

/* The bytes of the lines of one panel. */
CR_INLINE size_t cr_panel_bytes(unsigned type, size_t columns)
{
    if (type == CR_MATRIX_F32) return 64 * columns;
    if (type == CR_MATRIX_I8) return 64 * ((columns + 3) / 4);
    return 64 * ((columns + 7) / 8);
}

CR_INLINE size_t cr_group_count(unsigned type, size_t columns)
{
    return type == CR_MATRIX_I4 ? (columns + CR_GROUP - 1) / CR_GROUP : 0;
}

/* What follows are the sweeps: `panels` panels from `lines` on, out of a block of `block`, times `steps` vectors. Sizes
 * are constants where these are inlined, so that all sums stay in registers. float32 sums go on from y; those of whole
 * numbers take no register for where they start, and leave W x. */

CR_INLINE void cr_sweep_f32(cr_v *y, const float *lines, size_t block, size_t panels, size_t columns, cr_rows x,
                            size_t steps)
{
    const float *in[CR_TILE_STEPS];
    cr_v sum[CR_MAX_BLOCK_PANELS * CR_TILE_STEPS];
    CR_UNROLL for (size_t s = 0; s < steps; s++) in[s] = (const float *)(const void *)cr_step_of(x, s);
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) sum[i] = y[i];
    for (size_t j = 0; j < columns; j++, lines += LANES * block) {
        cr_v w[CR_MAX_BLOCK_PANELS];
        CR_UNROLL for (size_t p = 0; p < panels; p++) w[p] = v_load(lines + LANES * p);
        CR_UNROLL for (size_t s = 0; s < steps; s++) {
            cr_v xj = v_splat(in[s][j]);
            CR_UNROLL for (size_t p = 0; p < panels; p++)
                sum[s * panels + p] = v_add(sum[s * panels + p], v_mul(w[p], xj));
        }
    }
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) y[i] = sum[i];
}

/* y = sum * (row scale * scale of x) */
CR_INLINE void cr_scale_sums(cr_v *y, const cr_w *sum, const float *scale, size_t panels, cr_rows x, size_t steps)
{
    CR_UNROLL for (size_t s = 0; s < steps; s++) {
        cr_v of_x = v_splat(cr_scale_of(cr_step_of(x, s)));
        CR_UNROLL for (size_t p = 0; p < panels; p++) {
            size_t i = s * panels + p;
            y[i] = v_mul(v_from_whole(sum[i]), v_mul(v_load(scale + LANES * p), of_x));
        }
    }
}

CR_INLINE void cr_sweep_i8(cr_v *y, const int8_t *lines, size_t block, size_t panels, size_t columns,
                           const float *scale, const int32_t *sums, cr_rows x, size_t steps)
{
    const int8_t *in[CR_TILE_STEPS];
    cr_w sum[CR_MAX_BLOCK_PANELS * CR_TILE_STEPS], odd[CR_MAX_BLOCK_PANELS];
    size_t count = (columns + 3) / 4, j = 0;
    CR_UNROLL for (size_t s = 0; s < steps; s++) {
        in[s] = (const int8_t *)cr_step_of(x, s) + 64;
        CR_UNROLL for (size_t p = 0; p < panels; p++) sum[s * panels + p] = i8_start(sums + LANES * p);
    }
    if (steps == 1) { /* a second set of sums: half as long a chain of dependent additions */
        CR_UNROLL for (size_t p = 0; p < panels; p++) odd[p] = w_splat(0);
        for (; j + 1 < count; j += 2, lines += 128 * block) {
            cr_x first = i8_splat(in[0] + 4 * j), second = i8_splat(in[0] + 4 * j + 4);
            CR_UNROLL for (size_t p = 0; p < panels; p++) sum[p] = i8_dot(sum[p], lines + 64 * p, first);
            CR_UNROLL for (size_t p = 0; p < panels; p++)
                odd[p] = i8_dot(odd[p], lines + 64 * (block + p), second);
        }
        CR_UNROLL for (size_t p = 0; p < panels; p++) sum[p] = w_add(sum[p], odd[p]);
    }
    for (; j < count; j++, lines += 64 * block)
        CR_UNROLL for (size_t s = 0; s < steps; s++) {
            cr_x xj = i8_splat(in[s] + 4 * j);
            CR_UNROLL for (size_t p = 0; p < panels; p++)
                sum[s * panels + p] = i8_dot(sum[s * panels + p], lines + 64 * p, xj);
        }
    cr_scale_sums(y, sum, scale, panels, x, steps);
}

/* `first`: number of the first panel within its block, for the scales of the groups. */
CR_INLINE void cr_sweep_i4(cr_v *y, const uint8_t *lines, size_t block, size_t panels, size_t first, size_t columns,
                           const float *scale, cr_rows x, size_t steps)
{
    cr_w total[CR_MAX_BLOCK_PANELS * CR_TILE_STEPS];
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) total[i] = w_splat(0);
    for (size_t from = 0; from < columns; from += CR_GROUP) {
        size_t left = (columns - from + 7) / 8, count = left < CR_GROUP / 8 ? left : CR_GROUP / 8;
        const int8_t *in[CR_TILE_STEPS];
        cr_h sum[CR_MAX_BLOCK_PANELS * CR_TILE_STEPS];
        CR_UNROLL for (size_t s = 0; s < steps; s++) {
            const char *step = cr_step_of(x, s);
            int32_t of_group;
            memcpy(&of_group, step + CR_QUANTIZED_SUMS(columns) + from / CR_GROUP * 4, 4);
            in[s] = (const int8_t *)step + 64 + from;
            /* entries are stored as entry + 8 */
            CR_UNROLL for (size_t p = 0; p < panels; p++) sum[s * panels + p] = i4_start(-8 * of_group);
        }
        for (size_t j = 0; j < count; j++, lines += 64 * block)
            CR_UNROLL for (size_t s = 0; s < steps; s++) {
                cr_x low = i4_splat(in[s] + 8 * j), high = i4_splat(in[s] + 8 * j + 4);
                CR_UNROLL for (size_t p = 0; p < panels; p++)
                    sum[s * panels + p] = i4_dot(sum[s * panels + p], lines + 64 * p, low, high);
            }
        const uint8_t *of_group = lines + 16 * first - 64 * first;
        CR_UNROLL for (size_t p = 0; p < panels; p++) {
            cr_w group_scale = w_load_u8(of_group + 16 * p);
            CR_UNROLL for (size_t s = 0; s < steps; s++)
                total[s * panels + p] = w_add(total[s * panels + p], w_mul(i4_sum(sum[s * panels + p]), group_scale));
        }
        lines += 64;
    }
    cr_scale_sums(y, total, scale, panels, x, steps);
}

/* A place in a matrix: the block from panel `panel` on, of `size` panels. */
typedef struct {
    const char *lines;
    size_t panel;
    size_t size;
} cr_block;

CR_INLINE void cr_sweep(unsigned type, cr_v *y, const cr_matrix *m, cr_block at, size_t first, size_t panels, cr_rows x,
                        size_t steps)
{
    const void *lines = at.lines + 64 * first;
    size_t row = (at.panel + first) * LANES;
    if (type == CR_MATRIX_F32)
        cr_sweep_f32(y, lines, at.size, panels, m->columns, x, steps);
    else if (type == CR_MATRIX_I8)
        cr_sweep_i8(y, lines, at.size, panels, m->columns, m->scale + row, m->sums + row, x, steps);
    else
        cr_sweep_i4(y, lines, at.size, panels, first, m->columns, m->scale + row, x, steps);
}

/* Where the sums start: for float32 before the sweep, for whole numbers after it. */
CR_INLINE cr_v cr_before(unsigned type, cr_v init)
{
    return type == CR_MATRIX_F32 ? init : v_splat(0.0f);
}

CR_INLINE cr_v cr_after(unsigned type, cr_v init, cr_v y)
{
    return type == CR_MATRIX_F32 ? y : v_add(init, y);
}

CR_INLINE size_t cr_block_bytes(unsigned type, const cr_matrix *m, size_t panels)
{
    return panels * cr_panel_bytes(type, m->columns) + 64 * cr_group_count(type, m->columns);
}

CR_INLINE cr_v cr_init_of(cr_rows init, size_t step, size_t row, size_t left)
{
    const float *from = (const float *)(const void *)cr_step_of(init, step) + row;
    return init.first ? v_load_some(from, left, 0.0f) : v_splat(0.0f);
}

CR_INLINE void cr_affine_tile(unsigned type, cr_rows dst, const cr_matrix *m, cr_block at, size_t first, size_t panels,
                              cr_rows x, cr_rows init, size_t steps)
{
    cr_v y[CR_MAX_BLOCK_PANELS * CR_TILE_STEPS];
    size_t row = (at.panel + first) * LANES, left = m->rows - row;
    CR_UNROLL for (size_t s = 0; s < steps; s++)
        CR_UNROLL for (size_t p = 0; p < panels; p++)
            y[s * panels + p] = cr_before(type, cr_init_of(init, s, row + LANES * p, left - LANES * p));
    cr_sweep(type, y, m, at, first, panels, x, steps);
    CR_UNROLL for (size_t s = 0; s < steps; s++)
        CR_UNROLL for (size_t p = 0; p < panels; p++) {
            float *to = (float *)(void *)cr_step_of(dst, s) + row + LANES * p;
            cr_v start = cr_init_of(init, s, row + LANES * p, left - LANES * p);
            v_store_some(to, cr_after(type, start, y[s * panels + p]), left - LANES * p);
        }
}

CR_INLINE cr_rows cr_from_step(cr_rows rows, size_t step)
{
    if (rows.first) rows.first = (char *)rows.first + step * rows.stride;
    return rows;
}

/* A block of weights stays in the nearest cache while it meets all steps; `steps` is a multiple of CR_TILE_STEPS. */
CR_INLINE void cr_affine_tiles(unsigned type, cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init, size_t steps)
{
    enum { WIDE = CR_TILE_PANELS };
    const size_t wide = type == CR_MATRIX_I4 ? (WIDE + 1) / 2 : WIDE; /* twice as many sums */
    size_t count = (m->rows + LANES - 1) / LANES;
    cr_block at = {m->lines, 0, m->block};
    for (; at.panel < count; at.lines += cr_block_bytes(type, m, at.size), at.panel += at.size) {
        if (at.size > count - at.panel) at.size = count - at.panel;
        for (size_t s = 0; s < steps; s += CR_TILE_STEPS) {
            cr_rows to = cr_from_step(dst, s), in = cr_from_step(x, s), from = cr_from_step(init, s);
            size_t p = 0;
            for (; p + wide <= at.size; p += wide) cr_affine_tile(type, to, m, at, p, wide, in, from, CR_TILE_STEPS);
            for (; p < at.size; p++) cr_affine_tile(type, to, m, at, p, 1, in, from, CR_TILE_STEPS);
        }
    }
}

/* One step: the size of a block is a constant in each sweep. */
CR_INLINE void cr_affine_step(unsigned type, cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init)
{
    size_t count = (m->rows + LANES - 1) / LANES;
    cr_block at = {m->lines, 0, 4};
    if (m->block == 4)
        for (; at.panel + 4 <= count; at.panel += 4, at.lines += cr_block_bytes(type, m, 4))
            cr_affine_tile(type, dst, m, at, 0, 4, x, init, 1);
    while (at.panel < count) {
        at.size = count - at.panel < m->block ? count - at.panel : m->block;
        switch (at.size) {
        case 1: cr_affine_tile(type, dst, m, (cr_block){at.lines, at.panel, 1}, 0, 1, x, init, 1); break;
        case 2: cr_affine_tile(type, dst, m, (cr_block){at.lines, at.panel, 2}, 0, 2, x, init, 1); break;
        default: cr_affine_tile(type, dst, m, (cr_block){at.lines, at.panel, 3}, 0, 3, x, init, 1);
        }
        at.lines += cr_block_bytes(type, m, at.size);
        at.panel += at.size;
    }
}

CR_INLINE cr_block cr_gates_block(unsigned type, const cr_matrix *m, size_t gates, size_t number)
{
    return (cr_block){(const char *)m->lines + number * cr_block_bytes(type, m, gates), number * gates, gates};
}

/* The gates of 16 units are the panels of one block: they go from sums to new states without leaving the registers. */
CR_INLINE void cr_lstm_any(unsigned type, float *dst, const cr_matrix *m, const void *x, const float *gates, float *cell,
                           size_t n, int backwards)
{
    cr_rows in = {(void *)(uintptr_t)x, 0};
    size_t count = (n + LANES - 1) / LANES;
    for (size_t b = 0; b < count; b++) {
        cr_block at = cr_gates_block(type, m, 4, backwards ? count - 1 - b : b);
        size_t i = at.panel / 4 * LANES;
        cr_v y[4];
        CR_UNROLL for (size_t g = 0; g < 4; g++) y[g] = cr_before(type, v_load(gates + 4 * i + LANES * g));
        cr_sweep(type, y, m, at, 0, 4, in, 1);
        CR_UNROLL for (size_t g = 0; g < 4; g++) y[g] = cr_after(type, v_load(gates + 4 * i + LANES * g), y[g]);
        const float *k = cr_tanh_numbers;
        if (type == CR_MATRIX_I4) CR_HIDE(k); /* its sums take the registers */
        cr_v c = v_load_some(cell + i, n - i, 0.0f);
        c = v_add(v_mul(cr_sigmoid_by(k, y[1]), c), v_mul(cr_sigmoid_by(k, y[0]), cr_tanh_by(k, y[2])));
        v_store_some(cell + i, c, n - i);
        v_store_some(dst + i, v_mul(cr_sigmoid_by(k, y[3]), cr_tanh_by(k, c)), n - i);
    }
}

/* Where the sums of gate g of the units from i on start: the third, of the candidate, with a bias alone. */
CR_INLINE cr_v cr_gru_start(const float *gates, const float *bias, size_t i, size_t g, size_t n)
{
    if (g < 2) return v_load(gates + LANES * g);
    return bias ? v_load_some(bias + i, n - i, 0.0f) : v_splat(0.0f);
}

CR_INLINE void cr_gru_any(unsigned type, float *dst, const cr_matrix *m, const void *x, const float *gates,
                          const float *bias, const float *h, size_t n, int backwards)
{
    cr_rows in = {(void *)(uintptr_t)x, 0};
    size_t count = (n + LANES - 1) / LANES;
    for (size_t b = 0; b < count; b++) {
        cr_block at = cr_gates_block(type, m, 3, backwards ? count - 1 - b : b);
        size_t i = at.panel / 3 * LANES;
        cr_v y[3];
        CR_UNROLL for (size_t g = 0; g < 3; g++) y[g] = cr_before(type, cr_gru_start(gates + 3 * i, bias, i, g, n));
        cr_sweep(type, y, m, at, 0, 3, in, 1);
        CR_UNROLL for (size_t g = 0; g < 3; g++)
            y[g] = cr_after(type, cr_gru_start(gates + 3 * i, bias, i, g, n), y[g]);
        cr_v from_x = v_load(gates + 3 * i + 2 * LANES);
        const float *k = cr_tanh_numbers;
        if (type == CR_MATRIX_I4) CR_HIDE(k);
        cr_v update = cr_sigmoid_by(k, y[1]);
        cr_v candidate = cr_tanh_by(k, v_add(from_x, v_mul(cr_sigmoid_by(k, y[0]), y[2])));
        cr_v before = v_load_some(h + i, n - i, 0.0f);
        cr_v after = v_add(v_mul(v_sub(v_splat(1.0f), update), candidate), v_mul(update, before));
        v_store_some(dst + i, after, n - i);
    }
}

/* Functions of their own, so that each sweep has all registers. */
#define CR_MATRIX_KERNELS(suffix, type)                                                                                \
    CR_NOINLINE void cr_tiles_##suffix(cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init, size_t steps)         \
    {                                                                                                                  \
        cr_affine_tiles(type, dst, m, x, init, steps);                                                                 \
    }                                                                                                                  \
    CR_NOINLINE void cr_step_##suffix(cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init)                        \
    {                                                                                                                  \
        cr_affine_step(type, dst, m, x, init);                                                                         \
    }                                                                                                                  \
    static void cr_affine_##suffix(cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init, size_t steps)             \
    {                                                                                                                  \
        size_t tiled = steps / CR_TILE_STEPS * CR_TILE_STEPS;                                                          \
        if (tiled) cr_tiles_##suffix(dst, m, x, init, tiled);                                                          \
        for (size_t s = tiled; s < steps; s++)                                                                         \
            cr_step_##suffix(cr_from_step(dst, s), m, cr_from_step(x, s), cr_from_step(init, s));                      \
    }                                                                                                                  \
    static void cr_lstm_##suffix(float *dst, const cr_matrix *m, const void *x, const float *gates, float *cell,       \
                                 size_t n, int backwards)                                                              \
    {                                                                                                                  \
        cr_lstm_any(type, dst, m, x, gates, cell, n, backwards);                                                       \
    }                                                                                                                  \
    static void cr_gru_##suffix(float *dst, const cr_matrix *m, const void *x, const float *gates, const float *bias,  \
                                const float *h, size_t n, int backwards)                                               \
    {                                                                                                                  \
        cr_gru_any(type, dst, m, x, gates, bias, h, n, backwards);                                                     \
    }

CR_MATRIX_KERNELS(f32, CR_MATRIX_F32)
CR_MATRIX_KERNELS(i8, CR_MATRIX_I8)
CR_MATRIX_KERNELS(i4, CR_MATRIX_I4)

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
    case CR_SCALE_SHIFT: return cr_horner(x, v_splat(p0), p1);
    case CR_ABS: return cr_abs(x);
    case CR_CLAMP: return cr_clamp(x, p0, p1);
    case CR_RECIPROCAL: return v_div(v_splat(1.0f), x);
    case CR_SQRT: return v_sqrt(x);
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
    for (size_t i = 0; i < n; i += LANES)
        v_store_some(dst + i, cr_apply_unary(fn, v_load_some(a + i, n - i, 0.0f), p0, p1), n - i);
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

CR_INLINE cr_v cr_apply_binary(unsigned fn, cr_v a, cr_v b)
{
    switch (fn) {
    case CR_ADD: return v_add(a, b);
    case CR_SUB: return v_sub(a, b);
    case CR_MUL: return v_mul(a, b);
    case CR_DIV: return v_div(a, b);
    case CR_MAX: return cr_max(a, b);
    default: return cr_min(a, b);
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
    case CR_ADD: cr_map_binary(CR_ADD, dst, a, b, n, k); break;
    case CR_SUB: cr_map_binary(CR_SUB, dst, a, b, n, k); break;
    case CR_MUL: cr_map_binary(CR_MUL, dst, a, b, n, k); break;
    case CR_DIV: cr_map_binary(CR_DIV, dst, a, b, n, k); break;
    case CR_MAX: cr_map_binary(CR_MAX, dst, a, b, n, k); break;
    default: cr_map_binary(CR_MIN, dst, a, b, n, k);
    }
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
        float largest = cr_largest(a + group, k), lanes[LANES];
        cr_v sum = v_splat(0.0f);
        cr_map_number(CR_SUB, dst + group, a + group, largest, k);
        for (size_t i = 0; i < k; i += LANES)
            sum = v_add(sum, cr_exp(v_load_some(dst + group + i, k - i, -1000.0f))); /* e^-1000 is 0 */
        v_store(lanes, cr_log(v_splat(cr_fold_lanes(CR_FOLD_SUM, sum))));
        cr_map_number(CR_SUB, dst + group, dst + group, lanes[0], k);
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
        cr_map_number(CR_SUB, dst + group, a + group, mean, k);
        cr_map_number(CR_MUL, dst + group, dst + group, lanes[0], k);
    }
}

const cr_kernels CR_TABLE = {
    .name = CR_ISA_NAME,
    .affine = {cr_affine_f32, cr_affine_i8, cr_affine_i4},
    .lstm = {cr_lstm_f32, cr_lstm_i8, cr_lstm_i4},
    .gru = {cr_gru_f32, cr_gru_i8, cr_gru_i4},
    .quantize = cr_quantize,
    .unary = cr_unary,
    .binary = cr_binary,
    .reduce = cr_reduce,
    .softmax = cr_softmax,
    .log_softmax = cr_log_softmax,
    .layer_norm = cr_layer_norm,
    .row_i8 = cr_row_i8,
    .output = cr_output,
    .read = cr_read,
};
