/* Verify a file and bind a model to it: the only code that sees untrusted bytes. A pure function of the buffer.
 * What passes here is trusted by everything else, so that no kernel checks anything. */
#include <string.h>

#include "cr_kernels.h"
#include "cr_load.h"
#include "cr_numbers.h"
#include "cr_subnormal.h"
#include "cr_toeplitz.h"
#include "cr_unpacked.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian, and are used where they lie"
#endif

static const char *const error_text[CR_ERROR_COUNT] = {
    [CR_OK] = "no error",
    [CR_ERROR_ALIGNMENT] = "the file does not start at a multiple of 64 in memory",
    [CR_ERROR_TRUNCATED] = "the file is shorter or longer than its header says",
    [CR_ERROR_MAGIC] = "not a compactrnn model file",
    [CR_ERROR_VERSION] = "the file has another format version than this library reads (4): pack the model again",
    [CR_ERROR_FEATURE] = "the file needs a feature that this library does not have",
    [CR_ERROR_CHECKSUM] = "the checksum does not match: the file is damaged",
    [CR_ERROR_LIMIT] = "a count or a size is beyond the limits of the format",
    [CR_ERROR_LAYOUT] = "a section is not where it must be, or padding is not zero",
    [CR_ERROR_ENUM] = "an unknown kind, type, operation or function",
    [CR_ERROR_REFERENCE] = "an operand lies outside its buffer, or refers to something that does not exist",
    [CR_ERROR_ACCESS] = "an operation writes where it must not, or reads what a later segment makes",
    [CR_ERROR_UNWRITTEN] = "an operation or an output reads numbers that nothing has written before",
    [CR_ERROR_OVERLAP] = "operands overlap where they must not",
    [CR_ERROR_SHAPE] = "the sizes of an operation contradict each other or its tensor",
    [CR_ERROR_VALUE] = "a scale, a parameter, a weight or an index is out of range",
    [CR_ERROR_ISA] = "these kernels are unknown, or this processor lacks them",
    [CR_ERROR_TOKEN] = "an input token is outside its vocabulary",
    [CR_ERROR_OFFLINE] = "the model needs whole sequences",
    [CR_ERROR_EXPAND] = "the model has matrices that are made of vectors: cr_expand computes them, before the first run",
    [CR_ERROR_STEPS] = "the model does not take sequences of so few or so many steps",
    [CR_ERROR_ARITHMETIC] = "this build computes other numbers: it needs -ffp-contract=off, and no -ffast-math or x87 arithmetic",
};

const char *cr_error(int code)
{
    return code >= 0 && code < CR_ERROR_COUNT ? error_text[code] : "unknown error";
}

int cr_take_section(cr_walk *walk, uint64_t bytes, uint64_t *place)
{
    if (bytes > walk->size - walk->at) return CR_ERROR_TRUNCATED;
    *place = walk->at;
    uint64_t end = walk->at + bytes;
    uint64_t next = (end + CR_LINE - 1) & ~(uint64_t)(CR_LINE - 1);
    if (next > walk->size) return CR_ERROR_TRUNCATED;
    for (uint64_t i = end; i < next; i++)
        if (walk->file[i]) return CR_ERROR_LAYOUT;
    walk->at = next;
    return CR_OK;
}

static int cr_check_header(const unsigned char *file, size_t bytes)
{
    cr_header header;
    if (bytes < sizeof header) return bytes < 8 || memcmp(file, CR_MAGIC, 8) ? CR_ERROR_MAGIC : CR_ERROR_TRUNCATED;
    memcpy(&header, file, sizeof header);
    if (memcmp(header.magic, CR_MAGIC, 8)) return CR_ERROR_MAGIC;
    if (header.version != CR_VERSION) return CR_ERROR_VERSION;
    uint32_t crc = header.header_crc;
    header.header_crc = 0;
    if (cr_crc32(0, &header, sizeof header) != crc) return CR_ERROR_CHECKSUM;
    if (header.features & ~CR_KNOWN_FEATURES) return CR_ERROR_FEATURE;
    if (header.file_bytes != bytes) return CR_ERROR_TRUNCATED;
    if (cr_crc32(0, file + sizeof header, bytes - sizeof header) != header.body_crc) return CR_ERROR_CHECKSUM;
    if (header.most_steps && !(header.features & CR_FEATURE_STEPS)) return CR_ERROR_LAYOUT;
    if (header.buffer_count > CR_MAX_BUFFERS || header.tensor_count > CR_MAX_TENSORS || header.op_count > CR_MAX_OPS ||
        header.segment_count > CR_MAX_SEGMENTS || header.input_count > CR_MAX_PORTS ||
        header.output_count > CR_MAX_PORTS || header.metadata_bytes > CR_MAX_METADATA)
        return CR_ERROR_LIMIT;
    if (!header.segment_count || !header.output_count) return CR_ERROR_LIMIT;
    return CR_OK;
}

static uint64_t cr_round_line(uint64_t bytes)
{
    return (bytes + CR_LINE - 1) & ~(uint64_t)(CR_LINE - 1);
}

/* The rows of sequences that a stream keeps: for up to 16 steps, but in no more memory than this or a sixteenth of the
 * file. Enough that a matrix is read once for several steps, little enough that many streams fit. */
enum { CR_CHUNK_STEPS = 16, CR_CHUNK_BYTES = 128 << 10, CR_CHUNK_SHARE = 16 };

/* Kinds, widths and places of the buffers; sets the sizes of the block. */
static int cr_check_buffers(cr_model *model, cr_walk *walk)
{
    static const uint32_t order[] = {CR_STATE, CR_INPUT, CR_SCRATCH};
    uint32_t count = model->header->buffer_count;
    uint64_t block = 0, row = 0;
    int code;
    for (uint32_t i = 0; i < count; i++) {
        const cr_buffer *buffer = &model->buffers[i];
        if (buffer->kind >= CR_KIND_COUNT) return CR_ERROR_ENUM;
        if (!buffer->width || buffer->width > CR_MAX_WIDTH) return CR_ERROR_LIMIT;
        if (buffer->reserved) return CR_ERROR_LAYOUT;
        if (buffer->kind == CR_INPUT) {
            if (buffer->segment >= model->header->input_count) return CR_ERROR_REFERENCE;
            if (model->inputs[buffer->segment].buffer != i) return CR_ERROR_REFERENCE;
        } else if (buffer->segment >= model->header->segment_count) {
            return CR_ERROR_REFERENCE;
        } else if (buffer->segment && buffer->kind == CR_CONSTANT) {
            return CR_ERROR_LAYOUT;
        }
        if (buffer->kind == CR_SEQUENCE) {
            if (model->segments[buffer->segment].kind != CR_FORWARD) return CR_ERROR_ACCESS;
            if (buffer->place != row) return CR_ERROR_LAYOUT;
            row += cr_round_line(4ull * buffer->width);
        }
        if (buffer->kind == CR_CONSTANT || (buffer->kind == CR_STATE && buffer->init)) {
            uint64_t place;
            if ((code = cr_take_section(walk, 4ull * buffer->width, &place))) return code;
            if (buffer->init != place) return CR_ERROR_LAYOUT;
            if (buffer->kind == CR_CONSTANT && buffer->place != place) return CR_ERROR_LAYOUT;
        } else if (buffer->init) {
            return CR_ERROR_LAYOUT;
        }
    }
    for (int pass = 0; pass < 3; pass++) {
        for (uint32_t i = 0; i < count; i++) {
            const cr_buffer *buffer = &model->buffers[i];
            if (buffer->kind != order[pass]) continue;
            if (buffer->place != block) return CR_ERROR_LAYOUT;
            block += cr_round_line(4ull * buffer->width);
        }
        if (!pass) model->state_bytes = (size_t)block;
    }
    if (block > CR_MAX_BLOCK || row > CR_MAX_BLOCK) return CR_ERROR_LIMIT;
    model->rows = (size_t)block;
    model->row_bytes = (size_t)row;
    model->chunk = CR_CHUNK_STEPS;
    uint64_t most = walk->size / CR_CHUNK_SHARE > CR_CHUNK_BYTES ? walk->size / CR_CHUNK_SHARE : CR_CHUNK_BYTES;
    while (model->chunk > 1 && model->chunk * row > most) model->chunk /= 2;
    return CR_OK;
}

static int cr_check_segments(const cr_model *model)
{
    uint64_t next = 0;
    for (uint32_t i = 0; i < model->header->segment_count; i++) {
        const cr_segment *segment = &model->segments[i];
        if (segment->kind >= CR_SEGMENT_KIND_COUNT) return CR_ERROR_ENUM;
        if (segment->reserved || segment->first_op != next) return CR_ERROR_LAYOUT;
        next += segment->op_count;
        if (next > model->header->op_count) return CR_ERROR_REFERENCE;
    }
    return next == model->header->op_count ? CR_OK : CR_ERROR_LAYOUT;
}

int cr_check_read(const cr_model *model, uint32_t segment, cr_ref ref, uint64_t width)
{
    if (ref.buffer >= model->header->buffer_count) return CR_ERROR_REFERENCE;
    const cr_buffer *buffer = &model->buffers[ref.buffer];
    if ((uint64_t)ref.offset + width > buffer->width) return CR_ERROR_REFERENCE;
    return buffer->kind != CR_INPUT && buffer->segment > segment ? CR_ERROR_ACCESS : CR_OK;
}

int cr_check_write(const cr_model *model, uint32_t segment, cr_ref ref, uint64_t width)
{
    int code = cr_check_read(model, segment, ref, width);
    if (code) return code;
    const cr_buffer *buffer = &model->buffers[ref.buffer];
    if (buffer->kind == CR_SCRATCH) return CR_OK;
    return (buffer->kind == CR_SEQUENCE || buffer->kind == CR_STATE) && buffer->segment == segment ? CR_OK : CR_ERROR_ACCESS;
}
static int cr_check_port(const cr_model *model, const cr_port *port, uint64_t *width)
{
    *width = 1;
    if ((port->least || port->fewer) && !(model->header->features & CR_FEATURE_STEPS)) return CR_ERROR_LAYOUT;
    if (port->rank > CR_MAX_RANK || port->final > 1) return CR_ERROR_LIMIT;
    if (port->buffer >= model->header->buffer_count) return CR_ERROR_REFERENCE;
    for (uint32_t i = 0; i < CR_MAX_RANK; i++) {
        if (i >= port->rank) {
            if (port->shape[i]) return CR_ERROR_LAYOUT;
            continue;
        }
        *width *= port->shape[i];
        if (!*width || *width > CR_MAX_WIDTH) return CR_ERROR_LIMIT;
    }
    return CR_OK;
}

static int cr_check_ports(cr_model *model, uint64_t *looks)
{
    int code;
    uint64_t width;
    for (uint32_t i = 0; i < model->header->input_count; i++) {
        const cr_port *port = &model->inputs[i];
        if ((code = cr_check_port(model, port, &width))) return code;
        if (port->offset || port->final || port->segment || port->least || port->fewer) return CR_ERROR_LAYOUT;
        if (model->buffers[port->buffer].kind != CR_INPUT) return CR_ERROR_ACCESS;
        if (width != model->buffers[port->buffer].width) return CR_ERROR_SHAPE;
        if (port->vocabulary > CR_MAX_ROWS) return CR_ERROR_LIMIT;
        if (port->vocabulary && width != 1) return CR_ERROR_SHAPE;
        for (uint32_t j = 0; j < i; j++)
            if (model->inputs[j].buffer == port->buffer) return CR_ERROR_OVERLAP;
    }
    for (uint32_t i = 0; i < model->header->output_count; i++) {
        const cr_port *port = &model->outputs[i];
        if ((code = cr_check_port(model, port, &width))) return code;
        if (port->vocabulary) return CR_ERROR_LAYOUT;
        if (port->segment >= model->header->segment_count) return CR_ERROR_REFERENCE;
        cr_ref from = {port->buffer, port->offset};
        const cr_segment *segment = &model->segments[port->segment];
        model->fault = model->header->op_count + i;
        if ((code = cr_check_read(model, port->segment, from, width))) return code;
        if ((code = cr_check_written(model, segment->first_op + segment->op_count, from, width, looks))) return code;
        model->fault = CR_NONE;
        if (!port->final && model->segments[port->segment].kind != CR_FORWARD) return CR_ERROR_ACCESS;
    }
    /* FLIP and ATTEND read the caller's array, so each input buffer has its port. */
    uint64_t given = 0;
    for (uint32_t i = 0; i < model->header->buffer_count; i++) given += model->buffers[i].kind == CR_INPUT;
    return given == model->header->input_count ? CR_OK : CR_ERROR_REFERENCE;
}

/* How many steps a whole sequence may have. */
static int cr_check_steps(cr_model *model)
{
    model->least_steps = 1;
    model->most_steps = model->header->most_steps;
    for (uint32_t i = 0; i < model->header->output_count; i++) {
        const cr_port *port = &model->outputs[i];
        if (port->fewer && (port->final || !model->offline || port->least <= port->fewer)) return CR_ERROR_SHAPE;
        if (port->least > model->least_steps) model->least_steps = port->least;
    }
    return model->most_steps && model->most_steps < model->least_steps ? CR_ERROR_SHAPE : CR_OK;
}

static int cr_bind_sections(cr_model *model, cr_walk *walk)
{
    const cr_header *header = model->header;
    const uint64_t bytes[7] = {
        (uint64_t)header->buffer_count * sizeof(cr_buffer),
        (uint64_t)header->tensor_count * sizeof(cr_tensor),
        (uint64_t)header->op_count * sizeof(cr_op),
        (uint64_t)header->segment_count * sizeof(cr_segment),
        (uint64_t)header->input_count * sizeof(cr_port),
        (uint64_t)header->output_count * sizeof(cr_port),
        header->metadata_bytes,
    };
    const void *start[7];
    for (int i = 0; i < 7; i++) {
        uint64_t place;
        int code = cr_take_section(walk, bytes[i], &place);
        if (code) return code;
        start[i] = walk->file + place;
    }
    model->buffers = start[0];
    model->tensors = start[1];
    model->ops = start[2];
    model->segments = start[3];
    model->inputs = start[4];
    model->outputs = start[5];
    model->metadata = start[6];
    return CR_OK;
}

/* A scratch or state of a file that streams belongs to one segment. */
static int cr_belongs(const cr_model *model, cr_ref ref, uint32_t segment)
{
    if (ref.buffer == CR_NONE) return 1;
    const cr_buffer *buffer = &model->buffers[ref.buffer];
    return (buffer->kind != CR_SCRATCH && buffer->kind != CR_STATE) || buffer->segment == segment;
}

static int cr_reads_all_steps(const cr_op *op)
{
    const cr_operation *is = &cr_operations[op->code];
    return (is->a.use | is->b.use | is->c.use | is->d.use) & CR_ALL_STEPS;
}

static int cr_streams(const cr_model *model)
{
    for (uint32_t s = 0; s < model->header->segment_count; s++) {
        const cr_segment *segment = &model->segments[s];
        if (segment->kind != CR_FORWARD) return 0;
        for (uint32_t i = 0; i < segment->op_count; i++) {
            const cr_op *op = &model->ops[segment->first_op + i];
            if (cr_reads_all_steps(op) || !cr_belongs(model, op->dst, s) || !cr_belongs(model, op->a, s) ||
                !cr_belongs(model, op->b, s) || !cr_belongs(model, op->c, s) || !cr_belongs(model, op->d, s))
                return 0;
        }
    }
    for (uint32_t i = 0; i < model->header->output_count; i++) {
        const cr_port *port = &model->outputs[i];
        if (!cr_belongs(model, (cr_ref){port->buffer, port->offset}, port->segment)) return 0;
    }
    return 1;
}

/* Whether the kernels compute what the law of numbers says: what they give for a few numbers, all of it finite, has this
 * checksum. Contraction, extended precision and reordered sums change it. */
static int cr_computes_right(const cr_kernels *kernels)
{
    enum { FUNCTIONS = CR_UNARY_SIGMOID + 1 };
    float x[16], y[FUNCTIONS + 1][16] = {{0}};
    struct {
        float scale[16];
        int8_t numbers[64];
        int32_t sums[16];
    } quantized = {{0}, {0}, {0}};
    for (int i = 0; i < 16; i++) x[i] = (float)(i * i + 1) / 16.0f;
    x[0] = 1.0f + 0x1p-12f; /* whose square needs a digit more than there is */
    uint64_t before = cr_flush_subnormals();
    for (unsigned fn = 0; fn < FUNCTIONS; fn++) kernels->unary(fn, y[fn], x, 16, x[0], -(1.0f + 0x1p-11f));
    for (unsigned fn = CR_REDUCE_SUM; fn < CR_REDUCE_ARGMAX; fn++)
        kernels->reduce(fn, &y[FUNCTIONS][fn], y[CR_UNARY_EXP], 1, 16);
    kernels->quantize(&quantized, x, 0.0f, 16);
    cr_restore_subnormals(before);
    return cr_crc32(cr_crc32(0, y, sizeof y), &quantized, sizeof quantized) == 0x8a0ef4efu;
}

/* What products need in the work space: quantized vectors for the steps of a chunk, or what cr_spectral.h or ATTEND takes. */
static size_t cr_product_bytes(const cr_model *model)
{
    size_t most = 0;
    for (uint32_t i = 0; i < model->header->op_count; i++) {
        const cr_op *op = &model->ops[i];
        if (op->code == CR_ATTEND && CR_ATTEND_WORK(op->n, op->k) > most) most = CR_ATTEND_WORK(op->n, op->k);
        if (op->tensor == CR_NONE || !cr_is_matrix(model->tensors[op->tensor].type)) continue;
        const cr_tensor *tensor = &model->tensors[op->tensor];
        size_t bytes = model->chunk * CR_QUANTIZED_BYTES(op->k);
        if (op->code == CR_MATMUL)
            bytes = CR_QUANTIZED_BYTES(op->k) + CR_MATMUL_WORK(op->k / tensor->columns, tensor->columns);
        if (op->code == CR_DELTA) bytes = CR_QUANTIZED_BYTES(op->k) + CR_DELTA_WORK(op->k);
        if (tensor->type == CR_TOEPLITZ_F32 && cr_is_spectral(tensor, (const void *)(model->file + tensor->place)))
            bytes = 4 * CR_SPECTRAL_WORK(op->k) + 2 * CR_LINES(4 * tensor->rows);
        if (bytes > most) most = bytes;
    }
    return most;
}

int cr_open(cr_model *model, const void *file, size_t bytes, const char *isa)
{
    int code;
    uint64_t looks = CR_MAX_LOOKS;
    memset(model, 0, sizeof *model);
    model->fault = CR_NONE;
    if (!(model->kernels = cr_find_kernels(isa))) return CR_ERROR_ISA;
    if (!cr_computes_right(model->kernels)) return CR_ERROR_ARITHMETIC;
    if ((uintptr_t)file % CR_LINE) return CR_ERROR_ALIGNMENT;
    if ((code = cr_check_header(file, bytes))) return code;
    model->file = file;
    model->header = file;
    cr_walk walk = {file, sizeof(cr_header), bytes};
    if ((code = cr_bind_sections(model, &walk))) return code;
    if ((code = cr_check_segments(model))) return code;
    if ((code = cr_check_buffers(model, &walk))) return code;
    for (uint32_t i = 0; i < model->header->tensor_count; i++)
        if ((code = cr_check_tensor(model, &walk, &model->tensors[i]))) return code;
    if (walk.at != walk.size) return CR_ERROR_LAYOUT;
    model->expanded_bytes = model->vector_bytes + (size_t)cr_unpacked_bytes(model);
    if ((code = cr_check_ops(model, &looks))) return code;
    if ((code = cr_check_ports(model, &looks))) return code;
    model->offline = !cr_streams(model);
    if ((code = cr_check_steps(model))) return code;
    model->workspace = model->rows + (model->offline ? 0 : model->chunk * model->row_bytes);
    model->block_bytes = model->workspace + cr_product_bytes(model);
    return CR_OK;
}
