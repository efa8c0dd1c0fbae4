/* Where the lines of a matrix in panels are. */
#ifndef CR_PANELS_H
#define CR_PANELS_H

#include "cr_format.h"
#include "cr_sparse.h"

/* Where the lines of a panel start, how many there are and how far apart they are. Of an int4 matrix a line of the scales of
 * all panels of the block follows those of every group of columns; the panel is number `in_block` of its block. A sparse
 * matrix gives the number of each line. */
typedef struct {
    const unsigned char *first;
    uint64_t count;
    uint64_t stride;
    uint64_t groups;
    uint64_t in_block;
    const uint16_t *numbers;
} cr_panel;

/* How many lines a panel has of which all are stored. */
static inline uint64_t cr_lines_of_panel(const cr_tensor *tensor)
{
    uint64_t columns = tensor->columns;
    switch (tensor->type) {
    case CR_MATRIX_I8:
    case CR_SPARSE_I8: return (columns + 3) / 4;
    case CR_MATRIX_I4: return (columns + 7) / 8;
    default: return columns;
    }
}

static inline cr_panel cr_find_panel(const unsigned char *file, const cr_tensor *tensor, uint64_t panel)
{
    if (cr_is_sparse(tensor->type)) {
        cr_stored_lines stored = cr_find_stored_lines(file, tensor);
        uint32_t start = stored.starts[panel], end = stored.starts[panel + 1];
        return (cr_panel){stored.lines + (uint64_t)start * CR_LINE, end - start, CR_LINE, 0, 0, stored.numbers + start};
    }
    uint64_t panels = (tensor->rows + CR_LANES - 1) / CR_LANES, block = panel / tensor->block * tensor->block;
    uint64_t size = panels - block < tensor->block ? panels - block : tensor->block, lines = cr_lines_of_panel(tensor);
    uint64_t groups = tensor->type == CR_MATRIX_I4 ? (tensor->columns + CR_GROUP - 1) / CR_GROUP : 0;
    uint64_t before = block * lines + block / tensor->block * groups; /* lines before the block */
    const unsigned char *first = file + tensor->place + (before + panel - block) * CR_LINE;
    return (cr_panel){first, lines, size * CR_LINE, groups, panel - block, NULL};
}

/* Line `line` of a panel: the lines of scales of the groups before it are passed over. */
static inline const unsigned char *cr_panel_line(const cr_panel *panel, uint64_t line)
{
    uint64_t scales = panel->groups ? line / (CR_GROUP / 8) : 0;
    return panel->first + line * panel->stride + scales * CR_LINE;
}

/* The line of scales of a group of columns: 16 bytes for each panel of the block. */
static inline const unsigned char *cr_group_line(const cr_panel *panel, uint64_t group)
{
    uint64_t end = (group + 1) * (CR_GROUP / 8);
    if (end > panel->count) end = panel->count;
    return panel->first + end * panel->stride + group * CR_LINE - panel->in_block * CR_LINE;
}

#endif
