/* The step driver: walks the ops of a verified model. Nothing here allocates, locks or fails. */
#include <string.h>

#include "cr.h"
#include "cr_kernels.h"

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

/* Subnormals cost a hundred times a normal operation, so they are flushed while we run. */
static uint64_t cr_flush_subnormals(void)
{
#if defined(__SSE2__) || defined(_M_X64)
    uint64_t before = _mm_getcsr();
    _mm_setcsr((0x1f80u | 0x8040u)); /* round to nearest, exceptions masked, FTZ and DAZ */
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24));
    return before;
#else
    return 0;
#endif
}

static void cr_restore_subnormals(uint64_t before)
{
#if defined(__SSE2__) || defined(_M_X64)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

/* Where a run stands. `base` gives the start of each kind of buffer at step t. */
typedef struct {
    const cr_model *model;
    unsigned char *base[CR_KIND_COUNT];
    unsigned char *rows;
    void *quantized;
    const void *const *inputs;
    size_t t;
    size_t steps;
} cr_run_state;

static float *cr_at(const cr_run_state *run, cr_ref ref)
{
    const cr_buffer *buffer = &run->model->buffers[ref.buffer];
    return (float *)(void *)(run->base[buffer->kind] + buffer->place) + ref.offset;
}

static void cr_load_input(const cr_port *port, const void *rows, size_t t, float *dst)
{
    size_t width = cr_port_width(port);
    if (port->vocabulary)
        dst[0] = (float)((const int32_t *)rows)[t];
    else
        memcpy(dst, (const float *)rows + t * width, 4 * width);
}

static void cr_run_flip(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_model *model = run->model;
    const cr_buffer *buffer = &model->buffers[op->a.buffer];
    size_t t = run->steps - 1 - run->t;
    if (buffer->kind == CR_SEQUENCE) {
        memcpy(dst, (float *)(void *)(run->rows + t * model->row_bytes + buffer->place) + op->a.offset, 4ull * op->n);
        return;
    }
    for (uint32_t i = 0; i < model->header->input_count; i++) {
        const cr_port *port = &model->inputs[i];
        if (port->buffer != op->a.buffer) continue;
        if (port->vocabulary)
            dst[0] = (float)((const int32_t *)run->inputs[i])[t];
        else
            memcpy(dst, (const float *)run->inputs[i] + t * buffer->width + op->a.offset, 4ull * op->n);
    }
}

static void cr_run_embed(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_tensor *table = &run->model->tensors[op->tensor];
    const unsigned char *entries = run->model->file + table->place;
    float token = *cr_at(run, op->a);
    size_t n = op->n;
    /* The token may be computed: whatever it is, the row exists. */
    size_t row = token > 0 ? (token < (float)table->rows ? (size_t)token : table->rows - 1) : 0;
    if (table->type == CR_TABLE_F32) {
        memcpy(dst, entries + 4 * n * row, 4 * n);
    } else if (table->type == CR_TABLE_F16) {
        run->model->kernels->row_f16(dst, (const uint16_t *)(const void *)entries + n * row, n);
    } else {
        const float *scale = (const float *)(const void *)(run->model->file + table->scale);
        run->model->kernels->row_i8(dst, (const int8_t *)entries + n * row, scale[row], n);
    }
}

static void cr_run_affine(const cr_run_state *run, const cr_op *op, float *dst)
{
    const cr_kernels *kernels = run->model->kernels;
    const cr_tensor *matrix = &run->model->tensors[op->tensor];
    const void *entries = run->model->file + matrix->place;
    const float *x = cr_at(run, op->a);
    const float *init = op->b.buffer == CR_NONE ? NULL : cr_at(run, op->b);
    if (matrix->type == CR_MATRIX_F32) {
        kernels->affine_f32(dst, entries, x, init, op->n, op->k);
        return;
    }
    const float *row_scale = (const float *)(const void *)(run->model->file + matrix->scale);
    float x_scale = kernels->quantize(run->quantized, x, op->p0, op->k);
    kernels->affine_i8(dst, entries, row_scale, run->quantized, x_scale, init, op->n, op->k);
}

static void cr_run_gather(const cr_run_state *run, const cr_op *op, float *dst)
{
    const int32_t *index = (const int32_t *)(const void *)(run->model->file + run->model->tensors[op->tensor].place);
    const float *a = cr_at(run, op->a);
    for (uint32_t i = 0; i < op->n; i++) dst[i] = index[i] < 0 ? 0.0f : a[index[i]];
}

static void cr_run_op(const cr_run_state *run, const cr_op *op)
{
    const cr_kernels *kernels = run->model->kernels;
    float *dst = cr_at(run, op->dst);
    size_t n = op->n, k = op->k;
    switch (op->code) {
    case CR_EMBED: cr_run_embed(run, op, dst); break;
    case CR_AFFINE: cr_run_affine(run, op, dst); break;
    case CR_GATHER: cr_run_gather(run, op, dst); break;
    case CR_UNARY: kernels->unary(op->fn, dst, cr_at(run, op->a), n, op->p0, op->p1); break;
    case CR_BINARY: kernels->binary(op->fn, dst, cr_at(run, op->a), cr_at(run, op->b), n, k); break;
    case CR_REDUCE: kernels->reduce(op->fn, dst, cr_at(run, op->a), n, k); break;
    case CR_SOFTMAX: kernels->softmax(dst, cr_at(run, op->a), n, k); break;
    case CR_LOG_SOFTMAX: kernels->log_softmax(dst, cr_at(run, op->a), n, k); break;
    case CR_LAYER_NORM: kernels->layer_norm(dst, cr_at(run, op->a), n, k, op->p0); break;
    case CR_LSTM: kernels->lstm(dst, cr_at(run, op->a), cr_at(run, op->b), n); break;
    case CR_GRU: kernels->gru(dst, cr_at(run, op->a), cr_at(run, op->b), cr_at(run, op->c), n); break;
    case CR_FLIP: cr_run_flip(run, op, dst); break;
    }
}

static void cr_run_segment(cr_run_state *run, const cr_segment *segment, size_t t)
{
    const cr_model *model = run->model;
    run->t = t;
    run->base[CR_SEQUENCE] = run->rows + t * model->row_bytes;
    for (uint32_t i = 0; i < model->header->input_count; i++)
        cr_load_input(&model->inputs[i], run->inputs[i], t, cr_at(run, (cr_ref){model->inputs[i].buffer, 0}));
    for (uint32_t i = 0; i < segment->op_count; i++) cr_run_op(run, &model->ops[segment->first_op + i]);
}

static void cr_copy_output(const cr_run_state *run, uint32_t i, float *row)
{
    const cr_port *port = &run->model->outputs[i];
    memcpy(row, cr_at(run, (cr_ref){port->buffer, port->offset}), 4 * cr_port_width(port));
}

static int cr_check_tokens(const cr_model *model, const void *const *inputs, size_t steps)
{
    for (uint32_t i = 0; i < model->header->input_count; i++) {
        if (!model->inputs[i].vocabulary) continue;
        const int32_t *tokens = inputs[i];
        for (size_t t = 0; t < steps; t++)
            if (tokens[t] < 0 || (uint32_t)tokens[t] >= model->inputs[i].vocabulary) return CR_ERROR_TOKEN;
    }
    return CR_OK;
}

static cr_run_state cr_begin_run(const cr_model *model, void *block, void *rows, const void *const *inputs,
                                 size_t steps)
{
    unsigned char *bytes = block;
    cr_run_state run = {.model = model, .rows = rows, .inputs = inputs, .steps = steps};
    run.base[CR_SCRATCH] = run.base[CR_STATE] = run.base[CR_INPUT] = bytes;
    run.base[CR_CONSTANT] = (unsigned char *)model->file; /* never written: verified */
    run.base[CR_SEQUENCE] = rows;
    run.quantized = bytes + model->workspace;
    return run;
}

int cr_run(const cr_model *model, void *block, const void *const *inputs, float *const *outputs, size_t steps)
{
    if (model->offline) return CR_ERROR_OFFLINE;
    int code = cr_check_tokens(model, inputs, steps);
    if (code) return code;
    uint64_t before = cr_flush_subnormals();
    cr_run_state run = cr_begin_run(model, block, block, inputs, steps); /* it has no sequences: verified */
    for (size_t t = 0; t < steps; t++) {
        cr_run_segment(&run, &model->segments[0], t);
        for (uint32_t i = 0; i < model->header->output_count; i++)
            cr_copy_output(&run, i, outputs[i] + t * cr_port_width(&model->outputs[i]));
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
    int code = cr_check_tokens(model, inputs, steps);
    if (code) return code;
    uint64_t before = cr_flush_subnormals();
    cr_reset(model, block);
    if (model->row_bytes) memset(workspace, 0, cr_workspace_size(model, steps));
    cr_run_state run = cr_begin_run(model, block, workspace, inputs, steps);
    for (uint32_t s = 0; s < model->header->segment_count; s++) {
        const cr_segment *segment = &model->segments[s];
        for (size_t t = segment->kind == CR_FORWARD ? 0 : steps - 1; t < steps; t++) {
            cr_run_segment(&run, segment, t);
            for (uint32_t i = 0; i < model->header->output_count; i++)
                if (!model->outputs[i].final && model->outputs[i].segment == s)
                    cr_copy_output(&run, i, outputs[i] + t * cr_port_width(&model->outputs[i]));
        }
    }
    for (uint32_t i = 0; i < model->header->output_count; i++)
        if (model->outputs[i].final) cr_copy_output(&run, i, outputs[i]);
    cr_restore_subnormals(before);
    return CR_OK;
}

void cr_reset(const cr_model *model, void *block)
{
    memset(block, 0, model->block_bytes);
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

size_t cr_workspace_size(const cr_model *model, size_t steps)
{
    return model->row_bytes && steps > SIZE_MAX / model->row_bytes ? SIZE_MAX : steps * model->row_bytes;
}

size_t cr_block_size(const cr_model *model)
{
    return model->block_bytes;
}

size_t cr_state_size(const cr_model *model)
{
    return model->state_bytes;
}

int cr_is_offline(const cr_model *model)
{
    return model->offline;
}

const char *cr_isa(const cr_model *model)
{
    return model->kernels->name;
}

const cr_kernels *cr_find_kernels(const char *name)
{
    static const cr_kernels *const tables[] = {&cr_kernels_scalar};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (!name || !strcmp(name, tables[i]->name)) return tables[i];
    return NULL;
}
