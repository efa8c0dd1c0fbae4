/* Products with matrices of single entries, for cr_products.h: column by column, so that the sums of neighboring entries do
 * not wait for each other. A row's sum goes through its entries in the order of the columns even so. */

CR_INLINE void cr_add_entries(unsigned type, cr_rows dst, const cr_matrix *m, cr_rows x, size_t steps)
{
    float *to[CR_TILE_STEPS], xj[CR_TILE_STEPS];
    const float *in[CR_TILE_STEPS], *numbers = m->lines, *scale = m->scale;
    const int8_t *whole = m->lines;
    const uint16_t *rows = m->numbers;
    const uint32_t *starts = m->starts;
    size_t columns = m->columns, i = 0;
    CR_UNROLL for (size_t s = 0; s < steps; s++) {
        in[s] = (const float *)(const void *)cr_step_of(x, s);
        to[s] = (float *)(void *)((char *)dst.first + s * dst.stride);
    }
    for (size_t j = 0; j < columns; j++) {
        CR_UNROLL for (size_t s = 0; s < steps; s++) xj[s] = in[s][j];
        for (size_t end = starts[j + 1]; i < end; i++) {
            size_t row = rows[i];
            float w = type == CR_ENTRIES_I8 ? (float)whole[i] * scale[row] : numbers[i];
            CR_UNROLL for (size_t s = 0; s < steps; s++) to[s][row] = to[s][row] + w * xj[s];
        }
    }
}

CR_INLINE void cr_affine_entries(unsigned type, cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init, size_t steps)
{
    for (size_t s = 0; s < steps; s++) {
        char *to = (char *)dst.first + s * dst.stride;
        if (!init.first)
            memset(to, 0, sizeof(float) * m->rows);
        else if (to != cr_step_of(init, s))
            memcpy(to, cr_step_of(init, s), sizeof(float) * m->rows);
    }
    size_t tiled = steps / CR_TILE_STEPS * CR_TILE_STEPS;
    for (size_t s = 0; s < tiled; s += CR_TILE_STEPS)
        cr_add_entries(type, cr_from_step(dst, s), m, cr_from_step(x, s), CR_TILE_STEPS);
    for (size_t s = tiled; s < steps; s++) cr_add_entries(type, cr_from_step(dst, s), m, cr_from_step(x, s), 1);
}

static void cr_affine_entries_f32(cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init, size_t steps)
{
    cr_affine_entries(CR_ENTRIES_F32, dst, m, x, init, steps);
}

static void cr_affine_entries_i8(cr_rows dst, const cr_matrix *m, cr_rows x, cr_rows init, size_t steps)
{
    cr_affine_entries(CR_ENTRIES_I8, dst, m, x, init, steps);
}
