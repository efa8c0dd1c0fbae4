/* Verify a file and bind a model to it: the only code that sees untrusted bytes. A pure function of the buffer.
 * What passes here is trusted by everything else, so that no kernel checks anything. */
#include <math.h>
#include <string.h>

#include "cr.h"
#include "cr_kernels.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian, and are used where they lie"
#endif

static const char *const error_text[CR_ERROR_COUNT] = {
    [CR_OK] = "no error",
    [CR_ERROR_ALIGNMENT] = "the file does not start at a multiple of 64 in memory",
    [CR_ERROR_TRUNCATED] = "the file is shorter or longer than its header says",
    [CR_ERROR_MAGIC] = "not a compactrnn model file",
    [CR_ERROR_VERSION] = "the file has another format version than this library reads (3): pack the model again",
    [CR_ERROR_FEATURE] = "the file needs a feature that this library does not have",
    [CR_ERROR_CHECKSUM] = "the checksum does not match: the file is damaged",
    [CR_ERROR_LIMIT] = "a count or a size is beyond the limits of the format",
    [CR_ERROR_LAYOUT] = "a section is not where it must be, or padding is not zero",
    [CR_ERROR_ENUM] = "an unknown kind, type, operation or function",
    [CR_ERROR_REFERENCE] = "an operand lies outside its buffer, or refers to something that does not exist",
    [CR_ERROR_ACCESS] = "an operation writes where it must not, or reads a sequence before it is complete",
    [CR_ERROR_OVERLAP] = "operands overlap where they must not",
    [CR_ERROR_SHAPE] = "the sizes of an operation contradict each other or its tensor",
    [CR_ERROR_VALUE] = "a scale, a parameter, a weight or an index is out of range",
    [CR_ERROR_ISA] = "these kernels are unknown, or this processor lacks them",
    [CR_ERROR_TOKEN] = "an input token is outside its vocabulary",
    [CR_ERROR_OFFLINE] = "the model needs whole sequences",
};

const char *cr_error(int code)
{
    return code >= 0 && code < CR_ERROR_COUNT ? error_text[code] : "unknown error";
}

typedef struct {
    uint32_t of[8][256];
} cr_crc_table;

static void cr_make_crc_table(cr_crc_table *made)
{
    uint32_t(*table)[256] = made->of;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = (c >> 1) ^ (c & 1 ? 0xedb88320u : 0);
        table[0][i] = c;
    }
    for (int slice = 1; slice < 8; slice++)
        for (uint32_t i = 0; i < 256; i++)
            table[slice][i] = table[slice - 1][i] >> 8 ^ table[0][table[slice - 1][i] & 255];
}

static uint32_t cr_add_crc(const cr_crc_table *made, uint32_t crc, const void *data, size_t bytes)
{
    const uint32_t(*table)[256] = made->of;
    const unsigned char *p = data;
    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][high & 255] ^ table[2][high >> 8 & 255] ^ table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    for (; bytes; bytes--) crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
    return ~crc;
}

uint32_t cr_crc32(uint32_t crc, const void *data, size_t bytes)
{
    cr_crc_table table;
    cr_make_crc_table(&table);
    return cr_add_crc(&table, crc, data, bytes);
}

/* A walk over the file: `at` is a multiple of 64, never beyond `size`. */
typedef struct {
    const unsigned char *file;
    uint64_t at;
    uint64_t size;
} cr_walk;

/* Take the next `bytes` bytes and the zero padding after them; their place goes to `place`. */
static int cr_take_section(cr_walk *walk, uint64_t bytes, uint64_t *place)
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
    cr_crc_table table;
    if (bytes < sizeof header) return bytes < 8 || memcmp(file, CR_MAGIC, 8) ? CR_ERROR_MAGIC : CR_ERROR_TRUNCATED;
    memcpy(&header, file, sizeof header);
    if (memcmp(header.magic, CR_MAGIC, 8)) return CR_ERROR_MAGIC;
    if (header.version != CR_VERSION) return CR_ERROR_VERSION;
    uint32_t crc = header.header_crc;
    header.header_crc = 0;
    cr_make_crc_table(&table);
    if (cr_add_crc(&table, 0, &header, sizeof header) != crc) return CR_ERROR_CHECKSUM;
    if (header.features & ~CR_KNOWN_FEATURES) return CR_ERROR_FEATURE;
    if (header.file_bytes != bytes) return CR_ERROR_TRUNCATED;
    if (cr_add_crc(&table, 0, file + sizeof header, bytes - sizeof header) != header.body_crc) return CR_ERROR_CHECKSUM;
    if (header.reserved) return CR_ERROR_LAYOUT;
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

static int cr_check_scales(const cr_model *model, uint64_t place, uint64_t rows)
{
    const float *scale = (const float *)(const void *)(model->file + place);
    for (uint64_t i = 0; i < rows; i++)
        if (!(scale[i] >= 1e-37f && scale[i] <= 1e37f)) return CR_ERROR_VALUE;
    return CR_OK;
}

static int cr_is_zero(const unsigned char *bytes, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++)
        if (bytes[i]) return 0;
    return 1;
}

/* Where the lines of panel `panel` start and how far apart they are, in a matrix of `per_panel` lines a panel, of which
 * every `group` are followed by a line of scales (0: none). */
typedef struct {
    const unsigned char *first;
    uint64_t stride;
    uint64_t groups;
    uint64_t in_block;
} cr_panel;

static cr_panel cr_find_panel(const unsigned char *matrix, const cr_tensor *tensor, uint64_t per_panel, uint64_t panel)
{
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES, block = panel / tensor->block * tensor->block;
    uint64_t size = panels - block < tensor->block ? panels - block : tensor->block;
    uint64_t groups = tensor->type == CR_MATRIX_I4 ? (tensor->columns + CR_GROUP - 1) / CR_GROUP : 0;
    uint64_t bytes = block * per_panel + block / tensor->block * groups; /* lines before the block */
    return (cr_panel){matrix + (bytes + panel - block) * CR_LINE, size * CR_LINE, groups, panel - block};
}

/* Line `line` of a panel: the lines of scales of the groups before it are passed over. */
static const unsigned char *cr_panel_line(const cr_panel *panel, uint64_t line)
{
    uint64_t scales = panel->groups ? line / (CR_GROUP / 8) : 0;
    return panel->first + line * panel->stride + scales * CR_LINE;
}

static uint64_t cr_lines_of_panel(const cr_tensor *tensor)
{
    uint64_t columns = tensor->columns;
    return tensor->type == CR_MATRIX_F32 ? columns : tensor->type == CR_MATRIX_I8 ? (columns + 3) / 4 : (columns + 7) / 8;
}

/* Entries of rows and columns beyond the matrix, within its panels, are zero. A row has 4 bytes of each line. */
static int cr_check_padding(const unsigned char *matrix, const cr_tensor *tensor)
{
    uint64_t lines = cr_lines_of_panel(tensor), panels = (tensor->rows + CR_LANES - 1) / CR_LANES;
    unsigned char zero = tensor->type == CR_MATRIX_I4 ? 0x88 : 0;
    for (uint64_t i = 0; i < panels; i++) {
        cr_panel panel = cr_find_panel(matrix, tensor, lines, i);
        uint64_t rows = tensor->rows - i * CR_LANES;
        for (uint64_t j = 0; j < lines && rows < CR_LANES; j++)
            for (uint64_t b = 4 * rows; b < CR_LINE; b++)
                if (cr_panel_line(&panel, j)[b] != zero) return CR_ERROR_LAYOUT;
        const unsigned char *last = cr_panel_line(&panel, lines - 1);
        uint64_t left = tensor->type == CR_MATRIX_I8 ? (tensor->columns + 3) % 4 + 1 : (tensor->columns + 7) % 8 + 1;
        for (uint64_t b = 0; b < CR_LINE && tensor->type != CR_MATRIX_F32; b++) {
            if (tensor->type == CR_MATRIX_I8 ? b % 4 >= left && last[b] : b % 4 + 4 >= left && last[b] >> 4 != 8)
                return CR_ERROR_LAYOUT;
            if (tensor->type == CR_MATRIX_I4 && b % 4 >= left && (last[b] & 15) != 8) return CR_ERROR_LAYOUT;
        }
    }
    return CR_OK;
}

/* The sums of rows are what they say. */
static int cr_check_sums(const cr_model *model, const unsigned char *matrix, const cr_tensor *tensor, uint64_t place)
{
    const int32_t *sums = (const int32_t *)(const void *)(model->file + place);
    uint64_t lines = cr_lines_of_panel(tensor), panels = (tensor->rows + CR_LANES - 1) / CR_LANES;
    for (uint64_t i = 0; i < panels; i++) {
        cr_panel panel = cr_find_panel(matrix, tensor, lines, i);
        int32_t sum[CR_LANES] = {0};
        for (uint64_t j = 0; j < lines; j++) {
            const int8_t *line = (const int8_t *)cr_panel_line(&panel, j);
            for (int r = 0; r < (int)CR_LANES; r++)
                sum[r] += line[4 * r] + line[4 * r + 1] + line[4 * r + 2] + line[4 * r + 3];
        }
        for (uint64_t r = 0; r < CR_LANES && i * CR_LANES + r < tensor->rows; r++)
            if (sums[i * CR_LANES + r] != sum[r]) return CR_ERROR_VALUE;
    }
    return CR_OK;
}

/* The scales of the groups of each row add up to no more than 32 bits can take; what is padding has none. */
static int cr_check_group_scales(const unsigned char *matrix, const cr_tensor *tensor)
{
    uint64_t lines = cr_lines_of_panel(tensor), panels = (tensor->rows + CR_LANES - 1) / CR_LANES;
    for (uint64_t i = 0; i < panels; i++) {
        cr_panel panel = cr_find_panel(matrix, tensor, lines, i);
        uint32_t sum[CR_LANES] = {0};
        uint64_t in_block = panel.stride / CR_LINE;
        for (uint64_t g = 0; g < panel.groups; g++) {
            uint64_t end = (g + 1) * (CR_GROUP / 8) < lines ? (g + 1) * (CR_GROUP / 8) : lines;
            const unsigned char *line = panel.first + end * panel.stride + g * CR_LINE - panel.in_block * CR_LINE;
            for (uint64_t r = 0; r < CR_LANES; r++) sum[r] += line[16 * panel.in_block + r];
            if (!cr_is_zero(line, 16 * in_block, CR_LINE)) return CR_ERROR_LAYOUT;
        }
        for (uint64_t r = 0; r < CR_LANES; r++)
            if (sum[r] > (i * CR_LANES + r < tensor->rows ? CR_MAX_GROUP_SCALES : 0)) return CR_ERROR_VALUE;
    }
    return CR_OK;
}

static int cr_check_matrix(const cr_model *model, cr_walk *walk, const cr_tensor *tensor, uint64_t entries)
{
    int code;
    uint64_t place;
    const unsigned char *matrix = model->file + entries;
    if ((code = cr_check_padding(matrix, tensor))) return code;
    if (tensor->type == CR_MATRIX_F32) return tensor->scale ? CR_ERROR_LAYOUT : CR_OK;
    if ((code = cr_take_section(walk, 4ull * tensor->rows, &place))) return code;
    if (tensor->scale != place) return CR_ERROR_LAYOUT;
    if ((code = cr_check_scales(model, place, tensor->rows))) return code;
    if (tensor->type == CR_MATRIX_I4) return cr_check_group_scales(matrix, tensor);
    if (memchr(matrix, 0x80, (size_t)(place - entries))) return CR_ERROR_VALUE;
    if ((code = cr_take_section(walk, 4ull * tensor->rows, &place))) return code;
    return cr_check_sums(model, matrix, tensor, place);
}

static int cr_check_tensor(const cr_model *model, cr_walk *walk, const cr_tensor *tensor)
{
    int code;
    uint64_t place, bytes = 0, rows = tensor->rows, columns = tensor->columns;
    uint64_t panels = (rows + CR_LANES - 1) / CR_LANES;
    if (tensor->type >= CR_TYPE_COUNT) return CR_ERROR_ENUM;
    if (!rows || !columns || rows > CR_MAX_ROWS || columns > CR_MAX_WIDTH) return CR_ERROR_LIMIT;
    int is_matrix = tensor->type <= CR_MATRIX_I4;
    if (is_matrix ? !tensor->block || tensor->block > CR_MAX_BLOCK_PANELS : tensor->block != 0) return CR_ERROR_LIMIT;
    if (is_matrix && columns > CR_MAX_COLUMNS) return CR_ERROR_LIMIT;
    switch (tensor->type) {
    case CR_MATRIX_F32:
    case CR_MATRIX_I8: bytes = panels * CR_LINE * cr_lines_of_panel(tensor); break;
    case CR_MATRIX_I4:
        bytes = panels * CR_LINE * cr_lines_of_panel(tensor) +
                (panels + tensor->block - 1) / tensor->block * CR_LINE * ((columns + CR_GROUP - 1) / CR_GROUP);
        break;
    case CR_TABLE_F32: bytes = rows * columns * 4; break;
    case CR_TABLE_F16: bytes = rows * columns * 2; break;
    case CR_TABLE_I8: bytes = rows * columns; break;
    case CR_INDEX: bytes = rows * 4; break;
    }
    if (tensor->type == CR_INDEX && (columns != 1 || rows > CR_MAX_WIDTH)) return CR_ERROR_SHAPE;
    if ((code = cr_take_section(walk, bytes, &place))) return code;
    if (tensor->place != place) return CR_ERROR_LAYOUT;
    if (is_matrix) return cr_check_matrix(model, walk, tensor, place);
    if (tensor->type != CR_TABLE_I8) return tensor->scale ? CR_ERROR_LAYOUT : CR_OK;
    if ((code = cr_take_section(walk, 4 * rows, &place))) return code;
    if (tensor->scale != place) return CR_ERROR_LAYOUT;
    return cr_check_scales(model, place, rows);
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

static int cr_check_read(const cr_model *model, uint32_t segment, cr_ref ref, uint64_t width)
{
    if (ref.buffer >= model->header->buffer_count) return CR_ERROR_REFERENCE;
    const cr_buffer *buffer = &model->buffers[ref.buffer];
    if ((uint64_t)ref.offset + width > buffer->width) return CR_ERROR_REFERENCE;
    return buffer->kind == CR_SEQUENCE && buffer->segment > segment ? CR_ERROR_ACCESS : CR_OK;
}

static int cr_check_write(const cr_model *model, uint32_t segment, cr_ref ref, uint64_t width)
{
    int code = cr_check_read(model, segment, ref, width);
    if (code) return code;
    const cr_buffer *buffer = &model->buffers[ref.buffer];
    if (buffer->kind == CR_SEQUENCE) return buffer->segment == segment ? CR_OK : CR_ERROR_ACCESS;
    return buffer->kind == CR_SCRATCH || buffer->kind == CR_STATE ? CR_OK : CR_ERROR_ACCESS;
}

static int cr_is_apart(cr_ref p, uint64_t p_width, cr_ref q, uint64_t q_width)
{
    return p.buffer != q.buffer || p.offset + p_width <= q.offset || q.offset + q_width <= p.offset;
}

/* How many numbers an op writes at dst. */
static uint64_t cr_written(const cr_op *op)
{
    return op->code == CR_DELAY ? op->k : op->n;
}

/* How an operand may lie to dst: apart only, or also in the same place. */
enum cr_relation { CR_APART, CR_SAME };

static int cr_check_operand(const cr_model *model, uint32_t segment, const cr_op *op, cr_ref ref, uint64_t width,
                            enum cr_relation relation)
{
    int code = cr_check_read(model, segment, ref, width);
    if (code) return code;
    if (cr_is_apart(op->dst, cr_written(op), ref, width)) return CR_OK;
    if (relation == CR_SAME && width == op->n && ref.buffer == op->dst.buffer && ref.offset == op->dst.offset)
        return CR_OK;
    return CR_ERROR_OVERLAP;
}

static int cr_check_unused(cr_ref ref)
{
    return ref.buffer == CR_NONE && !ref.offset ? CR_OK : CR_ERROR_LAYOUT;
}

static int cr_check_index(const cr_model *model, const cr_tensor *tensor, uint32_t width)
{
    const int32_t *index = (const int32_t *)(const void *)(model->file + tensor->place);
    for (uint32_t i = 0; i < tensor->rows; i++)
        if (index[i] < -1 || (index[i] >= 0 && (uint32_t)index[i] >= width)) return CR_ERROR_VALUE;
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
    if (tensor->type > CR_MATRIX_I4 || tensor->rows != rows || tensor->columns != op->k) return CR_ERROR_SHAPE;
    if (op->p0 == 0) return CR_OK;
    return tensor->type != CR_MATRIX_F32 && op->p0 >= 1e-30f && op->p0 <= 1e30f ? CR_OK : CR_ERROR_VALUE;
}

static int cr_check_op(cr_model *model, uint32_t segment, const cr_op *op)
{
    int code;
    if ((code = cr_check_signature(model, op))) return code;
    if ((code = cr_check_write(model, segment, op->dst, cr_written(op)))) return code;
    const cr_tensor *tensor = op->tensor == CR_NONE ? NULL : &model->tensors[op->tensor];
    uint64_t n = op->n, k = op->k, padded = (n + CR_LANES - 1) / CR_LANES * CR_LANES;
    switch (op->code) {
    case CR_EMBED:
        if (tensor->type < CR_TABLE_F32 || tensor->type > CR_TABLE_I8 || tensor->columns != n) return CR_ERROR_SHAPE;
        return cr_check_operand(model, segment, op, op->a, 1, CR_APART);
    case CR_AFFINE:
        if ((code = cr_check_product(op, tensor, n))) return code;
        if ((code = cr_check_operand(model, segment, op, op->a, k, CR_APART))) return code;
        if (op->b.buffer == CR_NONE) return cr_check_unused(op->b);
        return cr_check_operand(model, segment, op, op->b, n, CR_SAME);
    case CR_GATHER:
        if (tensor->type != CR_INDEX || tensor->rows != n) return CR_ERROR_SHAPE;
        if ((code = cr_check_operand(model, segment, op, op->a, k, CR_APART))) return code;
        return cr_check_index(model, tensor, op->k);
    case CR_UNARY:
        if (op->fn == CR_CLAMP ? op->p0 > op->p1 : op->fn != CR_SCALE_SHIFT && (op->p0 != 0 || op->p1 != 0))
            return CR_ERROR_VALUE;
        return cr_check_operand(model, segment, op, op->a, n, CR_SAME);
    case CR_BINARY:
        if (n % k) return CR_ERROR_SHAPE;
        if ((code = cr_check_operand(model, segment, op, op->a, n, CR_SAME))) return code;
        return cr_check_operand(model, segment, op, op->b, k, CR_SAME);
    case CR_REDUCE:
        return cr_check_operand(model, segment, op, op->a, n * k, CR_APART);
    case CR_LAYER_NORM:
        if (!(op->p0 >= 0 && op->p0 <= 1e30f)) return CR_ERROR_VALUE;
        /* fall through */
    case CR_SOFTMAX:
    case CR_LOG_SOFTMAX:
        if (n % k) return CR_ERROR_SHAPE;
        return cr_check_operand(model, segment, op, op->a, n, CR_SAME);
    case CR_TOP:
        if (n > k) return CR_ERROR_SHAPE;
        return cr_check_operand(model, segment, op, op->a, k, CR_APART);
    case CR_LSTM:
        if ((code = cr_check_product(op, tensor, 4 * padded))) return code;
        if (tensor->block != 4) return CR_ERROR_SHAPE;
        if ((code = cr_check_operand(model, segment, op, op->a, 4 * padded, CR_APART))) return code;
        if ((code = cr_check_operand(model, segment, op, op->b, n, CR_APART))) return code;
        if ((code = cr_check_operand(model, segment, op, op->c, k, CR_APART))) return code;
        if (!cr_is_apart(op->a, 4 * padded, op->b, n) || !cr_is_apart(op->c, k, op->b, n)) return CR_ERROR_OVERLAP;
        return cr_check_write(model, segment, op->b, n);
    case CR_GRU:
        if ((code = cr_check_product(op, tensor, 3 * padded))) return code;
        if (tensor->block != 3) return CR_ERROR_SHAPE;
        if ((code = cr_check_operand(model, segment, op, op->a, 3 * padded, CR_APART))) return code;
        if (op->b.buffer == CR_NONE ? (code = cr_check_unused(op->b))
                                    : (code = cr_check_operand(model, segment, op, op->b, n, CR_APART)))
            return code;
        if ((code = cr_check_operand(model, segment, op, op->c, k, CR_APART))) return code;
        return cr_check_operand(model, segment, op, op->d, n, CR_SAME);
    case CR_SELECT:
        if ((code = cr_check_operand(model, segment, op, op->a, n, CR_SAME))) return code;
        if ((code = cr_check_operand(model, segment, op, op->b, n, CR_SAME))) return code;
        return cr_check_operand(model, segment, op, op->c, n, CR_SAME);
    case CR_DELAY:
        if (k % n) return CR_ERROR_SHAPE;
        if (model->buffers[op->dst.buffer].kind != CR_STATE) return CR_ERROR_ACCESS;
        return cr_check_operand(model, segment, op, op->a, n, CR_APART);
    case CR_FLIP: {
        if ((code = cr_check_operand(model, segment, op, op->a, n, CR_APART))) return code;
        const cr_buffer *buffer = &model->buffers[op->a.buffer];
        if (buffer->kind == CR_INPUT) return CR_OK;
        return buffer->kind == CR_SEQUENCE && buffer->segment < segment ? CR_OK : CR_ERROR_ACCESS;
    }
    }
    return CR_ERROR_ENUM;
}

static int cr_check_port(const cr_model *model, const cr_port *port, uint64_t *width)
{
    *width = 1;
    if (port->reserved[0] || port->reserved[1]) return CR_ERROR_LAYOUT;
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

static int cr_check_ports(const cr_model *model)
{
    int code;
    uint64_t width;
    for (uint32_t i = 0; i < model->header->input_count; i++) {
        const cr_port *port = &model->inputs[i];
        if ((code = cr_check_port(model, port, &width))) return code;
        if (port->offset || port->final || port->segment) return CR_ERROR_LAYOUT;
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
        if ((code = cr_check_read(model, port->segment, (cr_ref){port->buffer, port->offset}, width))) return code;
        if (!port->final && model->segments[port->segment].kind != CR_FORWARD) return CR_ERROR_ACCESS;
    }
    /* FLIP reads the caller's array, so each input buffer has its port. */
    uint64_t given = 0;
    for (uint32_t i = 0; i < model->header->buffer_count; i++) given += model->buffers[i].kind == CR_INPUT;
    return given == model->header->input_count ? CR_OK : CR_ERROR_REFERENCE;
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

static int cr_streams(const cr_model *model)
{
    for (uint32_t s = 0; s < model->header->segment_count; s++) {
        const cr_segment *segment = &model->segments[s];
        if (segment->kind != CR_FORWARD) return 0;
        for (uint32_t i = 0; i < segment->op_count; i++) {
            const cr_op *op = &model->ops[segment->first_op + i];
            if (op->code == CR_FLIP || !cr_belongs(model, op->dst, s) || !cr_belongs(model, op->a, s) ||
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

int cr_open(cr_model *model, const void *file, size_t bytes, const char *isa)
{
    int code;
    memset(model, 0, sizeof *model);
    if (!(model->kernels = cr_find_kernels(isa))) return CR_ERROR_ISA;
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
    size_t quantized = 0;
    for (uint32_t i = 0, s = 0; i < model->header->op_count; i++) {
        const cr_op *op = &model->ops[i];
        while (i >= model->segments[s].first_op + model->segments[s].op_count) s++;
        if ((code = cr_check_op(model, s, op))) return code;
        if (op->tensor != CR_NONE && model->tensors[op->tensor].type <= CR_MATRIX_I4 &&
            CR_QUANTIZED_BYTES(op->k) > quantized)
            quantized = CR_QUANTIZED_BYTES(op->k);
    }
    if ((code = cr_check_ports(model))) return code;
    model->offline = !cr_streams(model);
    model->workspace = model->rows + (model->offline ? 0 : model->chunk * model->row_bytes);
    model->block_bytes = model->workspace + model->chunk * quantized;
    return CR_OK;
}
