/* Products of a matrix with many vectors of one step, for cr_body.h: CR_MATMUL. */

/* X W^T: each row of X is a vector. Where the last line of a quantized W is not full, its zeros meet numbers behind the row. */
CR_INLINE void cr_matmul_right(unsigned type, float *dst, const cr_matrix *m, const void *x, const float *init,
                               size_t count, size_t step)
{
    size_t bytes = type == CR_MATRIX_F32 ? 4 : 1, row = 4 * m->rows;
    cr_vectors in = {x, bytes * step, 4, NULL, 0};
    if (type == CR_MATRIX_I8) in = (cr_vectors){(const char *)x + 64, bytes * step, 4, x, 0};
    cr_affine_all(type, (cr_rows){dst, row}, m, in, (cr_rows){(void *)(uintptr_t)init, row}, count);
}

/* The columns of X, `count` of them, as the rows of a matrix. */
static cr_matrix cr_columns_f32(void *work, const float *x, size_t k, size_t count)
{
    size_t panels = (count + LANES - 1) / LANES;
    float *line = work;
    for (size_t first = 0; first < panels; first += CR_MAX_BLOCK_PANELS)
        for (size_t j = 0; j < k; j++)
            for (size_t p = first; p < panels && p < first + CR_MAX_BLOCK_PANELS; p++, line += LANES)
                v_store(line, v_load_some(x + j * count + LANES * p, count - LANES * p, 0.0f));
    return (cr_matrix){.lines = work, .rows = count, .columns = k, .block = CR_MAX_BLOCK_PANELS};
}

static cr_matrix cr_columns_i8(void *work, const void *quantized, size_t k, size_t count)
{
    size_t panels = (count + LANES - 1) / LANES;
    float *scale = work, of_x;
    int32_t *sums = (int32_t *)(void *)(scale + LANES * panels);
    char *lines = (char *)(sums + LANES * panels);
    memcpy(&of_x, quantized, sizeof of_x);
    for (size_t p = 0; p < panels; p++) {
        size_t first = p - p % CR_MAX_BLOCK_PANELS, left = panels - first;
        size_t size = left < CR_MAX_BLOCK_PANELS ? left : CR_MAX_BLOCK_PANELS;
        char *line = lines + 64 * (first * ((k + 3) / 4) + p - first);
        const int8_t *from = (const int8_t *)quantized + 64 + LANES * p;
        cr_w sum = w_splat(0), byte = w_splat(255);
        for (size_t j = 0; j < k; j += 4, line += 64 * size, from += 4 * count) {
            cr_w q[4];
            CR_UNROLL for (size_t i = 0; i < 4; i++) {
                q[i] = j + i < k ? w_load_i8(from + i * count) : w_splat(0);
                sum = w_add(sum, q[i]);
            }
            cr_w low = w_xor(w_and(q[0], byte), w_shift_left(w_and(q[1], byte), 8));
            cr_w high = w_xor(w_shift_left(w_and(q[2], byte), 16), w_shift_left(q[3], 24));
            v_store((float *)(void *)line, w_bits(w_xor(low, high)));
        }
        v_store((float *)(void *)(sums + LANES * p), w_bits(sum));
        v_store(scale + LANES * p, v_splat(of_x));
    }
    return (cr_matrix){.lines = lines, .scale = scale, .sums = sums, .rows = count, .columns = k, .block = CR_MAX_BLOCK_PANELS};
}

/* W X: each row of W is a vector, which the columns of X are multiplied with. 16 of them lie in a panel. */
CR_INLINE void cr_matmul_left(unsigned type, float *dst, const cr_matrix *m, const void *x, const float *init,
                              size_t count, void *work)
{
    cr_matrix columns =
        type == CR_MATRIX_F32 ? cr_columns_f32(work, x, m->columns, count) : cr_columns_i8(work, x, m->columns, count);
    size_t panels = (m->rows + LANES - 1) / LANES, row = 4 * count, size;
    const char *block = m->lines;
    for (size_t first = 0; first < panels; first += size, block += size * cr_panel_bytes(type, m->columns)) {
        size = panels - first < m->block ? panels - first : m->block;
        for (size_t p = first; p < first + size; p++) {
            size_t at = LANES * p, left = m->rows - at;
            const char *scale = m->scale ? (const char *)(m->scale + at) : NULL;
            cr_vectors rows = {block + 64 * (p - first), 4, 64 * size, scale, 4};
            cr_rows from = {init ? (void *)(uintptr_t)(init + at * count) : NULL, row};
            cr_affine_all(type, (cr_rows){dst + at * count, row}, &columns, rows, from, left < LANES ? left : LANES);
        }
    }
}

#define CR_MATMUL_KERNELS(suffix, type)                                                                                \
    static void cr_left_##suffix(float *dst, const cr_matrix *m, const void *x, const float *init, size_t count,       \
                                 size_t step, void *work)                                                              \
    {                                                                                                                  \
        (void)step;                                                                                                    \
        cr_matmul_left(type, dst, m, x, init, count, work);                                                            \
    }                                                                                                                  \
    static void cr_right_##suffix(float *dst, const cr_matrix *m, const void *x, const float *init, size_t count,      \
                                  size_t step, void *work)                                                             \
    {                                                                                                                  \
        (void)work;                                                                                                    \
        cr_matmul_right(type, dst, m, x, init, count, step);                                                           \
    }

CR_MATMUL_KERNELS(f32, CR_MATRIX_F32)
CR_MATMUL_KERNELS(i8, CR_MATRIX_I8)
