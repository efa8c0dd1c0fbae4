/* See cr_unpacked.h. */
#include "cr_unpacked.h"

#include <string.h>

#include "cr_panels.h"

static uint64_t cr_lines_of_table(const cr_model *model)
{
    return (4ull * model->header->tensor_count + CR_LINE - 1) / CR_LINE;
}

static uint64_t cr_unpacked_lines_of(const cr_tensor *tensor)
{
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES;
    return panels * ((tensor->columns + 3) / 4 + 2 * ((tensor->columns + CR_GROUP - 1) / CR_GROUP));
}

uint64_t cr_unpacked_bytes(const cr_model *model)
{
    uint64_t lines = 0;
    if (!model->kernels->affine[CR_UNPACKED_I4]) return 0;
    for (uint32_t i = 0; i < model->header->tensor_count; i++)
        if (model->tensors[i].type == CR_MATRIX_I4) lines += cr_unpacked_lines_of(&model->tensors[i]);
    uint64_t bytes = CR_LINE * (lines + cr_lines_of_table(model));
    return lines && model->header->file_bytes + bytes <= cr_near_cache() ? bytes : 0;
}

/* One panel's group of `count` columns, `stride` bytes from line to line; `scales`: a byte for each row. */
static void cr_unpack_group(unsigned char *to, const unsigned char *from, const unsigned char *scales, uint64_t count,
                            uint64_t stride)
{
    int16_t start[2 * CR_LANES] = {0}, scale[2 * CR_LANES];
    unsigned char *line = to + 2 * stride;
    for (uint64_t j = 0; j < count; j += 4, line += stride)
        for (uint64_t b = 0; b < CR_LINE; b++) {
            unsigned char both = from[j / 8 * stride + b];
            int entry = (j % 8 ? both >> 4 : both & 15) - 8;
            start[b / 2] = (int16_t)(start[b / 2] - 128 * entry);
            line[b] = (unsigned char)entry;
        }
    for (uint64_t i = 0; i < 2 * CR_LANES; i++) scale[i] = scales[i / 2];
    memcpy(to, start, sizeof start);
    memcpy(to + stride, scale, sizeof scale);
}

static void cr_unpack_matrix(unsigned char *to, const unsigned char *file, const cr_tensor *tensor)
{
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES, groups = (tensor->columns + CR_GROUP - 1) / CR_GROUP;
    uint64_t lines = cr_unpacked_lines_of(tensor) / panels;
    for (uint64_t i = 0; i < panels; i++) {
        cr_panel panel = cr_find_panel(file, tensor, i);
        unsigned char *at = to + CR_LINE * ((i - panel.in_block) * lines + panel.in_block);
        for (uint64_t g = 0; g < groups; g++) {
            uint64_t left = tensor->columns - CR_GROUP * g, count = left < CR_GROUP ? left : CR_GROUP;
            cr_unpack_group(at, cr_panel_line(&panel, CR_GROUP / 8 * g), cr_group_line(&panel, g) + 16 * panel.in_block,
                            count, panel.stride);
            at += (2 + (count + 3) / 4) * panel.stride;
        }
    }
}

void cr_unpack(const cr_model *model, unsigned char *memory)
{
    uint64_t line = cr_lines_of_table(model);
    memset(memory, 0, (size_t)(CR_LINE * line));
    for (uint32_t i = 0; i < model->header->tensor_count; i++) {
        const cr_tensor *tensor = &model->tensors[i];
        if (tensor->type != CR_MATRIX_I4) continue;
        uint32_t place = (uint32_t)line;
        memcpy(memory + 4ull * i, &place, sizeof place);
        cr_unpack_matrix(memory + CR_LINE * line, model->file, tensor);
        line += cr_unpacked_lines_of(tensor);
    }
}
