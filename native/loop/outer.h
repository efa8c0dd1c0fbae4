/* Gradients of matrices, written once over the vector operations of the file that includes this one: the sum over all rows
 * of outer products, to[i][j] = sum over r of a[r][i] b[r][j].
 *
 * Sums of DOWN x ALONG vectors stay in registers. LOOP_OUTER_ROWS rows at a time: b is packed into panels of ALONG vectors,
 * a is read where it is, but for the last few columns, which are filled up with zeros. */
enum {
    DOWN = CR_TILE_PANELS == 4 ? LOOP_OUTER_DOWN : LOOP_OUTER_DOWN / 2,
    ALONG = CR_TILE_PANELS == 4 ? 2 : 1,
};

/* DOWN rows of `to`, of which there are `height`, and ALONG vectors, of which `width` columns are there. */
CR_INLINE void outer_block(const loop_outer *job, float *to, const float *a, ptrdiff_t a_row, const float *b, size_t rows,
                           size_t height, size_t width, int first)
{
    cr_v sum[DOWN * ALONG];
    CR_UNROLL
    for (size_t i = 0; i < DOWN * ALONG; i++) sum[i] = v_splat(0.0f);
    for (size_t r = 0; r < rows; r++, a += a_row, b += ALONG * LANES) {
        cr_v along[ALONG];
        CR_UNROLL
        for (size_t p = 0; p < ALONG; p++) along[p] = v_load(b + p * LANES);
        CR_UNROLL
        for (size_t i = 0; i < DOWN; i++) {
            cr_v factor = v_splat(a[i]);
            CR_UNROLL
            for (size_t p = 0; p < ALONG; p++) sum[i * ALONG + p] = v_add(sum[i * ALONG + p], v_mul(along[p], factor));
        }
    }
    CR_UNROLL
    for (size_t i = 0; i < DOWN; i++)
        CR_UNROLL
        for (size_t p = 0; p < ALONG; p++)
            if (i < height && p * LANES < width) {
                float *at = to + i * job->width + p * LANES;
                size_t left = width - p * LANES;
                cr_v total = sum[i * ALONG + p];
                v_store_some(at, first ? total : v_add(v_load_some(at, left, 0.0f), total), left);
            }
}

/* Rows `top` to `bottom` of the result. `room`: LOOP_OUTER_ROOM(width) numbers, aligned to 64 bytes. */
static void outer_all(const loop_outer *job, size_t top, size_t bottom, float *room)
{
    size_t step = ALONG * LANES, panels = (job->width + step - 1) / step;
    float *across = room, *filled = room + LOOP_OUTER_ROWS * panels * step;
    for (size_t done = 0; done < job->rows; done += LOOP_OUTER_ROWS) {
        size_t rows = job->rows - done < LOOP_OUTER_ROWS ? job->rows - done : LOOP_OUTER_ROWS;
        const float *a = job->a + (ptrdiff_t)done * job->a_row, *b = job->b + (ptrdiff_t)done * job->b_row;
        for (size_t p = 0; p < panels; p++)
            for (size_t r = 0; r < rows; r++)
                for (size_t j = 0; j < step; j += LANES) {
                    size_t column = p * step + j;
                    const float *from = b + (ptrdiff_t)r * job->b_row + column;
                    v_store(across + (p * rows + r) * step + j,
                            column < job->width ? v_load_some(from, job->width - column, 0.0f) : v_splat(0.0f));
                }
        for (size_t i = top; i < bottom; i += DOWN) {
            size_t height = bottom - i < DOWN ? bottom - i : DOWN;
            const float *column = a + i;
            ptrdiff_t row = job->a_row;
            if (height < DOWN) {
                for (size_t r = 0; r < rows; r++)
                    for (size_t k = 0; k < DOWN; k++)
                        filled[r * DOWN + k] = k < height ? column[(ptrdiff_t)r * row + (ptrdiff_t)k] : 0.0f;
                column = filled, row = DOWN;
            }
            for (size_t p = 0; p < panels; p++)
                outer_block(job, job->to + i * job->width + p * step, column, row, across + p * rows * step, rows, height,
                            job->width - p * step, done == 0);
        }
    }
}
