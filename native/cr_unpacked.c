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
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES, blocks = (panels + tensor->block - 1) / tensor->block;
    return 2 * panels * cr_lines_of_panel(tensor) + blocks * ((tensor->columns + CR_GROUP - 1) / CR_GROUP);
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

/* The lines of `count` columns of eight in `size` panels side by side. */
static void cr_unpack_lines(unsigned char *to, const unsigned char *from, uint64_t count, uint64_t size)
{
    uint64_t row = CR_LINE * size;
    for (uint64_t j = 0; j < count; j++, from += row, to += 2 * row)
        for (uint64_t b = 0; b < row; b++) to[b] = from[b] & 15, to[row + b] = from[b] >> 4;
}

static void cr_unpack_matrix(unsigned char *to, const unsigned char *from, const cr_tensor *tensor)
{
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES, lines = cr_lines_of_panel(tensor);
    for (uint64_t panel = 0; panel < panels; panel += tensor->block) {
        uint64_t size = panels - panel < tensor->block ? panels - panel : tensor->block;
        for (uint64_t line = 0; line < lines; line += CR_GROUP / 8) {
            uint64_t count = lines - line < CR_GROUP / 8 ? lines - line : CR_GROUP / 8, bytes = CR_LINE * size * count;
            cr_unpack_lines(to, from, count, size);
            memcpy(to + 2 * bytes, from + bytes, CR_LINE); /* the scales of the group */
            to += 2 * bytes + CR_LINE;
            from += bytes + CR_LINE;
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
        cr_unpack_matrix(memory + CR_LINE * line, model->file + tensor->place, tensor);
        line += cr_unpacked_lines_of(tensor);
    }
}
