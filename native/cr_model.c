/* The step driver: walks the ops of a verified model. Nothing here allocates, locks or fails. */
#include <string.h>

#include "cr.h"
#include "cr_inline.h"
#include "cr_kernels.h"
#include "cr_lookup.h"
#include "cr_numbers.h"
#include "cr_sparse.h"
#include "cr_subnormal.h"
#include "cr_toeplitz.h"
#include "cr_unpacked.h"

/* Where a run stands: at step t of `steps`; `rows` holds the sequences from step `first` on. */
typedef struct {
    const cr_model *model;
    unsigned char *block;
    unsigned char *rows;
    const void *const *inputs;
    size_t first;
    size_t t;
    size_t steps;
    int whole;               /* a whole sequence: final outputs come after it */
} cr_run_state;

/* An operand at step t, and how far it is from there to the next step's. */
static cr_rows cr_at(const cr_run_state *run, cr_ref ref)
{
    const cr_model *model = run->model;
    const cr_buffer *buffer = &model->buffers[ref.buffer];
    size_t offset = 4 * (size_t)ref.offset, width = 4 * (size_t)buffer->width;
    switch (buffer->kind) {
    case CR_CONSTANT: return (cr_rows){(unsigned char *)model->file + buffer->place + offset, 0}; /* never written */
    case CR_SEQUENCE:
        return (cr_rows){run->rows + (run->t - run->first) * model->row_bytes + buffer->place + offset, model->row_bytes};
    case CR_INPUT:
        if (model->inputs[buffer->segment].vocabulary) /* a token's number stands in the block */
            return (cr_rows){run->block + buffer->place + offset, 0};
        return (cr_rows){(unsigned char *)run->inputs[buffer->segment] + run->t * width + offset, width};
    default: return (cr_rows){run->block + buffer->place + offset, 0};
    }
}

static float *cr_floats(const cr_run_state *run, cr_ref ref)
{
    return cr_at(run, ref).first;
}

static cr_rows cr_at_or_none(const cr_run_state *run, cr_ref ref)
{
    return ref.buffer == CR_NONE ? (cr_rows){NULL, 0} : cr_at(run, ref);
}

CR_NOINLINE void cr_run_flip(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_buffer *buffer = &run->model->buffers[op->a.buffer];
    size_t back = run->steps - 1 - run->t;
    if (buffer->kind == CR_INPUT && run->model->inputs[buffer->segment].vocabulary) {
        dst[0] = (float)((const int32_t *)run->inputs[buffer->segment])[back];
        return;
    }
    cr_run_state other = *run;
    other.t = back;
    memcpy(dst, cr_floats(&other, op->a), 4ull * op->n);
}

static void cr_run_embed(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_tensor *table = &run->model->tensors[op->tensor];
    float token = *cr_floats(run, op->a);
    /* The token may be computed: whatever it is, the row exists. */
    size_t row = token > 0 ? (token < (float)table->rows ? (size_t)token : table->rows - 1) : 0;
    cr_look_up(run->model, table, row, dst);
}

/* The kernels that multiply with a tensor. */
static uint32_t cr_kernel_type(const cr_model *model, const cr_tensor *tensor)
{
    if (tensor->type == CR_TOEPLITZ_F32) return CR_MATRIX_F32;
    return cr_is_unpacked(model, tensor) ? (uint32_t)CR_UNPACKED_I4 : tensor->type;
}

/* That of a matrix which is not stored in plain panels. */
CR_NOINLINE cr_matrix cr_stored_matrix_of(const cr_model *model, const cr_tensor *tensor)
{
    if (tensor->type == CR_TOEPLITZ_F32)
        return (cr_matrix){model->expanded + tensor->scale, NULL, NULL, tensor->rows, tensor->columns, tensor->block,
                           NULL, NULL};
    const unsigned char *scale = model->file + tensor->scale;
    cr_stored_lines stored = cr_find_stored_lines(model->file, tensor);
    return (cr_matrix){stored.lines, (const void *)scale, (const void *)(scale + CR_LINES(4ull * tensor->rows)),
                       tensor->rows, tensor->columns, tensor->block, stored.starts, stored.numbers};
}

CR_INLINE cr_matrix cr_matrix_of(const cr_model *model, const cr_tensor *tensor)
{
    if (tensor->type > CR_MATRIX_I4) return cr_stored_matrix_of(model, tensor);
    const unsigned char *scale = model->file + tensor->scale;
    const void *sums = scale + CR_LINES(4ull * tensor->rows);
    const void *lines = cr_is_unpacked(model, tensor) ? cr_unpacked_lines(model, tensor) : model->file + tensor->place;
    return (cr_matrix){lines, (const void *)scale, sums, tensor->rows, tensor->columns, tensor->block,
                       NULL, NULL};
}

/* The inputs of a product for `steps` steps in the form that the matrix takes. */
CR_INLINE cr_rows cr_prepare(const cr_run_state *run, const cr_op *op, uint32_t type, cr_rows x, size_t steps)
{
    if (!cr_takes_quantized(type)) return x;
    cr_rows quantized = {run->block + run->model->workspace, CR_QUANTIZED_BYTES(op->k)};
    for (size_t s = 0; s < steps; s++) {
        const void *row = (const char *)x.first + s * x.stride;
        run->model->kernels->quantize((char *)quantized.first + s * quantized.stride, row, op->p0, op->k);
    }
    return quantized;
}

static const cr_toeplitz *cr_form_of(const cr_model *model, const cr_tensor *tensor)
{
    return (const void *)(model->file + tensor->place);
}

/* Whether the products with a tensor are made by polynomials. */
static int cr_has_spectra(const cr_model *model, const cr_tensor *tensor)
{
    return tensor->type == CR_TOEPLITZ_F32 && cr_is_spectral(tensor, cr_form_of(model, tensor));
}

/* A product by polynomials, in the work space; rows that are only padding are zero. */
static float *cr_run_spectral(const cr_run_state *run, const cr_tensor *tensor, const float *x)
{
    cr_spectra spectra = cr_spectra_of(tensor, cr_form_of(run->model, tensor), run->model->expanded + tensor->scale);
    float *work = (float *)(void *)(run->block + run->model->workspace), *product = work + CR_SPECTRAL_WORK(spectra.k);
    memset(product, 0, 4ull * tensor->rows);
    run->model->kernels->spectral(product, &spectra, x, work);
    return product;
}

CR_NOINLINE void cr_run_spectral_affine(const cr_run_state *run, const cr_op *op, size_t steps)
{
    cr_run_state at = *run;
    for (size_t s = 0; s < steps; s++, at.t++) {
        const float *init = cr_at_or_none(&at, op->b).first;
        float *dst = cr_floats(&at, op->dst), *product = cr_run_spectral(run, &run->model->tensors[op->tensor], cr_floats(&at, op->a));
        if (init)
            run->model->kernels->binary(CR_BINARY_ADD, dst, init, product, op->n, op->n);
        else
            memcpy(dst, product, 4ull * op->n);
    }
}

static void cr_run_affine(const cr_run_state *run, const cr_op *op, size_t steps)
{
    const cr_tensor *tensor = &run->model->tensors[op->tensor];
    if (cr_has_spectra(run->model, tensor)) {
        cr_run_spectral_affine(run, op, steps);
        return;
    }
    uint32_t type = cr_kernel_type(run->model, tensor);
    cr_matrix matrix = cr_matrix_of(run->model, tensor);
    cr_rows x = cr_prepare(run, op, type, cr_at(run, op->a), steps);
    run->model->kernels->affine[type](cr_at(run, op->dst), &matrix, x, cr_at_or_none(run, op->b), steps);
}

CR_NOINLINE void cr_run_matmul(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_tensor *tensor = &run->model->tensors[op->tensor];
    cr_matrix matrix = cr_matrix_of(run->model, tensor);
    const void *x = cr_prepare(run, op, tensor->type, cr_at(run, op->a), 1).first;
    void *work = run->block + run->model->workspace + CR_QUANTIZED_BYTES(op->k);
    const float *init = cr_at_or_none(run, op->b).first;
    size_t count = op->n / matrix.rows, step = matrix.columns;
    if (op->fn == CR_MATMUL_WINDOWS && count > 1) step = (op->k - matrix.columns) / (count - 1);
    run->model->kernels->matmul[op->fn][tensor->type](dst, &matrix, x, init, count, step, work);
}

CR_NOINLINE void cr_run_delta(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_tensor *tensor = &run->model->tensors[op->tensor];
    const unsigned char *file = run->model->file;
    cr_matrix matrix = {file + tensor->place, (const void *)(file + tensor->scale), NULL, tensor->rows, tensor->columns,
                        tensor->block, NULL, NULL};
    const void *x = cr_prepare(run, op, tensor->type, cr_at(run, op->a), 1).first;
    void *work = run->block + run->model->workspace + CR_QUANTIZED_BYTES(op->k);
    run->model->kernels->delta[tensor->type](dst, &matrix, x, cr_at_or_none(run, op->b).first, cr_floats(run, op->c), work);
}

static void cr_run_depthwise(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_tensor *table = &run->model->tensors[op->tensor];
    cr_taps taps = {(const void *)(run->model->file + table->place), table->rows, table->columns,
                    table->rows > 1 ? (op->k - op->n) / (table->rows - 1) : 0};
    run->model->kernels->depthwise(dst, &taps, cr_floats(run, op->a), cr_at_or_none(run, op->b).first, op->n);
}

/* The cell of a product by polynomials: sums go to where the kernels start, and these multiply with no columns. */
CR_NOINLINE void cr_run_spectral_cell(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_kernels *kernels = run->model->kernels;
    const cr_tensor *tensor = &run->model->tensors[op->tensor];
    const float *gates = cr_floats(run, op->a), *x = cr_floats(run, op->c);
    float *b = cr_at_or_none(run, op->b).first, *sums = cr_run_spectral(run, tensor, x);
    cr_matrix nothing = {sums, NULL, NULL, tensor->rows, 0, tensor->block, NULL, NULL};
    if (op->code == CR_LSTM) {
        kernels->binary(CR_BINARY_ADD, sums, gates, sums, tensor->rows, tensor->rows);
        kernels->lstm[CR_MATRIX_F32](dst, &nothing, x, sums, b, op->n, 0);
        return;
    }
    float *after = sums + CR_LINES(4 * tensor->rows) / 4; /* the candidate's own sum, unit by unit */
    for (size_t unit = 0; unit < op->n; unit++) {
        float own = sums[(unit / CR_LANES * 3 + 2) * CR_LANES + unit % CR_LANES];
        after[unit] = b ? b[unit] + own : own;
    }
    for (size_t block = 0; block < tensor->rows; block += 3 * CR_LANES) {
        float *to = sums + block;
        kernels->binary(CR_BINARY_ADD, to, gates + block, to, 2 * CR_LANES, 2 * CR_LANES);
        memcpy(to + 2 * CR_LANES, gates + block + 2 * CR_LANES, 4 * CR_LANES);
    }
    kernels->gru[CR_MATRIX_F32](dst, &nothing, x, sums, after, cr_floats(run, op->d), op->n, 0);
}

static void cr_run_cell(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_kernels *kernels = run->model->kernels;
    const cr_tensor *tensor = &run->model->tensors[op->tensor];
    if (cr_has_spectra(run->model, tensor)) {
        cr_run_spectral_cell(run, op, dst);
        return;
    }
    uint32_t type = cr_kernel_type(run->model, tensor);
    cr_matrix matrix = cr_matrix_of(run->model, tensor);
    const void *x = cr_prepare(run, op, type, cr_at(run, op->c), 1).first;
    const float *gates = cr_floats(run, op->a);
    float *b = cr_at_or_none(run, op->b).first;
    int backwards = run->t & 1;
    if (op->code == CR_LSTM)
        kernels->lstm[type](dst, &matrix, x, gates, b, op->n, backwards);
    else
        kernels->gru[type](dst, &matrix, x, gates, b, cr_floats(run, op->d), op->n, backwards);
}

/* A cell for each k numbers of dst: over an axis, from one to the next, or each from a state of its own. */
CR_NOINLINE void cr_run_rows(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_kernels *kernels = run->model->kernels;
    const cr_tensor *tensor = &run->model->tensors[op->tensor];
    cr_matrix matrix = cr_matrix_of(run->model, tensor);
    const float *gates = cr_floats(run, op->a), *h = cr_floats(run, op->c);
    float *b = cr_at_or_none(run, op->b).first;
    size_t units = op->k, count = op->n / units;
    uint32_t type = cr_kernel_type(run->model, tensor);
    for (size_t i = 0; i < count; i++) {
        size_t row = op->fn == CR_OVER_BACKWARD ? count - 1 - i : i; /* GRU_EACH has no function: forward */
        const float *from = gates + row * tensor->rows;
        const void *x = cr_prepare(run, op, type, (cr_rows){(void *)(uintptr_t)h, 0}, 1).first;
        float *to = dst + row * units;
        if (op->code == CR_LSTM_OVER)
            kernels->lstm[type](to, &matrix, x, from, b, units, 0);
        else
            kernels->gru[type](to, &matrix, x, from, b, h, units, 0);
        h = op->code == CR_GRU_EACH ? h + units : to;
    }
}

static void cr_gather_runs(float *dst, const float *a, const cr_index_run *run, uint32_t runs)
{
    for (uint32_t i = 0; i < runs; dst += run[i].count, i++) {
        const float *from = a + (run[i].first < 0 ? 0 : run[i].first);
        ptrdiff_t step = run[i].step;
        if (run[i].first < 0)
            memset(dst, 0, sizeof(float) * run[i].count);
        else if (step == 1)
            memcpy(dst, from, sizeof(float) * run[i].count);
        else
            for (uint32_t j = 0; j < run[i].count; j++) dst[j] = from[step * (ptrdiff_t)j];
    }
}

/* A run of a block, `period` numbers in all, every time: short ones number by number. */
static void cr_gather_repeat(float *dst, const float *a, cr_index_repeat run, uint32_t times, size_t period)
{
    ptrdiff_t step = run.step, shift = run.shift;
    const float *from = a + (run.first < 0 ? 0 : run.first);
    if (run.count < times && run.first >= 0) {
        for (uint32_t j = 0; j < run.count; j++, dst++, from += step)
            for (uint32_t time = 0; time < times; time++) dst[time * period] = from[shift * (ptrdiff_t)time];
        return;
    }
    for (uint32_t time = 0; time < times; time++, dst += period)
        cr_gather_runs(dst, a + shift * (ptrdiff_t)time, &(cr_index_run){run.first, run.step, run.count}, 1);
}

static void cr_gather_repeats(float *dst, const float *a, const void *stored, uint32_t rows)
{
    const cr_index_repeat *run = stored;
    for (uint32_t at = 0; at < rows;) {
        cr_index_block block = ((const cr_index_block *)stored)[at++];
        size_t period = 0;
        for (uint32_t i = 0; i < block.runs; i++) period += run[at + i].count;
        float *to = dst;
        for (uint32_t end = at + block.runs; at < end; to += run[at++].count) cr_gather_repeat(to, a, run[at], block.times, period);
        dst += period * block.times;
    }
}

CR_NOINLINE void cr_run_gather(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_tensor *tensor = &run->model->tensors[op->tensor];
    const void *stored = run->model->file + tensor->place;
    const float *a = cr_floats(run, op->a);
    if (tensor->type == CR_INDEX) {
        const int32_t *index = stored;
        for (uint32_t i = 0; i < op->n; i++) dst[i] = index[i] < 0 ? 0.0f : a[index[i]];
        return;
    }
    if (tensor->type == CR_REPEATS)
        cr_gather_repeats(dst, a, stored, tensor->rows);
    else
        cr_gather_runs(dst, a, stored, tensor->rows);
}

/* For `many` steps from this one on. */
CR_NOINLINE void cr_run_attend(const cr_run_state *run, const cr_op *op, size_t many)
{
    cr_run_state start = *run;
    start.t = start.first;
    int causal = op->fn == CR_ATTEND_CAUSAL;
    cr_attended steps = {cr_at(&start, op->b), cr_at(&start, op->c), causal ? run->t + 1 : run->steps, causal};
    float *work = (float *)(void *)(run->block + run->model->workspace);
    run->model->kernels->attend(cr_at(run, op->dst), cr_at(run, op->a), many, &steps, op->n, op->k, op->p0, work);
}

/* Whether number i comes before number j among the largest: NaN before all, of equal ones the first. */
static int cr_comes_first(const float *a, size_t i, size_t j)
{
    if (a[i] > a[j]) return 1;
    if (a[j] > a[i]) return 0;
    int of_i = a[i] != a[i], of_j = a[j] != a[j];
    return of_i != of_j ? of_i : i < j;
}

/* Let the position at `at` sink in a heap of `count` positions, each of which comes after the two below it. */
static void cr_sink(float *heap, size_t at, size_t count, const float *a)
{
    float position = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && cr_comes_first(a, (size_t)heap[child], (size_t)heap[child + 1])) child++;
        if (!cr_comes_first(a, (size_t)position, (size_t)heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = position;
}

/* dst is a heap of positions with the last of the n largest on top, then sorted. Where few are wanted, most numbers end at
 * the first comparison. */
CR_NOINLINE void cr_run_top(const cr_op *op, float *dst, const float *a)
{
    size_t n = op->n;
    for (size_t i = 0; i < n; i++) dst[i] = (float)i;
    for (size_t i = n / 2; i; i--) cr_sink(dst, i - 1, n, a);
    for (size_t i = n; i < op->k; i++)
        if (cr_comes_first(a, i, (size_t)dst[0])) {
            dst[0] = (float)i;
            cr_sink(dst, 0, n, a);
        }
    for (size_t left = n; left > 1; left--) {
        float last = dst[0];
        dst[0] = dst[left - 1];
        dst[left - 1] = last;
        cr_sink(dst, 0, left - 1, a);
    }
    for (size_t i = 0; i < n && op->fn == CR_TOP_VALUES; i++) dst[i] = a[(size_t)dst[i]];
}

static void cr_run_delay(const cr_op *op, float *dst, const float *a)
{
    memmove(dst + op->n, dst, sizeof(float) * (op->k - op->n));
    memcpy(dst, a, sizeof(float) * op->n);
}

static void cr_run_op(const cr_run_state *run, const cr_op *op)
{
    const cr_kernels *kernels = run->model->kernels;
    float *dst = cr_floats(run, op->dst);
    size_t n = op->n, k = op->k;
    switch (op->code) {
    case CR_EMBED: cr_run_embed(run, op, dst); break;
    case CR_AFFINE: cr_run_affine(run, op, 1); break;
    case CR_MATMUL: cr_run_matmul(run, op, dst); break;
    case CR_DELTA: cr_run_delta(run, op, dst); break;
    case CR_DEPTHWISE: cr_run_depthwise(run, op, dst); break;
    case CR_GATHER: cr_run_gather(run, op, dst); break;
    case CR_UNARY: kernels->unary(op->fn, dst, cr_floats(run, op->a), n, op->p0, op->p1); break;
    case CR_BINARY: kernels->binary(op->fn, dst, cr_floats(run, op->a), cr_floats(run, op->b), n, k); break;
    case CR_REDUCE: kernels->reduce(op->fn, dst, cr_floats(run, op->a), n, k); break;
    case CR_SOFTMAX: kernels->softmax(dst, cr_floats(run, op->a), n, k); break;
    case CR_LOG_SOFTMAX: kernels->log_softmax(dst, cr_floats(run, op->a), n, k); break;
    case CR_LAYER_NORM: kernels->layer_norm(dst, cr_floats(run, op->a), n, k, op->p0); break;
    case CR_LSTM:
    case CR_GRU: cr_run_cell(run, op, dst); break;
    case CR_LSTM_OVER:
    case CR_GRU_OVER:
    case CR_GRU_EACH: cr_run_rows(run, op, dst); break;
    case CR_LSTM_CELL: kernels->lstm_cell(dst, cr_floats(run, op->a), cr_floats(run, op->b), n); break;
    case CR_GRU_CELL:
        kernels->gru_cell(dst, cr_floats(run, op->a), cr_floats(run, op->c), cr_floats(run, op->d), n);
        break;
    case CR_SELECT: kernels->select(dst, cr_floats(run, op->c), cr_floats(run, op->a), cr_floats(run, op->b), n); break;
    case CR_DELAY: cr_run_delay(op, dst, cr_floats(run, op->a)); break;
    case CR_FLIP: cr_run_flip(run, op, dst); break;
    case CR_ATTEND: cr_run_attend(run, op, 1); break;
    case CR_TOP: cr_run_top(op, dst, cr_floats(run, op->a)); break;
    }
}

static void cr_copy_output(const cr_run_state *run, uint32_t i, float *const *outputs, size_t t)
{
    const cr_port *port = &run->model->outputs[i];
    size_t width = cr_port_width(port);
    run->model->kernels->output(outputs[i] + t * width, cr_floats(run, (cr_ref){port->buffer, port->offset}), width);
}

static int cr_is_token(const cr_model *model, cr_ref ref)
{
    const cr_buffer *buffer = &model->buffers[ref.buffer == CR_NONE ? 0 : ref.buffer];
    return ref.buffer != CR_NONE && buffer->kind == CR_INPUT && model->inputs[buffer->segment].vocabulary;
}

/* Whether a segment is one product, which can then serve several steps in one sweep over its matrix. */
static int cr_is_batched(const cr_model *model, const cr_segment *segment)
{
    const cr_op *op = &model->ops[segment->first_op];
    return segment->op_count == 1 && op->code == CR_AFFINE && model->buffers[op->dst.buffer].kind == CR_SEQUENCE &&
           !cr_is_token(model, op->a) && !cr_is_token(model, op->b);
}

/* Whether a segment attends to other steps and does nothing else: then several steps read these at once. */
static int cr_attends(const cr_model *model, const cr_segment *segment)
{
    const cr_op *op = &model->ops[segment->first_op], *end = op + segment->op_count;
    while (op < end && op->code == CR_ATTEND && model->buffers[op->dst.buffer].kind == CR_SEQUENCE && !cr_is_token(model, op->a)) op++;
    return segment->op_count && op == end;
}

/* The steps [from, to) of one segment. */
static void cr_run_segment(cr_run_state *run, uint32_t number, size_t from, size_t to, float *const *outputs)
{
    const cr_model *model = run->model;
    const cr_segment *segment = &model->segments[number];
    const cr_op *ops = &model->ops[segment->first_op];
    uint32_t op_count = segment->op_count;
    if (cr_is_batched(model, segment)) {
        run->t = from;
        cr_run_affine(run, ops, to - from);
        op_count = 0;
    } else if (cr_attends(model, segment)) {
        run->t = from;
        for (uint32_t i = 0; i < op_count; i++) cr_run_attend(run, &ops[i], to - from);
        op_count = 0;
    }
    for (run->t = from; run->t < to; run->t++) {
        for (uint32_t i = 0; i < model->header->input_count; i++)
            if (model->inputs[i].vocabulary)
                *cr_floats(run, (cr_ref){model->inputs[i].buffer, 0}) = (float)((const int32_t *)run->inputs[i])[run->t];
        for (uint32_t i = 0; i < op_count; i++) cr_run_op(run, &ops[i]);
        for (uint32_t i = 0; i < model->header->output_count; i++)
            if (model->outputs[i].segment == number &&
                !(run->whole && (model->outputs[i].final || run->t >= cr_output_rows(model, i, run->steps))))
                cr_copy_output(run, i, outputs, run->t);
    }
}

/* What can be wrong with a run of a verified model. */
static int cr_check_run(const cr_model *model, const void *const *inputs, size_t steps)
{
    if (model->vector_bytes && !model->expanded) return CR_ERROR_EXPAND;
    for (uint32_t i = 0; i < model->header->input_count; i++) {
        if (!model->inputs[i].vocabulary) continue;
        const int32_t *tokens = inputs[i];
        for (size_t t = 0; t < steps; t++)
            if (tokens[t] < 0 || (uint32_t)tokens[t] >= model->inputs[i].vocabulary) return CR_ERROR_TOKEN;
    }
    return CR_OK;
}

int cr_run(const cr_model *model, void *block, const void *const *inputs, float *const *outputs, size_t steps)
{
    if (model->offline) return CR_ERROR_OFFLINE;
    int code = cr_check_run(model, inputs, steps);
    if (code) return code;
    uint64_t before = cr_flush_subnormals();
    cr_run_state run = {model, block, (unsigned char *)block + model->rows, inputs, 0, 0, steps, 0};
    for (size_t to; run.first < steps; run.first = to) {
        to = steps - run.first > model->chunk ? run.first + model->chunk : steps;
        for (uint32_t s = 0; s < model->header->segment_count; s++) cr_run_segment(&run, s, run.first, to, outputs);
    }
    cr_restore_subnormals(before);
    return CR_OK;
}

int cr_step(const cr_model *model, void *block, const void *const *inputs, float *const *outputs)
{
    return cr_run(model, block, inputs, outputs, 1);
}

int cr_run_sequence(const cr_model *model, void *block, void *workspace, const void *const *inputs,
                    float *const *outputs, size_t steps)
{
    if (steps < model->least_steps || (model->most_steps && steps > model->most_steps)) return CR_ERROR_STEPS;
    int code = cr_check_run(model, inputs, steps);
    if (code) return code;
    uint64_t before = cr_flush_subnormals();
    cr_reset(model, block);
    if (model->row_bytes) memset(workspace, 0, cr_workspace_size(model, steps));
    cr_run_state run = {model, block, workspace, inputs, 0, 0, steps, 1};
    for (uint32_t s = 0; s < model->header->segment_count; s++) {
        size_t from = model->segments[s].kind == CR_FORWARD ? 0 : steps - 1;
        size_t chunk = cr_attends(model, &model->segments[s]) ? CR_LANES : model->chunk;
        for (size_t to; from < steps; from = to) {
            to = steps - from > chunk ? from + chunk : steps;
            cr_run_segment(&run, s, from, to, outputs);
        }
    }
    run.t = steps - 1;
    for (uint32_t i = 0; i < model->header->output_count; i++)
        if (model->outputs[i].final) cr_copy_output(&run, i, outputs, 0);
    cr_restore_subnormals(before);
    return CR_OK;
}

void cr_reset(const cr_model *model, void *block)
{
    memset(block, 0, model->workspace);
    for (uint32_t i = 0; i < model->header->buffer_count; i++) {
        const cr_buffer *buffer = &model->buffers[i];
        if (buffer->kind == CR_STATE && buffer->init)
            memcpy((unsigned char *)block + buffer->place, model->file + buffer->init, 4ull * buffer->width);
    }
}

size_t cr_port_width(const cr_port *port)
{
    size_t width = 1;
    for (uint32_t i = 0; i < port->rank; i++) width *= port->shape[i];
    return width;
}

size_t cr_output_rows(const cr_model *model, uint32_t output, size_t steps)
{
    const cr_port *port = &model->outputs[output];
    return port->final ? 1 : steps > port->fewer ? steps - port->fewer : 0;
}

size_t cr_workspace_size(const cr_model *model, size_t steps)
{
    return model->row_bytes && steps > SIZE_MAX / model->row_bytes ? SIZE_MAX : steps * model->row_bytes;
}

uint64_t cr_step_work(const cr_model *model)
{
    uint64_t work = 0;
    for (uint32_t i = 0; i < model->header->op_count; i++) {
        const cr_op *op = &model->ops[i];
        const cr_operation *is = &cr_operations[op->code];
        uint64_t k = is->gates ? model->tensors[op->tensor].columns : op->k;
        if (is->tensor == CR_USES_TAPS) k = model->tensors[op->tensor].rows;
        work += cr_width_of(is->work ? is->work : (unsigned)CR_WIDTH_N, op->n, k);
    }
    return work;
}

size_t cr_block_size(const cr_model *model)
{
    return model->block_bytes;
}

size_t cr_state_size(const cr_model *model)
{
    return model->state_bytes;
}

float *cr_state(const cr_model *model, void *block, uint32_t buffer)
{
    if (buffer >= model->header->buffer_count || model->buffers[buffer].kind != CR_STATE) return NULL;
    return (float *)(void *)((unsigned char *)block + model->buffers[buffer].place);
}

int cr_is_offline(const cr_model *model)
{
    return model->offline;
}

const char *cr_isa(const cr_model *model)
{
    return model->kernels->name;
}
