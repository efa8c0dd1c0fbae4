/* Attention over all steps, for cr_body.h: CR_ATTEND. Each of 16 queries has a lane, so that keys and values are read as they
 * lie, number by number, and softmax needs nothing from another lane. */

enum { CR_ATTEND_TILE = 16, CR_ATTEND_BESIDE = 4 }; /* steps of a tile; sums that do not wait for each other */

/* Which steps of a tile count for which query: step `row` for those from number `row` - `before` on. */
typedef struct cr_reach {
    cr_v number;             /* of the query in each lane */
    size_t first;            /* of the tile */
    size_t rows;
    size_t count;            /* steps that count for all queries */
} cr_reach;

CR_INLINE int cr_is_partial(const cr_reach *tile, size_t row)
{
    return tile->first + row >= tile->count;
}

/* The lanes for which a step that does not count for all is too late. */
CR_INLINE cr_m cr_too_late(const cr_reach *tile, size_t row)
{
    return v_less(tile->number, v_splat((float)(tile->first + row - tile->count + 1)));
}

CR_INLINE const float *cr_row_at(cr_rows rows, size_t step)
{
    return (const float *)(const void *)((const char *)rows.first + step * rows.stride);
}

/* The scores of `beside` steps from `step` on. */
CR_INLINE void cr_score(float *scores, const float *queries, cr_rows keys, size_t step, size_t k, float scale, size_t beside)
{
    cr_v sum[CR_ATTEND_BESIDE];
    const float *key[CR_ATTEND_BESIDE];
    CR_UNROLL for (size_t i = 0; i < beside; i++) sum[i] = v_splat(0.0f), key[i] = cr_row_at(keys, step + i);
    for (size_t j = 0; j < k; j++) {
        cr_v q = v_load(queries + j * LANES);
        CR_UNROLL for (size_t i = 0; i < beside; i++) sum[i] = v_add(sum[i], v_mul(q, v_splat(key[i][j])));
    }
    CR_UNROLL for (size_t i = 0; i < beside; i++) v_store(scores + i * LANES, v_mul(sum[i], v_splat(scale)));
}

/* Numbers `at` to `at` + `beside` of the results, with the values of a tile's steps added. */
CR_INLINE void cr_add_values(float *results, const float *weights, cr_rows values, const cr_reach *tile, size_t at, cr_v shrunk,
                             size_t beside)
{
    cr_v sum[CR_ATTEND_BESIDE];
    CR_UNROLL for (size_t i = 0; i < beside; i++) sum[i] = v_mul(v_load(results + (at + i) * LANES), shrunk);
    for (size_t row = 0; row < tile->rows; row++) {
        const float *value = cr_row_at(values, tile->first + row) + at;
        cr_v w = v_load(weights + row * LANES);
        if (!cr_is_partial(tile, row)) {
            CR_UNROLL for (size_t i = 0; i < beside; i++) sum[i] = v_add(sum[i], v_mul(w, v_splat(value[i])));
            continue;
        }
        cr_m late = cr_too_late(tile, row);
        CR_UNROLL for (size_t i = 0; i < beside; i++)
            sum[i] = v_select(late, sum[i], v_add(sum[i], v_mul(w, v_splat(value[i]))));
    }
    CR_UNROLL for (size_t i = 0; i < beside; i++) v_store(results + (at + i) * LANES, sum[i]);
}

static void cr_attend(cr_rows dst, cr_rows queries, size_t many, const cr_attended *steps, size_t n, size_t k, float scale,
                      float *work)
{
    float *lines = work, *results = work + LANES * k, numbers[LANES], weights[CR_ATTEND_TILE * LANES];
    cr_v least = cr_negative(w_bits(w_splat(0x7f800000))), largest = least, sum = v_splat(0.0f);
    size_t beside = CR_ATTEND_BESIDE, end = steps->count + (steps->causal ? many - 1 : 0);
    memset(work, 0, sizeof(float) * LANES * (k + n));
    for (size_t i = 0; i < LANES; i++) numbers[i] = (float)i;
    for (size_t i = 0; i < many; i++)
        for (size_t j = 0; j < k; j++) lines[j * LANES + i] = cr_row_at(queries, i)[j];
    cr_reach tile = {v_load(numbers), 0, CR_ATTEND_TILE, steps->count};
    for (; tile.first < end; tile.first += CR_ATTEND_TILE) {
        size_t row = 0, at = 0;
        if (end - tile.first < CR_ATTEND_TILE) tile.rows = end - tile.first;
        for (; row + beside <= tile.rows; row += beside)
            cr_score(weights + row * LANES, lines, steps->keys, tile.first + row, k, scale, CR_ATTEND_BESIDE);
        for (; row < tile.rows; row++) cr_score(weights + row * LANES, lines, steps->keys, tile.first + row, k, scale, 1);
        cr_v before = largest;
        for (row = 0; row < tile.rows; row++) {
            cr_v score = v_load(weights + row * LANES);
            if (cr_is_partial(&tile, row)) score = v_select(cr_too_late(&tile, row), least, score);
            v_store(weights + row * LANES, score);
            largest = cr_max(largest, score);
        }
        cr_v from = v_select(v_equal(largest, least), v_splat(0.0f), largest), shrunk = cr_exp(v_sub(before, from));
        sum = v_mul(sum, shrunk);
        for (row = 0; row < tile.rows; row++) {
            cr_v w = cr_exp(v_sub(v_load(weights + row * LANES), from));
            v_store(weights + row * LANES, w);
            sum = v_add(sum, w);
        }
        for (; at + beside <= n; at += beside)
            cr_add_values(results, weights, steps->values, &tile, at, shrunk, CR_ATTEND_BESIDE);
        for (; at < n; at++) cr_add_values(results, weights, steps->values, &tile, at, shrunk, 1);
    }
    for (size_t at = 0; at < n; at++) {
        v_store(results + at * LANES, v_div(v_load(results + at * LANES), sum));
        for (size_t i = 0; i < many; i++)
            ((float *)(void *)((char *)dst.first + i * dst.stride))[at] = results[at * LANES + i];
    }
}
