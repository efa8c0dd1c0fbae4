/* What fuzz.c changes in model files, so that it gets past the loader's first checks. After a change of bytes or records, the
 * places that the format implies, the sums of rows and the checksums are made right again: what is tried is the meaning of a
 * file, and not, over and over, its envelope. */
#include "model.h"

#include "cr_shared.h"
#include "cr_sparse.h"
#include "cr_toeplitz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *other, size_t other_size, uint8_t *out,
                                 size_t most, unsigned seed);

/* The sections of a file before its data, whose counts fit its size. */
typedef struct {
    cr_header *header;
    cr_buffer *buffers;
    cr_tensor *tensors;
    cr_op *ops;
    cr_segment *segments;
    cr_port *inputs;
    cr_port *outputs;
    size_t data;
} sections;

static size_t round_line(size_t bytes)
{
    return (bytes + CR_LINE - 1) / CR_LINE * CR_LINE;
}

/* The next section of `count` records, of which as many are left as fit. */
static void *take(uint8_t *file, size_t size, size_t *at, uint32_t *count, size_t record)
{
    void *start = file + *at;
    while (*count && round_line(*count * record) > size - *at) *count /= 2;
    size_t end = *at + *count * record;
    *at += round_line(*count * record);
    memset(file + end, 0, *at - end);
    return start;
}

static int find_sections(uint8_t *file, size_t size, sections *s)
{
    cr_header *header = (cr_header *)(void *)file;
    size_t at = sizeof *header;
    if (size < sizeof *header) return 0;
    size = size / CR_LINE * CR_LINE;
    s->header = header;
    s->buffers = take(file, size, &at, &header->buffer_count, sizeof(cr_buffer));
    s->tensors = take(file, size, &at, &header->tensor_count, sizeof(cr_tensor));
    s->ops = take(file, size, &at, &header->op_count, sizeof(cr_op));
    s->segments = take(file, size, &at, &header->segment_count, sizeof(cr_segment));
    s->inputs = take(file, size, &at, &header->input_count, sizeof(cr_port));
    s->outputs = take(file, size, &at, &header->output_count, sizeof(cr_port));
    take(file, size, &at, &header->metadata_bytes, 1);
    s->data = at;
    return 1;
}

/* `bytes` bytes of data at `*at`, as far as there is room. */
static uint64_t place(uint8_t *file, size_t most, uint64_t *at, uint64_t bytes)
{
    uint64_t start = *at, end = start + bytes, next = (end + CR_LINE - 1) / CR_LINE * CR_LINE;
    if (next <= most) memset(file + end, 0, next - end);
    *at = next;
    return start;
}

static void place_buffers(uint8_t *file, size_t most, sections *s, uint64_t *at)
{
    static const uint32_t order[] = {CR_STATE, CR_INPUT, CR_SCRATCH};
    uint64_t row = 0, block = 0;
    for (uint32_t i = 0; i < s->header->buffer_count; i++) {
        cr_buffer *b = &s->buffers[i];
        b->reserved = 0;
        if (b->kind == CR_SEQUENCE) b->place = row, row += round_line(4ull * b->width);
        if (b->kind == CR_CONSTANT) b->segment = 0;
        if (b->kind == CR_CONSTANT || (b->kind == CR_STATE && b->init))
            b->init = place(file, most, at, 4ull * b->width);
        else
            b->init = 0;
        if (b->kind == CR_CONSTANT) b->place = b->init;
    }
    for (int pass = 0; pass < 3; pass++)
        for (uint32_t i = 0; i < s->header->buffer_count; i++)
            if (s->buffers[i].kind == order[pass]) s->buffers[i].place = block, block += round_line(4ull * s->buffers[i].width);
}

/* Entries of the columns beyond the matrix are zero, and no int8 entry is -128. */
static void clean_entries(int8_t *entry, uint64_t column, uint64_t columns)
{
    for (uint64_t b = 0; b < 4; b++) {
        if (column + b >= columns) entry[b] = 0;
        if (entry[b] == -128) entry[b] = -127;
    }
}

static void sum_rows(uint8_t *file, const cr_tensor *t, uint64_t sums)
{
    uint64_t lines = (t->columns + 3) / 4, panels = (t->rows + CR_LANES - 1) / CR_LANES;
    for (uint64_t row = 0; row < t->rows; row++) {
        uint64_t panel = row / CR_LANES, first = panel / t->block * t->block;
        uint64_t width = panels - first < t->block ? panels - first : t->block;
        int32_t sum = 0;
        for (uint64_t j = 0; j < lines; j++) {
            int8_t *entry = (int8_t *)file + t->place + (first * lines + j * width + panel - first) * CR_LINE + 4 * (row % CR_LANES);
            clean_entries(entry, 4 * j, t->columns);
            sum += entry[0] + entry[1] + entry[2] + entry[3];
        }
        memcpy(file + sums + 4 * row, &sum, 4);
    }
}

/* The form and the vectors of a Toeplitz-like matrix; its panels come to `*expanded` in memory. */
static void place_toeplitz(uint8_t *file, size_t most, cr_tensor *t, uint64_t *at, uint64_t *expanded)
{
    cr_toeplitz form = {.rank = 0};
    t->place = place(file, most, at, sizeof form);
    if (*at > most) return;
    memcpy(&form, file + t->place, sizeof form);
    memset(form.reserved, 0, sizeof form.reserved);
    form.interleaved &= 1;
    if (!form.gates || form.gates > t->rows) form.gates = 1;
    form.rule %= 3;
    if (form.rule) form.rank = 0;
    else form.size = 0;
    if (!form.rule && (!form.rank || form.rank > t->columns)) form.rank = 1;
    if (!form.units || form.units > t->rows) form.units = 1 + t->rows / form.gates / 2;
    uint64_t padded = ((uint64_t)form.units + CR_LANES - 1) / CR_LANES * CR_LANES;
    t->rows = (uint32_t)(form.gates * (form.interleaved ? padded : form.units));
    memcpy(file + t->place, &form, sizeof form);
    if (!t->columns || t->columns > CR_MAX_COLUMNS) return;
    if (form.rule && !cr_form_fits(&form, t->columns)) form.size = 1;
    memcpy(file + t->place, &form, sizeof form);
    uint64_t count = cr_form_numbers(&form, t->columns);
    if (count > most) return;
    uint64_t vectors = place(file, most, at, 4 * count);
    t->scale = *expanded;
    *expanded += cr_expanded_bytes(t, &form);
    for (uint64_t i = 0; i < count && *at <= most; i++) {
        float x;
        memcpy(&x, file + vectors + 4 * i, 4);
        if (!(x >= -CR_MAX_VECTOR && x <= CR_MAX_VECTOR)) x = 1.0f;
        memcpy(file + vectors + 4 * i, &x, 4);
    }
}

/* Where the lines of panels, or the entries of columns, start, and their numbers: at most `most_of_one` for each, which
 * ascend. What is numbered has no place yet. */
static cr_stored_lines place_starts(uint8_t *file, size_t most, cr_tensor *t, uint64_t *at, uint64_t most_of_one)
{
    uint64_t groups = cr_count_of_starts(t) - 1;
    t->place = place(file, most, at, 4 * (groups + 1));
    if (*at > most) return (cr_stored_lines){NULL, NULL, NULL};
    uint32_t *starts = (uint32_t *)(void *)(file + t->place);
    starts[0] = 0;
    for (uint64_t i = 0; i < groups; i++) {
        uint64_t count = starts[i + 1] < starts[i] ? 1 : starts[i + 1] - starts[i];
        if (count > most_of_one || count > most / CR_LINE) count = most_of_one < 2 ? most_of_one : 2;
        starts[i + 1] = starts[i] + (uint32_t)count;
    }
    uint16_t *numbers = (uint16_t *)(void *)(file + place(file, most, at, 2ull * starts[groups]));
    for (uint64_t i = 0; i < groups && *at <= most; i++)
        for (uint64_t l = starts[i]; l < starts[i + 1]; l++) {
            uint64_t first = l > starts[i] ? numbers[l - 1] + 1u : 0, last = most_of_one - (starts[i + 1] - l);
            if (numbers[l] < first) numbers[l] = (uint16_t)first;
            if (numbers[l] > last) numbers[l] = (uint16_t)last;
        }
    return (cr_stored_lines){starts, numbers, NULL};
}

static void place_sparse(uint8_t *file, size_t most, cr_tensor *t, uint64_t *at)
{
    int whole = t->type == CR_SPARSE_I8;
    uint64_t panels = cr_count_of_starts(t) - 1, columns = t->columns;
    cr_stored_lines stored = place_starts(file, most, t, at, whole ? (columns + 3) / 4 : columns);
    if (*at > most) return;
    uint64_t lines = place(file, most, at, 64ull * stored.starts[panels]);
    t->scale = whole ? place(file, most, at, 4ull * t->rows) : 0;
    uint64_t sums = whole ? place(file, most, at, 4ull * t->rows) : 0;
    if (*at > most) return;
    if (whole) memset(file + sums, 0, 4ull * t->rows);
    for (uint64_t i = 0; i < panels; i++)
        for (uint64_t l = stored.starts[i]; l < stored.starts[i + 1]; l++)
            for (uint64_t r = 0; r < CR_LANES; r++) {
                uint64_t row = i * CR_LANES + r;
                int8_t *entry = (int8_t *)file + lines + l * CR_LINE + 4 * r;
                if (row >= t->rows) memset(entry, 0, 4);
                if (row >= t->rows || !whole) continue;
                clean_entries(entry, 4ull * stored.numbers[l], columns);
                int32_t sum;
                memcpy(&sum, file + sums + 4 * row, 4);
                sum += entry[0] + entry[1] + entry[2] + entry[3];
                memcpy(file + sums + 4 * row, &sum, 4);
            }
}

static void place_entries(uint8_t *file, size_t most, cr_tensor *t, uint64_t *at)
{
    int whole = t->type == CR_ENTRIES_I8;
    t->block = 0;
    cr_stored_lines stored = place_starts(file, most, t, at, t->rows);
    if (*at > most) return;
    uint64_t count = stored.starts[t->columns], entries = place(file, most, at, whole ? count : 4 * count);
    t->scale = whole ? place(file, most, at, 4ull * t->rows) : 0;
    for (uint64_t i = 0; i < count && whole && *at <= most; i++)
        if (file[entries + i] == 0x80) file[entries + i] = 0x81;
}

static void place_columns(uint8_t *file, size_t most, cr_tensor *t, uint64_t *at)
{
    uint64_t rows = t->rows, blocks = (rows + 63) / 64, bytes = CR_LINE * (uint64_t)t->columns;
    t->block = CR_MAX_BLOCK_PANELS;
    t->place = place(file, most, at, blocks * bytes);
    t->scale = place(file, most, at, 4 * rows);
    if (*at > most) return;
    for (uint64_t i = 0; i < blocks * bytes; i++) {
        uint8_t *entry = file + t->place + i;
        uint64_t b = i % CR_LINE, row = i / bytes * 64 + b / 4 % 4 * 16 + b / 16 * 4 + b % 4;
        if (row >= rows) *entry = 0;
        if (*entry == 0x80) *entry = 0x81;
    }
}

static void place_tensor(uint8_t *file, size_t most, cr_tensor *t, uint64_t *at, uint64_t *expanded)
{
    uint64_t rows = t->rows, columns = t->columns, panels = (rows + CR_LANES - 1) / CR_LANES, bytes = 0;
    int is_matrix = t->type <= CR_MATRIX_I4 || (t->type >= CR_TOEPLITZ_F32 && t->type < CR_TYPE_COUNT);
    if (!is_matrix) t->block = 0;
    if (is_matrix && (!t->block || t->block > 4)) t->block = 1 + t->block % 4;
    if (t->type == CR_TOEPLITZ_F32) {
        place_toeplitz(file, most, t, at, expanded);
        return;
    }
    if (cr_is_sparse(t->type) || cr_has_single_entries(t->type)) {
        if (!rows || rows >= most || !columns || columns > CR_MAX_COLUMNS) return;
        (cr_is_sparse(t->type) ? place_sparse : place_entries)(file, most, t, at);
        return;
    }
    if (t->type == CR_COLUMNS_I8) {
        if (rows && rows < most && columns && columns <= CR_MAX_COLUMNS) place_columns(file, most, t, at);
        return;
    }
    switch (t->type) {
    case CR_MATRIX_F32: bytes = panels * CR_LINE * columns; break;
    case CR_MATRIX_I8: bytes = panels * CR_LINE * ((columns + 3) / 4); break;
    case CR_MATRIX_I4:
        bytes = panels * CR_LINE * ((columns + 7) / 8) +
                (panels + t->block - 1) / t->block * CR_LINE * ((columns + CR_GROUP - 1) / CR_GROUP);
        break;
    case CR_TABLE_F32: bytes = rows * columns * 4; break;
    case CR_TABLE_F16: bytes = rows * columns * 2; break;
    case CR_TABLE_I8: bytes = rows * columns; break;
    default: bytes = rows * 4;
    }
    t->place = place(file, most, at, bytes);
    t->scale = t->type == CR_MATRIX_I8 || t->type == CR_MATRIX_I4 || t->type == CR_TABLE_I8 ? place(file, most, at, 4 * rows) : 0;
    if (t->type != CR_MATRIX_I8) return;
    uint64_t sums = place(file, most, at, 4 * rows);
    if (*at <= most) sum_rows(file, t, sums);
}

/* Make everything right that follows from the rest; returns the new size. */
static size_t seal(uint8_t *file, size_t size, size_t most)
{
    sections s;
    if (!find_sections(file, size, &s)) return size;
    uint64_t at = s.data, first = 0, expanded = 0;
    place_buffers(file, most, &s, &at);
    for (uint32_t i = 0; i < s.header->tensor_count && at <= most; i++) place_tensor(file, most, &s.tensors[i], &at, &expanded);
    for (uint32_t i = 0; i < s.header->segment_count; i++) {
        cr_segment *segment = &s.segments[i];
        segment->first_op = (uint32_t)first;
        if (segment->op_count > s.header->op_count - first || i + 1 == s.header->segment_count)
            segment->op_count = (uint32_t)(s.header->op_count - first);
        first += segment->op_count;
    }
    if (at <= most) {
        if (at > size) memset(file + size, 0, (size_t)at - size);
        size = (size_t)at;
    }
    memcpy(s.header->magic, CR_MAGIC, 8);
    s.header->version = CR_VERSION;
    s.header->features &= CR_KNOWN_FEATURES;
    s.header->file_bytes = size;
    s.header->body_crc = cr_crc32(0, file + sizeof(cr_header), size - sizeof(cr_header));
    s.header->header_crc = 0;
    s.header->header_crc = cr_crc32(0, s.header, sizeof *s.header);
    return size;
}

static uint32_t pick(uint64_t *state, uint32_t below)
{
    return below ? next_number(state) % below : 0;
}

/* A number of the kind that fields hold: small, near what was there, or a limit. */
static uint32_t strange_number(uint64_t *state, uint32_t before)
{
    static const uint32_t limits[] = {0, 1, 15, 16, 17, 63, 64, 65, 255, 65536, 1u << 20, 1u << 24, 0x7fffffffu, CR_NONE};
    switch (pick(state, 4)) {
    case 0: return limits[pick(state, sizeof limits / sizeof *limits)];
    case 1: return pick(state, 16);
    case 2: return before + pick(state, 5) - 2;
    default: return before ^ 1u << pick(state, 32);
    }
}

static void change_word(void *record, size_t bytes, uint64_t *state)
{
    uint32_t value;
    uint8_t *at = (uint8_t *)record + 4 * pick(state, (uint32_t)(bytes / 4));
    memcpy(&value, at, 4);
    value = strange_number(state, value);
    memcpy(at, &value, 4);
}

static void change_op(sections *s, uint64_t *state)
{
    cr_op *op = &s->ops[pick(state, s->header->op_count)], *other = &s->ops[pick(state, s->header->op_count)];
    cr_ref *refs[] = {&op->dst, &op->a, &op->b, &op->c, &op->d};
    cr_ref *ref = refs[pick(state, 5)];
    switch (pick(state, 8)) {
    case 0: op->code = (uint16_t)(1 + pick(state, CR_CODE_COUNT)); break;
    case 1: op->fn = (uint16_t)pick(state, CR_UNARY_COUNT + 1); break;
    case 2: op->n = strange_number(state, op->n); break;
    case 3: op->k = strange_number(state, op->k); break;
    case 4: op->tensor = pick(state, 8) ? pick(state, s->header->tensor_count) : CR_NONE; break;
    case 5: *op = *other; break;
    case 6: ref->offset = pick(state, 2) ? 0 : strange_number(state, ref->offset); break;
    default: *ref = pick(state, 8) ? (cr_ref){pick(state, s->header->buffer_count), 0} : (cr_ref){CR_NONE, 0};
    }
}

static void change_buffer(cr_buffer *buffer, uint64_t *state)
{
    switch (pick(state, 4)) {
    case 0: buffer->kind = pick(state, CR_KIND_COUNT); break;
    case 1: buffer->segment = pick(state, 4); break;
    case 2: buffer->init = !buffer->init; break;
    default: buffer->width = strange_number(state, buffer->width);
    }
}

/* What a Toeplitz-like or a sparse matrix says of itself. */
static void change_form(uint8_t *file, size_t size, sections *s, uint64_t *state)
{
    const cr_tensor *t = &s->tensors[pick(state, s->header->tensor_count)];
    if (t->type == CR_TOEPLITZ_F32 && t->place < size && sizeof(cr_toeplitz) <= size - t->place)
        change_word(file + t->place, 24, state);
    if (!cr_is_sparse(t->type) && !cr_has_single_entries(t->type)) return;
    size_t starts = round_line(4 * cr_count_of_starts(t));
    if (t->place >= size || starts + CR_LINE > size - t->place) return;
    change_word(file + t->place + (pick(state, 2) ? starts : 0), CR_LINE, state);
}

static void change_record(uint8_t *file, size_t size, uint64_t *state)
{
    sections s;
    if (!find_sections(file, size, &s)) return;
    cr_header *h = s.header;
    switch (pick(state, 11)) {
    case 10: if (h->tensor_count) change_form(file, size, &s, state); break;
    case 0: if (h->buffer_count) change_buffer(&s.buffers[pick(state, h->buffer_count)], state); break;
    case 1: if (h->tensor_count) change_word(&s.tensors[pick(state, h->tensor_count)], 16, state); break;
    case 2: if (h->segment_count) change_word(&s.segments[pick(state, h->segment_count)], sizeof(cr_segment), state); break;
    case 3: if (h->input_count) change_word(&s.inputs[pick(state, h->input_count)], sizeof(cr_port), state); break;
    case 4: if (h->output_count) change_word(&s.outputs[pick(state, h->output_count)], sizeof(cr_port), state); break;
    case 5: change_word(&h->buffer_count, 28, state); break;
    default: if (h->op_count) change_op(&s, state);
    }
}

/* One op more, a copy of another, or one less: an op is as long as a line. */
static size_t change_length(uint8_t *file, size_t size, size_t most, uint64_t *state)
{
    sections s;
    if (!find_sections(file, size, &s) || !s.header->op_count) return size;
    uint8_t *op = (uint8_t *)&s.ops[pick(state, s.header->op_count)];
    size_t rest = size - (size_t)(op - file);
    if (pick(state, 3) && size + CR_LINE <= most) {
        memmove(op + CR_LINE, op, rest);
        s.header->op_count++;
        return size + CR_LINE;
    }
    memmove(op, op + CR_LINE, rest - CR_LINE);
    s.header->op_count--;
    return size - CR_LINE;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    uint64_t state = seed;
    uint8_t *file = allocate(most);
    memcpy(file, data, size);
    uint32_t kind = pick(&state, 16);
    for (uint32_t times = 1 + pick(&state, 3); times && kind > 3; times--) change_record(file, size, &state);
    if (kind == 3) size = change_length(file, size, most, &state);
    if (kind < 3) size = LLVMFuzzerMutate(file, size, most);
    if (kind) size = seal(file, size, most);
    memcpy(data, file, size);
    free(file);
    return size;
}

/* Lines of the second file in place of those of the first. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *other, size_t other_size, uint8_t *out,
                                 size_t most, unsigned seed)
{
    uint64_t state = seed;
    uint8_t *file = allocate(most);
    size_t size = one_size < most ? one_size : most;
    memcpy(file, one, size);
    uint32_t lines = (uint32_t)(size / CR_LINE), from = pick(&state, (uint32_t)(other_size / CR_LINE));
    uint32_t to = pick(&state, lines);
    for (uint32_t n = 1 + pick(&state, 8); n && from < other_size / CR_LINE && to < lines; n--, from++, to++)
        memcpy(file + to * CR_LINE, other + from * CR_LINE, CR_LINE);
    size = seal(file, size, most);
    memcpy(out, file, size);
    free(file);
    return size;
}
