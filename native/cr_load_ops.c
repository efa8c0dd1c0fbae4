/* Verify the ops of a file, one by one: operands, sizes, parameters. */
#include <math.h>

#include "cr_kernels.h"
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

/* An operand of whose `width` numbers not all need be written; `use`: of enum cr_use. */
static int cr_check_place(const cr_site *site, cr_ref ref, uint64_t width, unsigned use)
{
    const cr_op *op = site->op;
    int code = cr_check_read(site->model, site->segment, ref, width);
    if (code) return code;
    if (cr_is_apart(op->dst, cr_written_width(op), ref, width)) return CR_OK;
    if (use & CR_IN_PLACE && width == op->n && ref.buffer == op->dst.buffer && ref.offset == op->dst.offset)
        return CR_OK;
    return CR_ERROR_OVERLAP;
}

static int cr_check_operand(const cr_site *site, cr_ref ref, uint64_t width, unsigned use)
{
    int code = cr_check_place(site, ref, width, use);
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
    int code = cr_check_place(site, a, site->op->k, 0);
    if (code) return code;
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
    code = cr_check_written(site->model, number, from, last - first + 1, site->looks);
    if (code != CR_ERROR_UNWRITTEN) return code;
    for (uint32_t i = 0; i < tensor->rows; i++) { /* what lies between them need not be written */
        if (index[i] < 0) continue;
        cr_ref one = {a.buffer, a.offset + (uint32_t)index[i]};
        if ((code = cr_check_written(site->model, number, one, 1, site->looks))) return code;
    }
    return CR_OK;
}

static int cr_check_k(const cr_op *op, unsigned rule)
{
    if (rule == CR_NO_K ? op->k : !op->k) return CR_ERROR_SHAPE;
    int contradict = (rule == CR_K_DIVIDES_N && op->n % op->k) || (rule == CR_N_DIVIDES_K && op->k % op->n) ||
                     (rule == CR_N_UP_TO_K && op->n > op->k);
    return contradict ? CR_ERROR_SHAPE : CR_OK;
}

/* p0 and p1; of a product p0 is the scale of its inputs, which only whole numbers have. */
static int cr_check_parameters(const cr_op *op, const cr_operation *is, const cr_tensor *tensor)
{
    if (isnan(op->p0) || isnan(op->p1)) return CR_ERROR_VALUE;
    unsigned count = op->code == CR_UNARY ? cr_unary_parameters[op->fn] : is->parameters;
    if (is->gates && cr_takes_quantized(tensor->type)) count = 1;
    if ((count < 1 && op->p0 != 0) || (count < 2 && op->p1 != 0)) return CR_ERROR_VALUE;
    if (op->code == CR_DELTA && count && op->p0 == 0) return CR_ERROR_VALUE; /* it has one scale for all steps */
    if (is->gates && op->p0 != 0 && !(op->p0 >= 1e-30f && op->p0 <= 1e30f)) return CR_ERROR_VALUE;
    if (op->code == CR_LAYER_NORM && !(op->p0 >= 0 && op->p0 <= 1e30f)) return CR_ERROR_VALUE;
    return op->code == CR_UNARY && op->fn == CR_UNARY_CLAMP && op->p0 > op->p1 ? CR_ERROR_VALUE : CR_OK;
}

/* A whole number of vectors goes in, and the same number comes out. */
static int cr_check_matmul(const cr_op *op, const cr_tensor *tensor)
{
    if (tensor->type != CR_MATRIX_F32 && tensor->type != CR_MATRIX_I8) return CR_ERROR_SHAPE;
    if (op->k % tensor->columns || op->n % tensor->rows) return CR_ERROR_SHAPE;
    return op->k / tensor->columns == op->n / tensor->rows ? CR_OK : CR_ERROR_SHAPE;
}

static int cr_check_sizes(const cr_op *op, const cr_operation *is, const cr_tensor *tensor)
{
    switch (is->tensor) {
    case CR_USES_MATRIX:
        if (op->code == CR_MATMUL) return cr_check_matmul(op, tensor);
        if (!cr_is_matrix(tensor->type) || tensor->type == CR_COLUMNS_I8 || tensor->rows != cr_width_of(is->rows, op->n, op->k)) return CR_ERROR_SHAPE;
        return tensor->columns != op->k || (is->gates > 1 && tensor->block != is->gates) ? CR_ERROR_SHAPE : CR_OK;
    case CR_USES_TABLE:
        return tensor->type > CR_TABLE_I8 || tensor->columns != op->n ? CR_ERROR_SHAPE : CR_OK; /* a matrix, too */
    case CR_USES_COLUMNS:
        if (tensor->type != CR_MATRIX_F32 && tensor->type != CR_COLUMNS_I8) return CR_ERROR_SHAPE;
        return tensor->rows != op->n || tensor->columns != op->k ? CR_ERROR_SHAPE : CR_OK;
    case CR_USES_INDEX: return tensor->type != CR_INDEX || tensor->rows != op->n ? CR_ERROR_SHAPE : CR_OK;
    default: return CR_OK;
    }
}

static int cr_check_operands(const cr_site *site, const cr_operation *is, const cr_tensor *tensor)
{
    const cr_op *op = site->op;
    const cr_ref refs[] = {op->a, op->b, op->c, op->d};
    const cr_operand operands[] = {is->a, is->b, is->c, is->d};
    uint64_t widths[4];
    int code;
    for (int i = 0; i < 4; i++) {
        widths[i] = cr_width_of(operands[i].width, op->n, op->k);
        if (!operands[i].width || (operands[i].use & CR_OPTIONAL && refs[i].buffer == CR_NONE))
            code = cr_check_unused(refs[i]);
        else if (op->code == CR_GATHER)
            code = cr_check_gathered(site, tensor);
        else
            code = cr_check_operand(site, refs[i], widths[i], operands[i].use);
        if (code) return code;
    }
    for (int i = 0; i < 4; i++) {
        if (!(operands[i].use & CR_UPDATED)) continue;
        for (int j = 0; j < 4; j++)
            if (j != i && operands[j].width && !cr_is_apart(refs[i], widths[i], refs[j], widths[j]))
                return CR_ERROR_OVERLAP;
        if ((code = cr_check_write(site->model, site->segment, refs[i], widths[i]))) return code;
    }
    return CR_OK;
}

static int cr_check_op(const cr_site *site)
{
    int code;
    const cr_model *model = site->model;
    const cr_op *op = site->op;
    if (!op->code || op->code >= CR_CODE_COUNT) return CR_ERROR_ENUM;
    const cr_operation *is = &cr_operations[op->code];
    if (op->fn >= (is->functions ? is->functions : 1)) return CR_ERROR_ENUM;
    if (!op->n || op->n > CR_MAX_WIDTH || op->k > CR_MAX_WIDTH) return CR_ERROR_LIMIT;
    if ((code = cr_check_k(op, is->k))) return code;
    if (!is->tensor && op->tensor != CR_NONE) return CR_ERROR_LAYOUT;
    if (is->tensor && op->tensor >= model->header->tensor_count) return CR_ERROR_REFERENCE;
    const cr_tensor *tensor = is->tensor ? &model->tensors[op->tensor] : NULL;
    if ((code = cr_check_sizes(op, is, tensor))) return code;
    if ((code = cr_check_parameters(op, is, tensor))) return code;
    if ((code = cr_check_write(model, site->segment, op->dst, cr_written_width(op)))) return code;
    if ((code = cr_check_operands(site, is, tensor))) return code;
    if (op->code == CR_DELAY && model->buffers[op->dst.buffer].kind != CR_STATE) return CR_ERROR_ACCESS;
    if (op->code == CR_DELTA && model->buffers[op->c.buffer].kind != CR_STATE) return CR_ERROR_ACCESS;
    if (op->code != CR_FLIP) return CR_OK;
    const cr_buffer *buffer = &model->buffers[op->a.buffer];
    return buffer->kind == CR_INPUT || (buffer->kind == CR_SEQUENCE && buffer->segment < site->segment) ? CR_OK
                                                                                                        : CR_ERROR_ACCESS;
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
