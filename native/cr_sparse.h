/* Sparse matrices: where their lines or entries are. */
#ifndef CR_SPARSE_H
#define CR_SPARSE_H

#include "cr_format.h"
#include "cr_kernels.h"

/* Where the stored lines of each panel start, the number and the bytes of each; or the entries of each column. */
typedef struct {
    const uint32_t *starts;
    const uint16_t *numbers;
    const unsigned char *lines;
} cr_stored_lines;

static inline size_t cr_count_of_starts(const cr_tensor *tensor)
{
    if (cr_has_single_entries(tensor->type)) return (size_t)tensor->columns + 1;
    return ((size_t)tensor->rows + CR_LANES - 1) / CR_LANES + 1;
}

/* Of a tensor whose `starts` have been verified. */
static inline cr_stored_lines cr_find_stored_lines(const unsigned char *file, const cr_tensor *tensor)
{
    size_t count = cr_count_of_starts(tensor);
    const unsigned char *at = file + tensor->place;
    cr_stored_lines found = {.starts = (const uint32_t *)(const void *)at};
    at += CR_LINES(4 * count);
    found.numbers = (const uint16_t *)(const void *)at;
    found.lines = at + CR_LINES(2 * (size_t)found.starts[count - 1]);
    return found;
}

#endif
