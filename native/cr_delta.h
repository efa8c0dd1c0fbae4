/* CR_DELTA, for cr_body.h: products that keep their sums from step to step and add what has changed.
 *
 * `memory` has what x was at the last step (k numbers; quantized ones take a byte each), a sum for each row, padded to whole
 * panels, and the number of the step. The columns of W whose number of x is what it was are not read. */

/* Where in `memory` the sums start, which has room for CR_DELTA_MEMORY numbers; `work` has room for CR_DELTA_WORK bytes. */
CR_INLINE float *cr_delta_sums(float *memory, const cr_matrix *m)
{
    return memory + m->columns;
}

/* The number of the step, which is counted on. */
static uint32_t cr_count_step(float *sums, size_t rows)
{
    uint32_t step, next;
    float *at = sums + (rows + LANES - 1) / LANES * LANES;
    memcpy(&step, at, sizeof step);
    next = step + 1;
    memcpy(at, &next, sizeof next);
    return step;
}

/* Panels of one block: from zero by all columns, or on by those that have changed; dst = init + the sums. */
CR_INLINE void cr_delta_panels_f32(float *dst, const cr_matrix *m, cr_block at, size_t panels, const float *x,
                                   const float *init, float *sums, int from_zero, const float *change, const uint16_t *number,
                                   size_t count)
{
    cr_v y[CR_MAX_BLOCK_PANELS];
    size_t row = at.panel * LANES;
    if (from_zero) {
        CR_UNROLL for (size_t p = 0; p < panels; p++) y[p] = v_splat(0.0f);
        cr_sweep_f32(y, (const float *)(const void *)at.lines, panels, panels, m->columns,
                     cr_vectors_of(CR_MATRIX_F32, (cr_rows){(void *)(uintptr_t)x, 0}), 1);
    } else {
        CR_UNROLL for (size_t p = 0; p < panels; p++) y[p] = v_load(sums + row + LANES * p);
        for (size_t i = 0; i < count; i++) {
            const float *line = (const float *)(const void *)at.lines + LANES * panels * number[i];
            cr_v d = v_splat(change[i]);
            CR_UNROLL for (size_t p = 0; p < panels; p++) y[p] = v_add(y[p], v_mul(v_load(line + LANES * p), d));
        }
    }
    CR_UNROLL for (size_t p = 0; p < panels; p++) {
        size_t from = row + LANES * p, left = m->rows - from;
        v_store(sums + from, y[p]);
        cr_v start = init ? v_load_some(init + from, left, 0.0f) : v_splat(0.0f);
        v_store_some(dst + from, v_add(start, y[p]), left);
    }
}

static void cr_delta_f32(float *dst, const cr_matrix *m, const void *given, const float *init, float *memory, void *work)
{
    const float *x = given;
    float *last = memory, *sums = cr_delta_sums(memory, m), *change = work;
    uint16_t *number = (uint16_t *)(void *)(change + m->columns);
    size_t count = 0, panels = (m->rows + LANES - 1) / LANES, block = 0;
    int strange = 0;
    for (size_t j = 0; j < m->columns; j++) {
        float before = last[j];
        int changed = !(x[j] == before); /* a NaN always */
        change[count] = x[j] - before;
        number[count] = (uint16_t)j;
        count += (size_t)changed;
        strange |= changed & !(before - before == 0);
    }
    memcpy(last, x, sizeof(float) * m->columns);
    uint32_t step = cr_count_step(sums, m->rows);
    cr_block at = {m->lines, 0, 0};
    for (; at.panel < panels; at.panel += at.size, block++) {
        int from_zero = strange || (step + block) % CR_DELTA_PERIOD == 0;
        at.size = panels - at.panel < m->block ? panels - at.panel : m->block;
        switch (at.size) {
#define CR_CASE(n)                                                                                                     \
    case n: cr_delta_panels_f32(dst, m, at, n, x, init, sums, from_zero, change, number, count); break;
            CR_CASE(1) CR_CASE(2) CR_CASE(3) CR_CASE(4)
#undef CR_CASE
        }
        at.lines += at.size * cr_panel_bytes(CR_MATRIX_F32, m->columns);
    }
}

/* A block of CR_COLUMNS_I8 has four panels, and a line for each column. Four such lines, a to d, as those of the panels in an
 * i8 matrix: line p of `to` has the four columns of row 0 of panel p, of row 1, ... */
#if !defined(CR_HAS_TURNED_COLUMNS) && !defined(CR_HAS_TURNED_PRODUCTS)
CR_INLINE void i8_turn(int8_t *to, const int8_t *a, const int8_t *b, const int8_t *c, const int8_t *d)
{
    for (size_t quarter = 0; quarter < 4; quarter++)
        for (size_t p = 0; p < 4; p++)
            for (size_t r = 0; r < 4; r++) {
                size_t from = 16 * quarter + 4 * p + r;
                int8_t *entry = to + 64 * p + 16 * quarter + 4 * r;
                entry[0] = a[from], entry[1] = b[from], entry[2] = c[from], entry[3] = d[from];
            }
}
#endif

/* Four changes, of number[c] by x[c] - less[c]. Products of signed bytes need no `less`: a change by more than a byte can say is
 * then two. Unsigned ones come with offsets, which the products with `less` have, too. */
typedef struct {
    int8_t x[4];
    int8_t less[4];
    uint16_t number[4];
} cr_changes;

CR_INLINE void cr_set_change(cr_changes *changes, size_t place, size_t number, int x, int less)
{
    cr_changes *to = &changes[place / 4];
    to->x[place % 4] = (int8_t)x;
    to->less[place % 4] = (int8_t)less;
    to->number[place % 4] = (uint16_t)number;
}

/* The number of fours, the last of which is filled up with changes by nothing. Quantized numbers are -127 at least; a file
 * may have -128 as the initial value of `memory`, which differences do not reach. */
static size_t cr_find_changes_i8(cr_changes *changes, int8_t *last, const int8_t *x, size_t columns)
{
    size_t count = 0;
    for (size_t j = 0; j < columns; j++) {
        int before = last[j] < -127 ? -127 : last[j];
#ifdef CR_HAS_UNSIGNED_PRODUCTS
        cr_set_change(changes, count, j, x[j], before);
        count += x[j] != before;
#else
        int by = x[j] - before, most = by > 127 ? 127 : by < -127 ? -127 : by;
        cr_set_change(changes, count, j, most, 0);
        count += by != 0;
        if (by == most) continue;
        cr_set_change(changes, count, j, by - most, 0);
        count++;
#endif
    }
    for (; count % 4; count++) cr_set_change(changes, count, 0, 0, 0);
    memcpy(last, x, columns);
    return count / 4;
}

/* Add the products of four columns of a block with the changes: those with `less` apart. */
#ifndef CR_HAS_TURNED_PRODUCTS
CR_INLINE void i8_add_columns(cr_w *sum, cr_w *less, const int8_t *const *column, const cr_changes *changes)
{
    int8_t turned[4 * CR_LINE];
    (void)less;
    i8_turn(turned, column[0], column[1], column[2], column[3]);
    cr_x x = i8_splat(changes->x);
    CR_UNROLL for (size_t p = 0; p < CR_MAX_BLOCK_PANELS; p++) sum[p] = i8_dot(sum[p], turned + CR_LINE * p, x);
}
#else
CR_INLINE void i8_add_columns(cr_w *sum, cr_w *less, const int8_t *const *column, const cr_changes *changes)
{
    cr_w panels[CR_MAX_BLOCK_PANELS], x = i8_splat(changes->x), y = i8_splat(changes->less);
    i8_turn(panels, column);
    CR_UNROLL for (size_t p = 0; p < CR_MAX_BLOCK_PANELS; p++) {
        sum[p] = i8_dot_word(sum[p], panels[p], x);
        less[p] = i8_dot_word(less[p], panels[p], y);
    }
}
#endif

static void cr_delta_i8(float *dst, const cr_matrix *m, const void *given, const float *init, float *memory, void *work)
{
    cr_vectors x = cr_vectors_of(CR_COLUMNS_I8, (cr_rows){(void *)(uintptr_t)given, 0});
    float *sums = cr_delta_sums(memory, m);
    cr_changes *changes = work;
    size_t count = cr_find_changes_i8(changes, (int8_t *)memory, (const int8_t *)x.numbers, m->columns);
    size_t panels = (m->rows + LANES - 1) / LANES;
    const int8_t *lines = m->lines;
    for (size_t panel = 0; panel < panels; panel += CR_MAX_BLOCK_PANELS, lines += CR_LINE * m->columns) {
        cr_w change[CR_MAX_BLOCK_PANELS], less[CR_MAX_BLOCK_PANELS];
        CR_UNROLL for (size_t p = 0; p < CR_MAX_BLOCK_PANELS; p++) change[p] = less[p] = w_splat(0);
        for (size_t i = 0; i < count; i++) {
            const int8_t *column[4];
            CR_UNROLL for (size_t c = 0; c < 4; c++) column[c] = lines + CR_LINE * (size_t)changes[i].number[c];
            i8_add_columns(change, less, column, &changes[i]);
        }
        for (size_t p = 0; p < CR_MAX_BLOCK_PANELS && panel + p < panels; p++) {
            size_t row = (panel + p) * LANES, left = m->rows - row;
            cr_w sum = w_add(w_load(sums + row), w_sub(change[p], less[p]));
            cr_v y;
            v_store(sums + row, w_bits(sum));
            cr_scale_sums(&y, &sum, m->scale + row, 1, x, 1);
            cr_v start = init ? v_load_some(init + row, left, 0.0f) : v_splat(0.0f);
            v_store_some(dst + row, v_add(start, y), left);
        }
    }
}
