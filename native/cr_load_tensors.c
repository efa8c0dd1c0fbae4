/* Verify the tensors of a file: places, padding, scales, sums. */
#include <string.h>

#include "cr_kernels.h"
#include "cr_load.h"
#include "cr_panels.h"
#include "cr_shared.h"
#include "cr_toeplitz.h"

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

/* Of the last line of a panel, the entries of columns beyond the matrix. */
static int cr_check_last_line(const cr_tensor *tensor, const unsigned char *last)
{
    int is_int4 = tensor->type == CR_MATRIX_I4;
    uint64_t left = is_int4 ? (tensor->columns + 7) % 8 + 1 : (tensor->columns + 3) % 4 + 1;
    for (uint64_t b = 0; b < CR_LINE && cr_takes_quantized(tensor->type); b++) {
        if (is_int4 ? b % 4 + 4 >= left && last[b] >> 4 != 8 : b % 4 >= left && last[b]) return CR_ERROR_LAYOUT;
        if (is_int4 && b % 4 >= left && (last[b] & 15) != 8) return CR_ERROR_LAYOUT;
    }
    return CR_OK;
}

/* Entries of rows and columns beyond the matrix, within its panels, are zero. A row has 4 bytes of each line. */
static int cr_check_padding(const cr_model *model, const cr_tensor *tensor)
{
    uint64_t lines = cr_lines_of_panel(tensor), panels = (tensor->rows + CR_LANES - 1) / CR_LANES;
    unsigned char zero = tensor->type == CR_MATRIX_I4 ? 0x88 : 0;
    for (uint64_t i = 0; i < panels; i++) {
        cr_panel panel = cr_find_panel(model->file, tensor, i);
        uint64_t rows = tensor->rows - i * CR_LANES, end = panel.count;
        for (uint64_t j = 0; j < end && rows < CR_LANES; j++)
            for (uint64_t b = 4 * rows; b < CR_LINE; b++)
                if (cr_panel_line(&panel, j)[b] != zero) return CR_ERROR_LAYOUT;
        if (!end || (panel.numbers && panel.numbers[end - 1] != lines - 1)) continue;
        int code = cr_check_last_line(tensor, cr_panel_line(&panel, end - 1));
        if (code) return code;
    }
    return CR_OK;
}

/* The sums of rows are what they say. */
static int cr_check_sums(const cr_model *model, const cr_tensor *tensor, uint64_t place)
{
    const int32_t *sums = (const int32_t *)(const void *)(model->file + place);
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES;
    for (uint64_t i = 0; i < panels; i++) {
        cr_panel panel = cr_find_panel(model->file, tensor, i);
        int32_t sum[CR_LANES] = {0};
        for (uint64_t j = 0; j < panel.count; j++) {
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
static int cr_check_group_scales(const cr_model *model, const cr_tensor *tensor)
{
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES;
    for (uint64_t i = 0; i < panels; i++) {
        cr_panel panel = cr_find_panel(model->file, tensor, i);
        uint32_t sum[CR_LANES] = {0};
        uint64_t in_block = panel.stride / CR_LINE;
        for (uint64_t g = 0; g < panel.groups; g++) {
            const unsigned char *line = cr_group_line(&panel, g);
            for (uint64_t r = 0; r < CR_LANES; r++) sum[r] += line[16 * panel.in_block + r];
            if (!cr_is_zero(line, 16 * in_block, CR_LINE)) return CR_ERROR_LAYOUT;
        }
        for (uint64_t r = 0; r < CR_LANES; r++)
            if (sum[r] > (i * CR_LANES + r < tensor->rows ? CR_MAX_GROUP_SCALES : 0)) return CR_ERROR_VALUE;
    }
    return CR_OK;
}

/* `entries`: the place of the lines. */
static int cr_check_matrix(const cr_model *model, cr_walk *walk, const cr_tensor *tensor, uint64_t entries)
{
    int code;
    uint64_t place;
    if ((code = cr_check_padding(model, tensor))) return code;
    if (!cr_takes_quantized(tensor->type)) return tensor->scale ? CR_ERROR_LAYOUT : CR_OK;
    if ((code = cr_take_section(walk, 4ull * tensor->rows, &place))) return code;
    if (tensor->scale != place) return CR_ERROR_LAYOUT;
    if ((code = cr_check_scales(model, place, tensor->rows))) return code;
    if (tensor->type == CR_MATRIX_I4) return cr_check_group_scales(model, tensor);
    if (memchr(model->file + entries, 0x80, (size_t)(place - entries))) return CR_ERROR_VALUE;
    if ((code = cr_take_section(walk, 4ull * tensor->rows, &place))) return code;
    return cr_check_sums(model, tensor, place);
}

/* Of `groups` groups, panels or columns, where each starts, from `place` on: none has more than `most`, whose numbers ascend
 * below that. `count` becomes that of all. */
static int cr_check_starts(const cr_model *model, cr_walk *walk, uint64_t place, uint64_t groups, uint64_t most, uint64_t *count)
{
    const uint32_t *starts = (const uint32_t *)(const void *)(model->file + place);
    if (starts[0]) return CR_ERROR_VALUE;
    for (uint64_t i = 0; i < groups; i++)
        if (starts[i + 1] < starts[i] || starts[i + 1] - starts[i] > most) return CR_ERROR_VALUE;
    *count = starts[groups];
    int code = cr_take_section(walk, 2 * *count, &place);
    if (code) return code;
    const uint16_t *numbers = (const uint16_t *)(const void *)(model->file + place);
    for (uint64_t i = 0; i < groups; i++)
        for (uint64_t j = starts[i]; j < starts[i + 1]; j++)
            if (numbers[j] >= most || (j > starts[i] && numbers[j] <= numbers[j - 1])) return CR_ERROR_VALUE;
    return CR_OK;
}

static int cr_check_sparse(const cr_model *model, cr_walk *walk, const cr_tensor *tensor, uint64_t place)
{
    uint64_t count;
    int code = cr_check_starts(model, walk, place, cr_count_of_starts(tensor) - 1, cr_lines_of_panel(tensor), &count);
    if (code || (code = cr_take_section(walk, CR_LINE * count, &place))) return code;
    return cr_check_matrix(model, walk, tensor, place);
}

static int cr_check_entries(const cr_model *model, cr_walk *walk, const cr_tensor *tensor, uint64_t place)
{
    uint64_t count, whole = tensor->type == CR_ENTRIES_I8;
    if (tensor->rows > CR_MAX_COLUMNS) return CR_ERROR_LIMIT;
    int code = cr_check_starts(model, walk, place, tensor->columns, tensor->rows, &count);
    if (code || (code = cr_take_section(walk, whole ? count : 4 * count, &place))) return code;
    if (!whole) return tensor->scale ? CR_ERROR_LAYOUT : CR_OK;
    if (memchr(model->file + place, 0x80, (size_t)count)) return CR_ERROR_VALUE;
    if ((code = cr_take_section(walk, 4ull * tensor->rows, &place))) return code;
    return tensor->scale != place ? CR_ERROR_LAYOUT : cr_check_scales(model, place, tensor->rows);
}

static int cr_check_columns(const cr_model *model, cr_walk *walk, const cr_tensor *tensor, uint64_t place)
{
    const unsigned char *lines = model->file + place, *last;
    uint64_t rows = tensor->rows, whole = 4 * CR_LANES, blocks = (rows + whole - 1) / whole, bytes = CR_LINE * tensor->columns;
    if (tensor->block != CR_MAX_BLOCK_PANELS) return CR_ERROR_LIMIT;
    if (memchr(lines, 0x80, (size_t)(blocks * bytes))) return CR_ERROR_VALUE;
    last = lines + (blocks - 1) * bytes;
    for (uint64_t b = 0; b < CR_LINE; b++) {
        if ((blocks - 1) * whole + cr_row_in_line(b) < rows) continue;
        for (uint64_t j = 0; j < tensor->columns; j++)
            if (last[j * CR_LINE + b]) return CR_ERROR_LAYOUT;
    }
    int code = cr_take_section(walk, 4 * rows, &place);
    if (code) return code;
    return tensor->scale != place ? CR_ERROR_LAYOUT : cr_check_scales(model, place, rows);
}

/* A matrix that is made of vectors, whose form is at `place`, and where it will be expanded. */
static int cr_check_toeplitz(cr_model *model, cr_walk *walk, const cr_tensor *tensor, uint64_t place)
{
    const cr_toeplitz *form = (const void *)(model->file + place);
    uint64_t units = form->units, padded = (units + CR_LANES - 1) / CR_LANES * CR_LANES;
    if (!cr_is_zero((const unsigned char *)form->reserved, 0, sizeof form->reserved)) return CR_ERROR_LAYOUT;
    if (!cr_form_fits(form, tensor->columns)) return CR_ERROR_LIMIT;
    if (form->gates * (form->interleaved ? padded : units) != tensor->rows) return CR_ERROR_SHAPE;
    uint64_t numbers = cr_form_numbers(form, tensor->columns);
    int code = cr_take_section(walk, 4 * numbers, &place);
    if (code) return code;
    const float *vectors = (const float *)(const void *)(model->file + place);
    for (uint64_t i = 0; i < numbers; i++)
        if (!(vectors[i] >= -CR_MAX_VECTOR && vectors[i] <= CR_MAX_VECTOR)) return CR_ERROR_VALUE;
    uint64_t scratch = CR_LINES(16ull * tensor->columns);
    uint64_t start = model->vector_bytes - model->scratch_bytes, end = start + cr_expanded_bytes(tensor, form);
    if (scratch < model->scratch_bytes) scratch = model->scratch_bytes;
    if (tensor->scale != start) return CR_ERROR_LAYOUT;
    if (end + scratch > SIZE_MAX / 2) return CR_ERROR_LIMIT;
    model->scratch_bytes = (size_t)scratch;
    model->vector_bytes = (size_t)(end + scratch);
    return CR_OK;
}

int cr_check_tensor(cr_model *model, cr_walk *walk, const cr_tensor *tensor)
{
    int code;
    uint64_t place, bytes = 0, rows = tensor->rows, columns = tensor->columns;
    uint64_t panels = (rows + CR_LANES - 1) / CR_LANES;
    if (tensor->type >= CR_TYPE_COUNT) return CR_ERROR_ENUM;
    if (!rows || !columns || rows > CR_MAX_ROWS || columns > CR_MAX_WIDTH) return CR_ERROR_LIMIT;
    int is_matrix = cr_is_matrix(tensor->type);
    int has_panels = is_matrix && !cr_has_single_entries(tensor->type);
    if (has_panels ? !tensor->block || tensor->block > CR_MAX_BLOCK_PANELS : tensor->block != 0) return CR_ERROR_LIMIT;
    if (is_matrix && columns > CR_MAX_COLUMNS) return CR_ERROR_LIMIT;
    switch (tensor->type) {
    case CR_MATRIX_F32:
    case CR_MATRIX_I8: bytes = panels * CR_LINE * cr_lines_of_panel(tensor); break;
    case CR_MATRIX_I4:
        bytes = panels * CR_LINE * cr_lines_of_panel(tensor) +
                (panels + tensor->block - 1) / tensor->block * CR_LINE * ((columns + CR_GROUP - 1) / CR_GROUP);
        break;
    case CR_COLUMNS_I8: bytes = (panels + 3) / 4 * CR_LINE * columns; break;
    case CR_TABLE_F32: bytes = rows * columns * 4; break;
    case CR_TABLE_F16: bytes = rows * columns * 2; break;
    case CR_TABLE_I8: bytes = rows * columns; break;
    case CR_INDEX: bytes = rows * 4; break;
    case CR_RUNS: bytes = rows * sizeof(cr_index_run); break;
    case CR_REPEATS: bytes = rows * sizeof(cr_index_repeat); break;
    case CR_TOEPLITZ_F32: bytes = sizeof(cr_toeplitz); break;
    case CR_SPARSE_F32:
    case CR_SPARSE_I8:
    case CR_ENTRIES_F32:
    case CR_ENTRIES_I8: bytes = 4 * (uint64_t)cr_count_of_starts(tensor); break;
    }
    if (cr_is_index(tensor->type) && (columns != 1 || rows > CR_MAX_WIDTH)) return CR_ERROR_SHAPE;
    if ((code = cr_take_section(walk, bytes, &place))) return code;
    if (tensor->place != place) return CR_ERROR_LAYOUT;
    if (tensor->type == CR_TOEPLITZ_F32) return cr_check_toeplitz(model, walk, tensor, place);
    if (cr_is_sparse(tensor->type)) return cr_check_sparse(model, walk, tensor, place);
    if (cr_has_single_entries(tensor->type)) return cr_check_entries(model, walk, tensor, place);
    if (tensor->type == CR_COLUMNS_I8) return cr_check_columns(model, walk, tensor, place);
    if (is_matrix) return cr_check_matrix(model, walk, tensor, place);
    if (tensor->type != CR_TABLE_I8) return tensor->scale ? CR_ERROR_LAYOUT : CR_OK;
    if ((code = cr_take_section(walk, 4 * rows, &place))) return code;
    if (tensor->scale != place) return CR_ERROR_LAYOUT;
    return cr_check_scales(model, place, rows);
}
