/* Products of matrices with vectors, and the cells that end in them, for cr_body.h. */

/* The largest |x|, of NaN or numbers beside NaN any: in any order. */
CR_INLINE float cr_largest_size(const float *x, size_t k)
{
    cr_v first = v_splat(0.0f), second = first;
    size_t i = 0;
    for (; i + 2 * LANES <= k; i += 2 * LANES) {
        first = v_over(cr_abs(v_load(x + i)), first);
        second = v_over(cr_abs(v_load(x + i + LANES)), second);
    }
    for (; i < k; i += LANES) first = v_over(cr_abs(v_load_some(x + i, k - i, 0.0f)), first);
    float lanes[LANES];
    v_store(lanes, v_over(second, first));
    for (size_t half = LANES / 2; half; half /= 2)
        CR_UNROLL for (size_t j = 0; j < half; j++) lanes[j] = lanes[j] > lanes[j + half] ? lanes[j] : lanes[j + half];
    return lanes[0];
}

static void cr_quantize(void *to, const float *x, float scale, size_t k)
{
    int8_t *numbers = (int8_t *)to + 64;
    int32_t *sums = (int32_t *)(void *)((char *)to + CR_QUANTIZED_SUMS(k));
    if (scale == 0) {
        scale = cr_largest_size(x, k) / 127.0f;
        scale = scale < 1e-30f / 127.0f ? 0.0f : scale;
    }
    cr_v inverse = v_splat(scale == 0 ? 0.0f : 1.0f / scale), zero = v_splat(0.0f), strange = zero;
    for (size_t i = 0; i < k;) {
        cr_w sum = w_splat(0);
        for (size_t end = i + CR_GROUP; i < end; i += LANES) {
            if (i >= k) {
                memset(numbers + i, 0, LANES);
                continue;
            }
            cr_v in = v_load_some(x + i, k - i, 0.0f);
            cr_v s = v_under(v_over(v_mul(in, inverse), v_splat(-127.0f)), v_splat(127.0f)); /* never a NaN */
            strange = v_add(strange, v_mul(in, zero)); /* 0, or a NaN from a NaN or infinity on */
            cr_w whole = v_to_whole(v_sub(v_add(s, v_splat(12582912.0f)), v_splat(12582912.0f)));
            w_store_i8(numbers + i, whole);
            sum = w_add(sum, whole);
        }
        *sums++ = w_sum(sum);
    }
    static const uint32_t not_a_number = 0x7fc00000;
    int any_strange = w_sum(w_and(v_bits(strange), w_splat(0x00400000))) != 0; /* set in each NaN that was computed */
    memcpy(to, any_strange ? (const void *)&not_a_number : (const void *)&scale, sizeof scale);
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
    if (cr_is_sparse(type)) return 0; /* it says itself where its panels are */
    if (type == CR_UNPACKED_I4) return 64 * ((columns + 3) / 4 + 2 * ((columns + CR_GROUP - 1) / CR_GROUP));
    return 64 * ((columns + 7) / 8);
}

CR_INLINE size_t cr_group_count(unsigned type, size_t columns)
{
    return type == CR_MATRIX_I4 ? (columns + CR_GROUP - 1) / CR_GROUP : 0;
}

/* The vectors that a sweep multiplies with, `stride` bytes apart. A line of a matrix takes one number of a float32 vector,
 * four or eight quantized ones: those of the next line come `next` bytes later. */
typedef struct {
    const char *numbers;
    size_t stride;
    size_t next;
    const char *scale;       /* of quantized ones, a float each, `scale_stride` bytes apart */
    size_t scale_stride;
} cr_vectors;

CR_INLINE cr_vectors cr_vectors_of(unsigned type, cr_rows x)
{
    const char *first = x.first;
    if (!cr_takes_quantized(type)) return (cr_vectors){first, x.stride, 4, NULL, 0};
    return (cr_vectors){first + 64, x.stride, type == CR_MATRIX_I4 ? 8 : 4, first, x.stride};
}

CR_INLINE cr_vectors cr_from_vector(cr_vectors x, size_t step)
{
    x.numbers += step * x.stride;
    if (x.scale) x.scale += step * x.scale_stride;
    return x;
}

CR_INLINE float cr_scale_of(cr_vectors x, size_t step)
{
    float scale;
    memcpy(&scale, x.scale + step * x.scale_stride, sizeof scale);
    return scale;
}

/* What follows are the sweeps: `panels` panels from `lines` on, out of a block of `block`, times `steps` vectors. Sizes
 * are constants where these are inlined, so that all sums stay in registers. float32 sums go on from y; those of whole
 * numbers take no register for where they start, and leave W x. */

CR_INLINE void cr_sweep_f32(cr_v *y, const float *lines, size_t block, size_t panels, size_t columns, cr_vectors x,
                            size_t steps)
{
    const char *in[CR_MAX_STEPS];
    cr_v sum[CR_MAX_SUMS];
    CR_UNROLL for (size_t s = 0; s < steps; s++) in[s] = x.numbers + s * x.stride;
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) sum[i] = y[i];
    for (size_t j = 0; j < columns; j++, lines += LANES * block) {
        cr_v w[CR_MAX_BLOCK_PANELS];
        CR_UNROLL for (size_t p = 0; p < panels; p++) w[p] = v_load(lines + LANES * p);
        CR_UNROLL for (size_t s = 0; s < steps; s++) {
            cr_v xj = v_splat(*(const float *)(const void *)(in[s] + j * x.next));
            CR_UNROLL for (size_t p = 0; p < panels; p++)
                sum[s * panels + p] = v_add(sum[s * panels + p], v_mul(w[p], xj));
        }
    }
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) y[i] = sum[i];
}

/* y = sum * (row scale * scale of x) */
CR_INLINE void cr_scale_sums(cr_v *y, const cr_w *sum, const float *scale, size_t panels, cr_vectors x, size_t steps)
{
    CR_UNROLL for (size_t s = 0; s < steps; s++) {
        cr_v of_x = v_splat(cr_scale_of(x, s));
        CR_UNROLL for (size_t p = 0; p < panels; p++) {
            size_t i = s * panels + p;
            y[i] = v_mul(v_from_whole(sum[i]), v_mul(v_load(scale + LANES * p), of_x));
        }
    }
}

CR_INLINE void cr_sweep_i8(cr_v *y, const int8_t *lines, size_t block, size_t panels, size_t columns,
                           const float *scale, const int32_t *sums, cr_vectors x, size_t steps)
{
    const int8_t *in[CR_MAX_STEPS];
    cr_w sum[CR_MAX_SUMS], odd[CR_MAX_BLOCK_PANELS];
    size_t count = (columns + 3) / 4, j = 0;
    CR_UNROLL for (size_t s = 0; s < steps; s++) {
        in[s] = (const int8_t *)x.numbers + s * x.stride;
        CR_UNROLL for (size_t p = 0; p < panels; p++) sum[s * panels + p] = i8_start(sums + LANES * p);
    }
    if (steps == 1 && CR_I8_CHAINS == 2) { /* a second set of sums: half as long a chain of dependent additions */
        CR_UNROLL for (size_t p = 0; p < panels; p++) odd[p] = w_splat(0);
        for (; j + 1 < count; j += 2, lines += 128 * block) {
            cr_x first = i8_splat(in[0] + j * x.next), second = i8_splat(in[0] + j * x.next + x.next);
            CR_UNROLL for (size_t p = 0; p < panels; p++) sum[p] = i8_dot(sum[p], lines + 64 * p, first);
            CR_UNROLL for (size_t p = 0; p < panels; p++)
                odd[p] = i8_dot(odd[p], lines + 64 * (block + p), second);
        }
        CR_UNROLL for (size_t p = 0; p < panels; p++) sum[p] = w_add(sum[p], odd[p]);
    }
    for (; j < count; j++, lines += 64 * block)
        CR_UNROLL for (size_t s = 0; s < steps; s++) {
            cr_x xj = i8_splat(in[s] + j * x.next);
            CR_UNROLL for (size_t p = 0; p < panels; p++)
                sum[s * panels + p] = i8_dot(sum[s * panels + p], lines + 64 * p, xj);
        }
    cr_scale_sums(y, sum, scale, panels, x, steps);
}

/* `first`: number of the first panel within its block, for the scales of the groups. */
CR_INLINE void cr_sweep_i4(cr_v *y, const uint8_t *lines, size_t block, size_t panels, size_t first, size_t columns,
                           const float *scale, cr_vectors x, size_t steps)
{
    cr_w total[CR_MAX_SUMS];
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) total[i] = w_splat(0);
    for (size_t from = 0; from < columns; from += CR_GROUP) {
        size_t left = (columns - from + 7) / 8, count = left < CR_GROUP / 8 ? left : CR_GROUP / 8;
        const int8_t *in[CR_MAX_STEPS];
        cr_h sum[CR_MAX_SUMS];
        CR_UNROLL for (size_t s = 0; s < steps; s++) {
            int32_t of_group;
            in[s] = (const int8_t *)x.numbers + s * x.stride + from;
            memcpy(&of_group, x.numbers + s * x.stride + CR_LINES(columns) + from / CR_GROUP * 4, 4);
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

#ifdef CR_HAS_UNPACKED_I4
/* As cr_unpacked.h lays it out. */
CR_INLINE void cr_sweep_unpacked(cr_v *y, const char *lines, size_t block, size_t panels, size_t columns, const float *scale,
                                 cr_vectors x, size_t steps)
{
    cr_w total[CR_MAX_SUMS];
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) total[i] = w_splat(0);
    for (size_t from = 0; from < columns; from += CR_GROUP) {
        size_t left = (columns - from + 3) / 4, count = left < CR_GROUP / 4 ? left : CR_GROUP / 4;
        const int8_t *in[CR_MAX_STEPS];
        cr_w pairs[CR_MAX_SUMS];
        const char *scales = lines + 64 * block;
        CR_UNROLL for (size_t s = 0; s < steps; s++) {
            in[s] = (const int8_t *)x.numbers + s * x.stride + from;
            CR_UNROLL for (size_t p = 0; p < panels; p++) pairs[s * panels + p] = w_load(lines + 64 * p);
        }
        lines += 128 * block;
        for (size_t j = 0; j < count; j++, lines += 64 * block)
            CR_UNROLL for (size_t s = 0; s < steps; s++) {
                cr_x xj = s4_splat(in[s] + 4 * j);
                CR_UNROLL for (size_t p = 0; p < panels; p++)
                    pairs[s * panels + p] = s4_dot(pairs[s * panels + p], lines + 64 * p, xj);
            }
        CR_UNROLL for (size_t s = 0; s < steps; s++)
            CR_UNROLL for (size_t p = 0; p < panels; p++)
                total[s * panels + p] = s4_sum(total[s * panels + p], pairs[s * panels + p], scales + 64 * p);
    }
    cr_scale_sums(y, total, scale, panels, x, steps);
}
#endif

#include "cr_sparse_sweeps.h"

/* A place in a matrix: the block from panel `panel` on, of `size` panels. */
typedef struct {
    const char *lines;
    size_t panel;
    size_t size;
} cr_block;

CR_INLINE void cr_sweep(unsigned type, cr_v *y, const cr_matrix *m, cr_block at, size_t first, size_t panels,
                        cr_vectors x, size_t steps)
{
    size_t panel = at.panel + first, row = panel * LANES;
    if (type == CR_SPARSE_F32)
        cr_sweep_sparse_f32(y, m, panel, panels, x, steps);
    else if (type == CR_SPARSE_I8)
        cr_sweep_sparse_i8(y, m, panel, panels, x, steps);
    if (cr_is_sparse(type)) return;
    const void *lines = at.lines + 64 * first;
    if (type == CR_MATRIX_F32)
        cr_sweep_f32(y, lines, at.size, panels, m->columns, x, steps);
    else if (type == CR_MATRIX_I8)
        cr_sweep_i8(y, lines, at.size, panels, m->columns, m->scale + row, m->sums + row, x, steps);
#ifdef CR_HAS_UNPACKED_I4
    else if (type == CR_UNPACKED_I4)
        cr_sweep_unpacked(y, lines, at.size, panels, m->columns, m->scale + row, x, steps);
#endif
    else
        cr_sweep_i4(y, lines, at.size, panels, first, m->columns, m->scale + row, x, steps);
}

/* Where the sums start: for float32 before the sweep, for whole numbers after it. */
CR_INLINE cr_v cr_before(unsigned type, cr_v init)
{
    return cr_takes_quantized(type) ? v_splat(0.0f) : init;
}

CR_INLINE cr_v cr_after(unsigned type, cr_v init, cr_v y)
{
    return cr_takes_quantized(type) ? v_add(init, y) : y;
}

CR_INLINE size_t cr_block_bytes(unsigned type, const cr_matrix *m, size_t panels)
{
    return panels * cr_panel_bytes(type, m->columns) + 64 * cr_group_count(type, m->columns);
}

CR_INLINE cr_v cr_init_of(cr_rows init, size_t step, size_t row, size_t left)
{
    if (!init.first) return v_splat(0.0f);
    return v_load_some((const float *)(const void *)cr_step_of(init, step) + row, left, 0.0f);
}

CR_INLINE void cr_affine_tile(unsigned type, cr_rows dst, const cr_matrix *m, cr_block at, size_t first, size_t panels,
                              cr_vectors x, cr_rows init, size_t steps)
{
    cr_v y[CR_MAX_SUMS];
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

/* Panels of one block times the steps from s on, `tile` at a time; returns the first of those that are too few for that. */
CR_INLINE size_t cr_affine_strip(unsigned type, cr_rows dst, const cr_matrix *m, cr_block at, size_t first, size_t panels,
                                 cr_vectors x, cr_rows init, size_t s, size_t steps, size_t tile)
{
    for (; s + tile <= steps; s += tile) {
        cr_rows to = cr_from_step(dst, s), from = cr_from_step(init, s);
        cr_affine_tile(type, to, m, at, first, panels, cr_from_vector(x, s), from, tile);
    }
    return s;
}

/* A block of weights stays in the nearest cache while it meets all steps; `steps` is a multiple of CR_TILE_STEPS. */
CR_INLINE void cr_affine_tiles(unsigned type, cr_rows dst, const cr_matrix *m, cr_vectors x, cr_rows init, size_t steps)
{
    enum { WIDE = CR_TILE_PANELS };
    const size_t wide = type == CR_MATRIX_I4 || cr_is_sparse(type) ? (WIDE + 1) / 2 : WIDE; /* twice as many sums, or places */
    size_t count = (m->rows + LANES - 1) / LANES;
    cr_block at = {m->lines, 0, m->block};
    for (; at.panel < count; at.lines += cr_block_bytes(type, m, at.size), at.panel += at.size) {
        if (at.size > count - at.panel) at.size = count - at.panel;
        size_t p = 0;
        for (; p + wide <= at.size; p += wide) cr_affine_strip(type, dst, m, at, p, wide, x, init, 0, steps, CR_TILE_STEPS);
        for (; p < at.size; p++) {
            size_t done = cr_affine_strip(type, dst, m, at, p, 1, x, init, 0, steps, CR_MAX_STEPS);
            cr_affine_strip(type, dst, m, at, p, 1, x, init, done, steps, CR_TILE_STEPS);
        }
    }
}

/* One step: the size of a block is a constant in each sweep. */
CR_INLINE void cr_affine_step(unsigned type, cr_rows dst, const cr_matrix *m, cr_vectors x, cr_rows init)
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

CR_INLINE void cr_affine_all(unsigned type, cr_rows dst, const cr_matrix *m, cr_vectors x, cr_rows init, size_t steps)
{
    size_t tiled = steps / CR_TILE_STEPS * CR_TILE_STEPS;
    if (tiled) cr_affine_tiles(type, dst, m, x, init, tiled);
    for (size_t s = tiled; s < steps; s++)
        cr_affine_step(type, cr_from_step(dst, s), m, cr_from_vector(x, s), cr_from_step(init, s));
}

#include "cr_entries.h"

CR_INLINE cr_block cr_gates_block(unsigned type, const cr_matrix *m, size_t gates, size_t number)
{
    return (cr_block){(const char *)m->lines + number * cr_block_bytes(type, m, gates), number * gates, gates};
}

/* The gates of 16 units are the panels of one block: they go from sums to new states without leaving the registers. */
CR_INLINE void cr_lstm_any(unsigned type, float *dst, const cr_matrix *m, const void *x, const float *gates, float *cell,
                           size_t n, int backwards)
{
    cr_vectors in = cr_vectors_of(type, (cr_rows){(void *)(uintptr_t)x, 0});
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
        cr_lstm_units(k, y, cell + i, dst + i, n - i);
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
    cr_vectors in = cr_vectors_of(type, (cr_rows){(void *)(uintptr_t)x, 0});
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
        cr_gru_units(k, y[0], y[1], from_x, y[2], h + i, dst + i, n - i);
    }
}

/* Functions of their own, so that each sweep has all registers. */
#define CR_MATRIX_KERNELS(suffix, type)                                                                                \
    CR_NOINLINE void cr_tiles_##suffix(cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init, size_t steps)         \
    {                                                                                                                  \
        cr_affine_tiles(type, dst, m, cr_vectors_of(type, x), init, steps);                                            \
    }                                                                                                                  \
    CR_NOINLINE void cr_step_##suffix(cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init)                        \
    {                                                                                                                  \
        cr_affine_step(type, dst, m, cr_vectors_of(type, x), init);                                                    \
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
#ifdef CR_HAS_UNPACKED_I4
CR_MATRIX_KERNELS(unpacked_i4, CR_UNPACKED_I4)
#define CR_UNPACKED_KERNEL(name) , [CR_UNPACKED_I4] = name##_unpacked_i4
#else
#define CR_UNPACKED_KERNEL(name)
#endif
CR_MATRIX_KERNELS(sparse_f32, CR_SPARSE_F32)
CR_MATRIX_KERNELS(sparse_i8, CR_SPARSE_I8)

#define CR_BY_TYPE(name)                                                                                               \
    [CR_MATRIX_F32] = name##_f32, [CR_MATRIX_I8] = name##_i8, [CR_MATRIX_I4] = name##_i4,                              \
    [CR_SPARSE_F32] = name##_sparse_f32, [CR_SPARSE_I8] = name##_sparse_i8 CR_UNPACKED_KERNEL(name)
