/* Rows of tables, and of the matrices that a product reads, too: the numbers are those that it multiplies with. */
#include "cr_lookup.h"

#include <string.h>

#include "cr_inline.h"
#include "cr_kernels.h"
#include "cr_panels.h"

static void cr_widen_f16(float *dst, const uint16_t *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(row[i] & 0x8000u) << 16, rest = (uint32_t)(row[i] & 0x7fffu) << 13;
        /* exponent 31: infinity and NaN; 0: zero and subnormals, whose mantissa counts in 2^-24 */
        uint32_t bits = rest >= 0x0f800000u ? rest + 0x70000000u : rest + 0x38000000u;
        float small = (float)(row[i] & 0x3ffu) * 0x1p-24f;
        if (rest < 0x00800000u) memcpy(&bits, &small, sizeof bits);
        bits |= sign;
        memcpy(&dst[i], &bits, sizeof bits);
    }
}

/* The entries of a row from column `first` on, up to a group of them. A row has 4 bytes of each line, from `in_line` on. */
static void cr_entries_of_row(int8_t *entries, const cr_panel *panel, uint64_t first, uint64_t count, size_t in_line)
{
    if (!panel->groups) {
        for (uint64_t i = 0; i < count; i += 4) memcpy(entries + i, cr_panel_line(panel, (first + i) / 4) + in_line, 4);
        return;
    }
    for (uint64_t i = 0; i < count; i += 8) {
        const unsigned char *four = cr_panel_line(panel, (first + i) / 8) + in_line;
        for (size_t b = 0; b < 4; b++) {
            entries[i + b] = (int8_t)((four[b] & 15) - 8);
            entries[i + 4 + b] = (int8_t)((four[b] >> 4) - 8);
        }
    }
}

/* A whole number is entry * group scale, exactly, and is then rounded once, as a product with the row's scale. */
CR_NOINLINE void cr_row_of_panels(const cr_model *model, const cr_tensor *matrix, size_t row, float *dst)
{
    const cr_kernels *kernels = model->kernels;
    size_t n = matrix->columns, lane = row % CR_LANES;
    cr_panel panel = cr_find_panel(model->file, matrix, row / CR_LANES);
    if (matrix->type == CR_MATRIX_F32) {
        for (size_t i = 0; i < n; i++) memcpy(&dst[i], cr_panel_line(&panel, i) + 4 * lane, sizeof dst[i]);
        return;
    }
    for (size_t first = 0; first < n; first += CR_GROUP) {
        int8_t entries[CR_GROUP];
        size_t count = n - first < CR_GROUP ? n - first : CR_GROUP;
        cr_entries_of_row(entries, &panel, first, count, 4 * lane);
        float scale = panel.groups ? cr_group_line(&panel, first / CR_GROUP)[CR_LANES * panel.in_block + lane] : 1.0f;
        kernels->row_i8(dst + first, entries, scale, count);
    }
    const float *scales = (const float *)(const void *)(model->file + matrix->scale);
    kernels->binary(CR_BINARY_MUL, dst, dst, &scales[row], n, 1);
}

void cr_look_up(const cr_model *model, const cr_tensor *tensor, size_t row, float *dst)
{
    const unsigned char *entries = model->file + tensor->place;
    size_t n = tensor->columns;
    if (tensor->type == CR_TABLE_F32) {
        memcpy(dst, entries + 4 * n * row, 4 * n);
    } else if (tensor->type == CR_TABLE_F16) {
        cr_widen_f16(dst, (const uint16_t *)(const void *)entries + n * row, n);
    } else if (tensor->type == CR_TABLE_I8) {
        const float *scale = (const float *)(const void *)(model->file + tensor->scale);
        model->kernels->row_i8(dst, (const int8_t *)entries + n * row, scale[row], n);
    } else {
        cr_row_of_panels(model, tensor, row, dst);
    }
}
