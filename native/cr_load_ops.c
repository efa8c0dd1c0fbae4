/* Verify the ops of a file, one by one: operands, sizes, parameters. */
#include <math.h>

#include "cr_load.h"
#include "cr_numbers.h"

static int cr_is_apart(cr_ref p, uint64_t p_width, cr_ref q, uint64_t q_width)
{
    return p.buffer != q.buffer || p.offset + p_width <= q.offset || q.offset + q_width <= p.offset;
}

/* The op that is being checked, in its segment. */
typedef struct {
    const cr_model *model;
    const cr_op *op;
    uint32_t segment;
    uint64_t *looks;
} cr_site;

/* How an operand may lie to dst: apart only, or also in the same place. */
enum cr_relation { CR_APART, CR_SAME };

/* An operand of whose `width` numbers not all need be written. */
static int cr_check_place(const cr_site *site, cr_ref ref, uint64_t width, enum cr_relation relation)
{
    const cr_op *op = site->op;
    int code = cr_check_read(site->model, site->segment, ref, width);
    if (code) return code;
    if (cr_is_apart(op->dst, cr_written_width(op), ref, width)) return CR_OK;
    if (relation == CR_SAME && width == op->n && ref.buffer == op->dst.buffer && ref.offset == op->dst.offset)
        return CR_OK;
    return CR_ERROR_OVERLAP;
}

static int cr_check_operand(const cr_site *site, cr_ref ref, uint64_t width, enum cr_relation relation)
{
    int code = cr_check_place(site, ref, width, relation);
    return code ? code : cr_check_written(site->model, (uint32_t)(site->op - site->model->ops), ref, width, site->looks);
}

static int cr_check_unused(cr_ref ref)
{
    return ref.buffer == CR_NONE && !ref.offset ? CR_OK : CR_ERROR_LAYOUT;
}

/* The numbers that GATHER takes: places within the vector, and written. */
static int cr_check_gathered(const cr_site *site, const cr_tensor *tensor)
{
    const int32_t *index = (const int32_t *)(const void *)(site->model->file + tensor->place);
    cr_ref a = site->op->a;
    uint32_t number = (uint32_t)(site->op - site->model->ops), first = UINT32_MAX, last = 0;
    if (tensor->rows > *site->looks) return CR_ERROR_LIMIT;
    *site->looks -= tensor->rows;
    for (uint32_t i = 0; i < tensor->rows; i++) {
        if (index[i] < -1 || (index[i] >= 0 && (uint32_t)index[i] >= site->op->k)) return CR_ERROR_VALUE;
        if (index[i] < 0) continue;
        if ((uint32_t)index[i] < first) first = (uint32_t)index[i];
        if ((uint32_t)index[i] > last) last = (uint32_t)index[i];
    }
    if (first > last) return CR_OK;
    cr_ref from = {a.buffer, a.offset + first};
    int code = cr_check_written(site->model, number, from, last - first + 1, site->looks);
    if (code != CR_ERROR_UNWRITTEN) return code;
    for (uint32_t i = 0; i < tensor->rows; i++) { /* what lies between them need not be written */
        if (index[i] < 0) continue;
        cr_ref one = {a.buffer, a.offset + (uint32_t)index[i]};
        if ((code = cr_check_written(site->model, number, one, 1, site->looks))) return code;
    }
    return CR_OK;
}

/* What an op may use; the rest must be absent. */
typedef struct {
    unsigned k : 1, b : 1, c : 1, d : 1, p0 : 1, p1 : 1, tensor : 1;
    unsigned functions;
} cr_signature;

static const cr_signature signatures[CR_CODE_COUNT] = {
    [CR_EMBED] = {.tensor = 1},
    [CR_AFFINE] = {.k = 1, .b = 1, .p0 = 1, .tensor = 1},
    [CR_GATHER] = {.k = 1, .tensor = 1},
    [CR_UNARY] = {.p0 = 1, .p1 = 1, .functions = CR_UNARY_COUNT},
    [CR_BINARY] = {.k = 1, .b = 1, .functions = CR_BINARY_COUNT},
    [CR_REDUCE] = {.k = 1, .functions = CR_REDUCE_COUNT},
    [CR_SOFTMAX] = {.k = 1},
    [CR_LOG_SOFTMAX] = {.k = 1},
    [CR_LAYER_NORM] = {.k = 1, .p0 = 1},
    [CR_LSTM] = {.k = 1, .b = 1, .c = 1, .p0 = 1, .tensor = 1},
    [CR_GRU] = {.k = 1, .b = 1, .c = 1, .d = 1, .p0 = 1, .tensor = 1},
    [CR_FLIP] = {.k = 0},
    [CR_TOP] = {.k = 1, .functions = CR_TOP_COUNT},
    [CR_SELECT] = {.b = 1, .c = 1},
    [CR_DELAY] = {.k = 1},
    [CR_LSTM_CELL] = {.b = 1},
    [CR_GRU_CELL] = {.c = 1, .d = 1},
};

static int cr_check_signature(const cr_model *model, const cr_op *op)
{
    int code;
    if (!op->code || op->code >= CR_CODE_COUNT) return CR_ERROR_ENUM;
    const cr_signature *use = &signatures[op->code];
    if (op->fn >= (use->functions ? use->functions : 1)) return CR_ERROR_ENUM;
    if (!op->n || op->n > CR_MAX_WIDTH || op->k > CR_MAX_WIDTH) return CR_ERROR_LIMIT;
    if (use->k ? !op->k : op->k) return CR_ERROR_SHAPE;
    if (!use->b && (code = cr_check_unused(op->b))) return code;
    if (!use->c && (code = cr_check_unused(op->c))) return code;
    if (!use->d && (code = cr_check_unused(op->d))) return code;
    if (isnan(op->p0) || isnan(op->p1)) return CR_ERROR_VALUE;
    if ((!use->p0 && op->p0 != 0) || (!use->p1 && op->p1 != 0)) return CR_ERROR_VALUE;
    if (!use->tensor) return op->tensor == CR_NONE ? CR_OK : CR_ERROR_LAYOUT;
    return op->tensor < model->header->tensor_count ? CR_OK : CR_ERROR_REFERENCE;
}

/* The matrix of a product, and the scale of its inputs. */
static int cr_check_product(const cr_op *op, const cr_tensor *tensor, uint64_t rows)
{
    if (!cr_is_matrix(tensor->type) || tensor->rows != rows || tensor->columns != op->k) return CR_ERROR_SHAPE;
    if (op->p0 == 0) return CR_OK;
    return (tensor->type == CR_MATRIX_I8 || tensor->type == CR_MATRIX_I4) && op->p0 >= 1e-30f && op->p0 <= 1e30f ? CR_OK : CR_ERROR_VALUE;
}

static int cr_check_op(const cr_site *site)
{
    int code;
    const cr_model *model = site->model;
    const cr_op *op = site->op;
    uint32_t segment = site->segment;
    if ((code = cr_check_signature(model, op))) return code;
    if ((code = cr_check_write(model, segment, op->dst, cr_written_width(op)))) return code;
    const cr_tensor *tensor = op->tensor == CR_NONE ? NULL : &model->tensors[op->tensor];
    uint64_t n = op->n, k = op->k, padded = (n + CR_LANES - 1) / CR_LANES * CR_LANES;
    switch (op->code) {
    case CR_EMBED:
        if (tensor->type < CR_TABLE_F32 || tensor->type > CR_TABLE_I8 || tensor->columns != n) return CR_ERROR_SHAPE;
        return cr_check_operand(site, op->a, 1, CR_APART);
    case CR_AFFINE:
        if ((code = cr_check_product(op, tensor, n))) return code;
        if ((code = cr_check_operand(site, op->a, k, CR_APART))) return code;
        if (op->b.buffer == CR_NONE) return cr_check_unused(op->b);
        return cr_check_operand(site, op->b, n, CR_SAME);
    case CR_GATHER:
        if (tensor->type != CR_INDEX || tensor->rows != n) return CR_ERROR_SHAPE;
        if ((code = cr_check_place(site, op->a, k, CR_APART))) return code;
        return cr_check_gathered(site, tensor);
    case CR_UNARY:
        if (op->fn == CR_CLAMP ? op->p0 > op->p1 : op->fn != CR_SCALE_SHIFT && (op->p0 != 0 || op->p1 != 0))
            return CR_ERROR_VALUE;
        return cr_check_operand(site, op->a, n, CR_SAME);
    case CR_BINARY:
        if (n % k) return CR_ERROR_SHAPE;
        if ((code = cr_check_operand(site, op->a, n, CR_SAME))) return code;
        return cr_check_operand(site, op->b, k, CR_SAME);
    case CR_REDUCE:
        return cr_check_operand(site, op->a, n * k, CR_APART);
    case CR_LAYER_NORM:
        if (!(op->p0 >= 0 && op->p0 <= 1e30f)) return CR_ERROR_VALUE;
        /* fall through */
    case CR_SOFTMAX:
    case CR_LOG_SOFTMAX:
        if (n % k) return CR_ERROR_SHAPE;
        return cr_check_operand(site, op->a, n, CR_SAME);
    case CR_TOP:
        if (n > k) return CR_ERROR_SHAPE;
        return cr_check_operand(site, op->a, k, CR_APART);
    case CR_LSTM:
        if ((code = cr_check_product(op, tensor, 4 * padded))) return code;
        if (tensor->block != 4) return CR_ERROR_SHAPE;
        if ((code = cr_check_operand(site, op->a, 4 * padded, CR_APART))) return code;
        if ((code = cr_check_operand(site, op->b, n, CR_APART))) return code;
        if ((code = cr_check_operand(site, op->c, k, CR_APART))) return code;
        if (!cr_is_apart(op->a, 4 * padded, op->b, n) || !cr_is_apart(op->c, k, op->b, n)) return CR_ERROR_OVERLAP;
        return cr_check_write(model, segment, op->b, n);
    case CR_GRU:
        if ((code = cr_check_product(op, tensor, 3 * padded))) return code;
        if (tensor->block != 3) return CR_ERROR_SHAPE;
        if ((code = cr_check_operand(site, op->a, 3 * padded, CR_APART))) return code;
        if (op->b.buffer == CR_NONE ? (code = cr_check_unused(op->b))
                                    : (code = cr_check_operand(site, op->b, n, CR_APART)))
            return code;
        if ((code = cr_check_operand(site, op->c, k, CR_APART))) return code;
        return cr_check_operand(site, op->d, n, CR_SAME);
    case CR_LSTM_CELL:
        if ((code = cr_check_operand(site, op->a, 4 * n, CR_APART))) return code;
        if ((code = cr_check_operand(site, op->b, n, CR_APART))) return code;
        if (!cr_is_apart(op->a, 4 * n, op->b, n)) return CR_ERROR_OVERLAP;
        return cr_check_write(model, segment, op->b, n);
    case CR_GRU_CELL:
        if ((code = cr_check_operand(site, op->a, 3 * n, CR_APART))) return code;
        if ((code = cr_check_operand(site, op->c, 3 * n, CR_APART))) return code;
        return cr_check_operand(site, op->d, n, CR_SAME);
    case CR_SELECT:
        if ((code = cr_check_operand(site, op->a, n, CR_SAME))) return code;
        if ((code = cr_check_operand(site, op->b, n, CR_SAME))) return code;
        return cr_check_operand(site, op->c, n, CR_SAME);
    case CR_DELAY:
        if (k % n) return CR_ERROR_SHAPE;
        if (model->buffers[op->dst.buffer].kind != CR_STATE) return CR_ERROR_ACCESS;
        return cr_check_operand(site, op->a, n, CR_APART);
    case CR_FLIP: {
        if ((code = cr_check_operand(site, op->a, n, CR_APART))) return code;
        const cr_buffer *buffer = &model->buffers[op->a.buffer];
        if (buffer->kind == CR_INPUT) return CR_OK;
        return buffer->kind == CR_SEQUENCE && buffer->segment < segment ? CR_OK : CR_ERROR_ACCESS;
    }
    }
    return CR_ERROR_ENUM;
}

int cr_check_ops(cr_model *model, uint64_t *looks)
{
    for (uint32_t i = 0, s = 0; i < model->header->op_count; i++) {
        while (i >= model->segments[s].first_op + model->segments[s].op_count) s++;
        cr_site site = {model, &model->ops[i], s, looks};
        int code = cr_check_op(&site);
        model->fault = i;
        if (code) return code;
    }
    model->fault = CR_NONE;
    return CR_OK;
}
