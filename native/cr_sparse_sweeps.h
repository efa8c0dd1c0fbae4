/* Sweeps over sparse matrices, for cr_products.h: as those over plain ones, but a panel is where it says, and each line says
 * which inputs it takes. Panels go side by side as far as the shortest of them, which is the end of all where they have as
 * many lines. */

typedef struct {
    const char *lines;
    const uint16_t *numbers;
    size_t count;
} cr_stored_panel;

CR_INLINE size_t cr_find_panels(cr_stored_panel *at, const cr_matrix *m, size_t panel, size_t panels)
{
    size_t least = SIZE_MAX;
    CR_UNROLL for (size_t p = 0; p < panels; p++) {
        size_t start = m->starts[panel + p], count = m->starts[panel + p + 1] - start;
        at[p] = (cr_stored_panel){(const char *)m->lines + 64 * start, m->numbers + start, count};
        least = count < least ? count : least;
    }
    return least;
}

CR_INLINE void cr_add_line_f32(cr_v *sum, cr_stored_panel at, size_t line, const float *const *in, size_t stride,
                               size_t steps)
{
    cr_v w = v_load((const float *)(const void *)(at.lines + 64 * line));
    size_t j = at.numbers[line];
    CR_UNROLL for (size_t s = 0; s < steps; s++) sum[s * stride] = v_add(sum[s * stride], v_mul(w, v_splat(in[s][j])));
}

CR_INLINE void cr_sweep_sparse_f32(cr_v *y, const cr_matrix *m, size_t panel, size_t panels, cr_vectors x, size_t steps)
{
    const float *in[CR_MAX_STEPS];
    cr_stored_panel at[CR_MAX_BLOCK_PANELS];
    cr_v sum[CR_MAX_SUMS];
    size_t least = cr_find_panels(at, m, panel, panels);
    CR_UNROLL for (size_t s = 0; s < steps; s++) in[s] = (const float *)(const void *)(x.numbers + s * x.stride);
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) sum[i] = y[i];
    for (size_t line = 0; line < least; line++)
        CR_UNROLL for (size_t p = 0; p < panels; p++) cr_add_line_f32(sum + p, at[p], line, in, panels, steps);
    CR_UNROLL for (size_t p = 0; p < panels; p++)
        for (size_t line = least; line < at[p].count; line++) cr_add_line_f32(sum + p, at[p], line, in, panels, steps);
    CR_UNROLL for (size_t i = 0; i < panels * steps; i++) y[i] = sum[i];
}

CR_INLINE void cr_add_line_i8(cr_w *sum, cr_stored_panel at, size_t line, const int8_t *const *in, size_t stride,
                              size_t steps)
{
    size_t j = at.numbers[line];
    CR_UNROLL for (size_t s = 0; s < steps; s++)
        sum[s * stride] = i8_dot(sum[s * stride], (const int8_t *)at.lines + 64 * line, i8_splat(in[s] + 4 * j));
}

CR_INLINE void cr_sweep_sparse_i8(cr_v *y, const cr_matrix *m, size_t panel, size_t panels, cr_vectors x, size_t steps)
{
    const int8_t *in[CR_MAX_STEPS];
    cr_stored_panel at[CR_MAX_BLOCK_PANELS];
    cr_w sum[CR_MAX_SUMS], odd[CR_MAX_BLOCK_PANELS];
    size_t least = cr_find_panels(at, m, panel, panels), row = panel * LANES, line = 0;
    CR_UNROLL for (size_t s = 0; s < steps; s++) {
        in[s] = (const int8_t *)x.numbers + s * x.stride;
        CR_UNROLL for (size_t p = 0; p < panels; p++) sum[s * panels + p] = i8_start(m->sums + row + LANES * p);
    }
    if (steps == 1) { /* a second set of sums, as with plain matrices */
        CR_UNROLL for (size_t p = 0; p < panels; p++) odd[p] = w_splat(0);
        for (; line + 1 < least; line += 2) {
            CR_UNROLL for (size_t p = 0; p < panels; p++) cr_add_line_i8(sum + p, at[p], line, in, panels, 1);
            CR_UNROLL for (size_t p = 0; p < panels; p++) cr_add_line_i8(odd + p, at[p], line + 1, in, panels, 1);
        }
        CR_UNROLL for (size_t p = 0; p < panels; p++) sum[p] = w_add(sum[p], odd[p]);
    }
    for (; line < least; line++)
        CR_UNROLL for (size_t p = 0; p < panels; p++) cr_add_line_i8(sum + p, at[p], line, in, panels, steps);
    CR_UNROLL for (size_t p = 0; p < panels; p++)
        for (size_t rest = least; rest < at[p].count; rest++) cr_add_line_i8(sum + p, at[p], rest, in, panels, steps);
    cr_scale_sums(y, sum, m->scale + row, panels, x, steps);
}
