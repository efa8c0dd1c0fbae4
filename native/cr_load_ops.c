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

/* An operand that is read at other steps, too: all of its rows are there. Of tokens only FLIP reads the numbers. */
static int cr_check_all_steps(const cr_site *site, cr_ref ref)
{
    const cr_buffer *buffer = &site->model->buffers[ref.buffer];
    if (buffer->kind == CR_INPUT)
        return site->op->code != CR_FLIP && site->model->inputs[buffer->segment].vocabulary ? CR_ERROR_ACCESS : CR_OK;
    return buffer->kind == CR_SEQUENCE && buffer->segment < site->segment ? CR_OK : CR_ERROR_ACCESS;
}

static int cr_check_unused(cr_ref ref)
{
    return ref.buffer == CR_NONE && !ref.offset ? CR_OK : CR_ERROR_LAYOUT;
}

/* Row i of an index as a run that may repeat; a single position is a run, too. */
static cr_index_repeat cr_run_at(const cr_model *model, const cr_tensor *tensor, uint32_t i)
{
    const void *stored = model->file + tensor->place;
    if (tensor->type == CR_REPEATS) return ((const cr_index_repeat *)stored)[i];
    if (tensor->type == CR_INDEX) return (cr_index_repeat){((const int32_t *)stored)[i], 0, 0, 1};
    cr_index_run run = ((const cr_index_run *)stored)[i];
    return (cr_index_repeat){run.first, 0, run.step, run.count};
}

/* The rows from `first` to before `end`: runs that come `times` times. */
typedef struct {
    uint32_t times;
    uint32_t first;
    uint32_t end;
} cr_block;

/* The block that begins at row `at`: an index without repetitions is one block. */
static int cr_block_at(const cr_model *model, const cr_tensor *tensor, uint32_t at, cr_block *block)
{
    *block = (cr_block){1, 0, tensor->rows};
    if (tensor->type != CR_REPEATS) return CR_OK;
    cr_index_block head = ((const cr_index_block *)(const void *)(model->file + tensor->place))[at];
    if (head.reserved) return CR_ERROR_LAYOUT;
    if (!head.runs || head.runs >= tensor->rows - at || !head.times || head.times > CR_MAX_WIDTH) return CR_ERROR_VALUE;
    *block = (cr_block){head.times, at + 1, at + 1 + head.runs};
    return CR_OK;
}

static int64_t cr_last_of(cr_index_repeat run)
{
    return run.first + (int64_t)run.step * (run.count - 1);
}

/* What an index says: how many positions, and the least and the greatest that is not -1. */
typedef struct {
    uint64_t count;
    int64_t low;
    int64_t high;
} cr_positions;

/* A run that comes `times` times: its positions are those of a vector of `k` numbers. */
static int cr_add_run(cr_positions *all, cr_index_repeat run, uint32_t times, int64_t k)
{
    int64_t last = cr_last_of(run), moved = (int64_t)run.shift * (times - 1);
    int64_t low = run.first < last ? run.first : last, high = run.first < last ? last : run.first;
    all->count += (uint64_t)run.count * times;
    if (!run.count || run.first < -1 || (times == 1 && run.shift)) return CR_ERROR_VALUE;
    if (run.first < 0) return run.step || run.shift ? CR_ERROR_VALUE : CR_OK;
    low += moved < 0 ? moved : 0;
    high += moved < 0 ? 0 : moved;
    if (low < 0 || high >= k) return CR_ERROR_VALUE;
    if (low < all->low) all->low = low;
    if (high > all->high) all->high = high;
    return CR_OK;
}

/* All positions of a run, `moved` further, of which not all that lies between them need be written. */
static int cr_check_run(const cr_site *site, cr_index_repeat run, int64_t moved)
{
    cr_ref a = site->op->a;
    int64_t last = cr_last_of(run), low = run.first < last ? run.first : last;
    uint32_t number = (uint32_t)(site->op - site->model->ops), dense = run.step >= -1 && run.step <= 1;
    uint64_t width = dense ? (uint64_t)((run.first < last ? last : run.first) - low) + 1 : 1;
    for (uint32_t j = 0; j < (dense ? 1u : run.count); j++) {
        int64_t first = moved + (dense ? low : run.first + (int64_t)run.step * j);
        int code = cr_check_written(site->model, number, (cr_ref){a.buffer, a.offset + (uint32_t)first}, width, site->looks);
        if (code) return code;
    }
    return CR_OK;
}

static int cr_check_runs(const cr_site *site, const cr_tensor *tensor)
{
    cr_block block;
    for (uint32_t at = 0; at < tensor->rows; at = block.end) {
        int code = cr_block_at(site->model, tensor, at, &block);
        if (code) return code;
        for (uint32_t i = block.first; i < block.end; i++) {
            cr_index_repeat run = cr_run_at(site->model, tensor, i);
            for (uint32_t time = 0; run.first >= 0 && time < block.times; time++)
                if ((code = cr_check_run(site, run, (int64_t)run.shift * time))) return code;
        }
    }
    return CR_OK;
}

/* The numbers that GATHER takes: places within the vector, and written. */
static int cr_check_gathered(const cr_site *site, const cr_tensor *tensor)
{
    cr_ref a = site->op->a;
    uint32_t number = (uint32_t)(site->op - site->model->ops);
    cr_positions all = {0, INT64_MAX, -1};
    cr_block block;
    int code = cr_check_place(site, a, site->op->k, 0);
    if (code) return code;
    if (tensor->rows > *site->looks) return CR_ERROR_LIMIT;
    *site->looks -= tensor->rows;
    for (uint32_t at = 0; at < tensor->rows; at = block.end) {
        if ((code = cr_block_at(site->model, tensor, at, &block))) return code;
        for (uint32_t i = block.first; i < block.end; i++)
            if ((code = cr_add_run(&all, cr_run_at(site->model, tensor, i), block.times, site->op->k))) return code;
    }
    if (all.count != site->op->n) return CR_ERROR_SHAPE;
    if (all.low > all.high) return CR_OK;
    cr_ref from = {a.buffer, a.offset + (uint32_t)all.low};
    code = cr_check_written(site->model, number, from, (uint64_t)(all.high - all.low) + 1, site->looks);
    return code == CR_ERROR_UNWRITTEN ? cr_check_runs(site, tensor) : code; /* what lies between need not be written */
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

/* A whole number of vectors goes in, and the same number comes out; windows may overlap. */
static int cr_check_matmul(const cr_op *op, const cr_tensor *tensor)
{
    uint32_t count = op->n / tensor->rows, beyond = op->k - tensor->columns;
    if (op->n % tensor->rows || op->k < tensor->columns) return CR_ERROR_SHAPE;
    if (op->fn == CR_MATMUL_WINDOWS) return (count > 1 ? beyond % (count - 1) : beyond) ? CR_ERROR_SHAPE : CR_OK;
    return op->k % tensor->columns || op->k / tensor->columns != count ? CR_ERROR_SHAPE : CR_OK;
}

/* A row of the table for each tap, whose columns repeat in the result; the vectors under the taps begin at equal distances. */
static int cr_check_taps(const cr_op *op, const cr_tensor *tensor)
{
    if (tensor->type != CR_TABLE_F32 || op->n % tensor->columns || op->k < op->n) return CR_ERROR_SHAPE;
    uint32_t beyond = op->k - op->n;
    return (tensor->rows > 1 ? beyond % (tensor->rows - 1) : beyond) ? CR_ERROR_SHAPE : CR_OK;
}

static int cr_check_sizes(const cr_op *op, const cr_operation *is, const cr_tensor *tensor)
{
    switch (is->tensor) {
    case CR_USES_MATRIX:
        if (cr_has_rows(op->code) && tensor->type > CR_MATRIX_I8) return CR_ERROR_SHAPE;
        if (op->code == CR_MATMUL) return cr_check_matmul(op, tensor);
        if (!cr_is_matrix(tensor->type) || tensor->type == CR_COLUMNS_I8 || tensor->rows != cr_width_of(is->rows, op->n, op->k)) return CR_ERROR_SHAPE;
        return tensor->columns != op->k || (is->gates > 1 && tensor->block != is->gates) ? CR_ERROR_SHAPE : CR_OK;
    case CR_USES_TABLE:
        return tensor->type > CR_TABLE_I8 || tensor->columns != op->n ? CR_ERROR_SHAPE : CR_OK; /* a matrix, too */
    case CR_USES_COLUMNS:
        if (tensor->type != CR_MATRIX_F32 && tensor->type != CR_COLUMNS_I8) return CR_ERROR_SHAPE;
        return tensor->rows != op->n || tensor->columns != op->k ? CR_ERROR_SHAPE : CR_OK;
    case CR_USES_TAPS: return cr_check_taps(op, tensor);
    case CR_USES_INDEX: return cr_is_index(tensor->type) ? CR_OK : CR_ERROR_SHAPE;
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
        if (!code && operands[i].use & CR_ALL_STEPS) code = cr_check_all_steps(site, refs[i]);
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
    if (op->code == CR_ATTEND && (op->n > CR_MAX_COLUMNS || op->k > CR_MAX_COLUMNS)) return CR_ERROR_LIMIT;
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
    return CR_OK;
}

/* Whether an op writes to a buffer. */
static int cr_writes(const cr_op *op, uint32_t buffer)
{
    const cr_operation *is = &cr_operations[op->code];
    const cr_ref refs[] = {op->a, op->b, op->c, op->d};
    const unsigned uses[] = {is->a.use, is->b.use, is->c.use, is->d.use};
    for (int i = 0; i < 4; i++)
        if (uses[i] & CR_UPDATED && refs[i].buffer == buffer) return 1;
    return op->dst.buffer == buffer;
}

/* The memory of a DELTA holds bytes and whole numbers. No other op writes there: it might leave a NaN, of which only that it
 * is one is the same everywhere. */
static int cr_check_memory(const cr_model *model, const cr_op *delta, uint64_t *looks)
{
    for (uint32_t i = 0; i < model->header->op_count; i++) {
        if (!*looks) return CR_ERROR_LIMIT;
        --*looks;
        if (&model->ops[i] != delta && cr_writes(&model->ops[i], delta->c.buffer)) return CR_ERROR_OVERLAP;
    }
    return CR_OK;
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
    for (uint32_t i = 0; i < model->header->op_count; i++) {
        int code = model->ops[i].code == CR_DELTA ? cr_check_memory(model, &model->ops[i], looks) : CR_OK;
        model->fault = i;
        if (code) return code;
    }
    model->fault = CR_NONE;
    return CR_OK;
}
