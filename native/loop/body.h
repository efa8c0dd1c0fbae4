/* loop.h, written once over the vector operations of the file that includes this one, and compiled twice: multiplications
 * and additions may be fused in one of them, the other keeps the law of numbers, as the engine does. */
#include "cr_math.h"
#include "loop.h"
#include "outer.h"

enum {
    ROWS = CR_TILE_PANELS == 4 ? 8 : 4, /* how many rows' sums the registers hold, */
    SUMS = CR_TILE_PANELS == 4 ? 16 : 4, /* how many vectors of sums in all, */
    WIDE = CR_TILE_PANELS == 4 ? 2 : 1   /* and for how many panels there is room then */
};

CR_INLINE cr_v loop_value(enum loop_code code, cr_v a, cr_v b, cr_v c)
{
    switch (code) {
#define LOOP_CASE(NAME, operands, value) \
    case LOOP_##NAME: return value;
        LOOP_FUNCTIONS(LOOP_CASE)
#undef LOOP_CASE
    default: return a;
    }
}

CR_INLINE void loop_map(enum loop_code code, int operands, const loop_op *op, float *to, const float *a, const float *b,
                        const float *c, size_t rows)
{
    cr_v none = v_splat(0.0f);
    if (operands < 2) b = a; /* what is not read has no address */
    if (operands < 3) c = a;
    for (size_t r = 0; r < rows; r++) {
        size_t j = 0;
        for (; j + LANES <= op->width; j += LANES)
            v_store(to + j, loop_value(code, v_load(a + j), operands > 1 ? v_load(b + j) : none,
                                       operands > 2 ? v_load(c + j) : none));
        if (j < op->width) {
            size_t n = op->width - j;
            cr_v y = loop_value(code, v_load_some(a + j, n, 0.0f), operands > 1 ? v_load_some(b + j, n, 0.0f) : none,
                                operands > 2 ? v_load_some(c + j, n, 0.0f) : none);
            v_store_some(to + j, y, n);
        }
        to += op->to.row, a += op->a.row;
        b += operands > 1 ? op->b.row : op->a.row, c += operands > 2 ? op->c.row : op->a.row;
    }
}

/* `rows` rows times `panels` panels of the matrix, both constants: the sums stay in registers. `width`: what is left of
 * the row from here on. */
CR_INLINE void loop_block(size_t rows, size_t panels, const loop_op *op, float *to, const float *x, const float *addend,
                          const float *matrix, size_t width)
{
    cr_v sum[SUMS];
    size_t size = op->depth * LANES;
    CR_UNROLL
    for (size_t r = 0; r < rows; r++)
        CR_UNROLL
        for (size_t p = 0; p < panels; p++)
            sum[r * panels + p] =
                addend ? v_load_some(addend + (ptrdiff_t)r * op->b.row + p * LANES, width - p * LANES, 0.0f) : v_splat(0.0f);
    for (size_t k = 0; k < op->depth; k++) {
        cr_v column[SUMS];
        CR_UNROLL
        for (size_t p = 0; p < panels; p++) column[p] = v_load(matrix + p * size + k * LANES);
        CR_UNROLL
        for (size_t r = 0; r < rows; r++) {
            cr_v factor = v_splat(x[(ptrdiff_t)r * op->a.row + (ptrdiff_t)k]);
            CR_UNROLL
            for (size_t p = 0; p < panels; p++) sum[r * panels + p] = v_add(sum[r * panels + p], v_mul(column[p], factor));
        }
    }
    CR_UNROLL
    for (size_t r = 0; r < rows; r++)
        CR_UNROLL
        for (size_t p = 0; p < panels; p++)
            v_store_some(to + (ptrdiff_t)r * op->to.row + p * LANES, sum[r * panels + p], width - p * LANES);
}

CR_INLINE void loop_sweep(size_t rows, size_t panels, const loop_op *op, float *to, const float *x, const float *addend)
{
    size_t done = 0, all = (op->width + LANES - 1) / LANES;
    const float *matrix = op->panels;
    for (; done < all;) {
        size_t width = op->width - done * LANES;
        if (all - done >= panels) {
            loop_block(rows, panels, op, to, x, addend, matrix, width);
            done += panels, matrix += panels * op->depth * LANES, to += panels * LANES;
            addend = addend ? addend + panels * LANES : addend;
        } else {
            loop_block(rows, 1, op, to, x, addend, matrix, width);
            done++, matrix += op->depth * LANES, to += LANES, addend = addend ? addend + LANES : addend;
        }
    }
}

CR_NOINLINE void loop_linear(const loop_op *op, float *to, const float *x, const float *addend, size_t rows)
{
    while (rows) {
        size_t n = rows < ROWS ? rows : ROWS;
        switch (n) {
        case 8: loop_sweep(8, WIDE, op, to, x, addend); break;
        case 7: loop_sweep(7, WIDE, op, to, x, addend); break;
        case 6: loop_sweep(6, WIDE, op, to, x, addend); break;
        case 5: loop_sweep(5, WIDE, op, to, x, addend); break;
        case 4: loop_sweep(4, SUMS / 4, op, to, x, addend); break;
        case 3: loop_sweep(3, SUMS / 4, op, to, x, addend); break;
        case 2: loop_sweep(2, SUMS / 2, op, to, x, addend); break;
        default: loop_sweep(1, SUMS / 2, op, to, x, addend);
        }
        rows -= n, to += (ptrdiff_t)n * op->to.row, x += (ptrdiff_t)n * op->a.row;
        addend = addend ? addend + (ptrdiff_t)n * op->b.row : addend;
    }
}

CR_INLINE void loop_quantized(const loop_op *op, float *to, const float *x, const float *addend, size_t rows)
{
    size_t stride = CR_QUANTIZED_BYTES(op->depth), size = sizeof(float);
    for (size_t r = 0; r < rows; r++)
        op->kernels->quantize(op->quantized + r * stride, x + (ptrdiff_t)r * op->a.row, op->scale, op->depth);
    cr_rows dst = {to, (size_t)op->to.row * size}, init = {(void *)(uintptr_t)addend, (size_t)op->b.row * size};
    op->kernels->affine[op->type](dst, &op->matrix, (cr_rows){op->quantized, stride}, init, rows);
}

CR_INLINE void loop_spread(const loop_op *op, float *to, const float *a, size_t rows)
{
    for (size_t r = 0; r < rows; r++, to += op->to.row, a += op->a.row) {
        cr_v x = v_splat(*a);
        size_t j = 0;
        for (; j + LANES <= op->width; j += LANES) v_store(to + j, x);
        if (j < op->width) v_store_some(to + j, x, op->width - j);
    }
}

CR_INLINE void loop_total(const loop_op *op, float *to, const float *a, size_t rows)
{
    for (size_t r = 0; r < rows; r++, to += op->to.row, a += op->a.row) {
        float lanes[LANES], total = 0.0f;
        cr_v sum = v_splat(0.0f);
        size_t j = 0;
        for (; j + LANES <= op->depth; j += LANES) sum = v_add(sum, v_load(a + j));
        if (j < op->depth) sum = v_add(sum, v_load_some(a + j, op->depth - j, 0.0f));
        v_store(lanes, sum);
        for (size_t i = 0; i < LANES; i++) total += lanes[i];
        *to = total;
    }
}

CR_INLINE void loop_sum(const loop_op *op, const float *a, size_t rows)
{
    for (size_t r = 0; r < rows; r++, a += op->a.row)
        for (size_t j = 0; j < op->width; j += LANES) {
            size_t n = op->width - j;
            v_store_some(op->sums + j, v_add(v_load_some(op->sums + j, n, 0.0f), v_load_some(a + j, n, 0.0f)), n);
        }
}

/* Sums of thousands of steps lose digits in float32: they are gathered in float64 every few steps. */
static void loop_gather(const loop_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ops[i].code == LOOP_SUM)
            for (size_t j = 0; j < ops[i].width; j++) {
                ops[i].total[j] += ops[i].sums[j];
                ops[i].sums[j] = 0.0f;
            }
}

/* NULL where the operation has no such operand. */
CR_INLINE float *loop_at(const loop_place *place, size_t t, size_t row)
{
    if (!place->base) return NULL;
    return place->base + (ptrdiff_t)t * place->time + (ptrdiff_t)row * place->tile;
}

static void loop_run_all(const loop_op *ops, size_t count, size_t steps, int backwards, size_t first, size_t end)
{
    for (size_t s = 0; s < steps; s++) {
        size_t t = backwards ? steps - 1 - s : s;
        for (size_t row = first; row < end; row += LOOP_TILE) {
            size_t rows = end - row < LOOP_TILE ? end - row : LOOP_TILE;
            for (const loop_op *op = ops; op < ops + count; op++) {
                float *to = loop_at(&op->to, t, row);
                const float *a = loop_at(&op->a, t, row), *b = loop_at(&op->b, t, row), *c = loop_at(&op->c, t, row);
                switch (op->code) {
#define LOOP_CASE(NAME, operands, value) \
    case LOOP_##NAME: loop_map(LOOP_##NAME, operands, op, to, a, b, c, rows); break;
                    LOOP_FUNCTIONS(LOOP_CASE)
#undef LOOP_CASE
                case LOOP_LINEAR: loop_linear(op, to, a, op->has_addend ? b : NULL, rows); break;
                case LOOP_QUANTIZED: loop_quantized(op, to, a, op->has_addend ? b : NULL, rows); break;
                case LOOP_SPREAD: loop_spread(op, to, a, rows); break;
                case LOOP_TOTAL: loop_total(op, to, a, rows); break;
                case LOOP_SUM: loop_sum(op, a, rows); break;
                }
            }
        }
        if (s % 32 == 31) loop_gather(ops, count);
    }
    loop_gather(ops, count);
}

#define LOOP_PASTE(a, b, c) a##b##_##c
#define LOOP_NAMED(rounding, table) LOOP_PASTE(loop_, rounding, table)
#define LOOP_SYMBOL(table) LOOP_NAMED(LOOP_ROUNDING, table)
extern const loop_functions LOOP_SYMBOL(CR_TABLE);
const loop_functions LOOP_SYMBOL(CR_TABLE) = {loop_run_all, outer_all};
