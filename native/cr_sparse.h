/* Sparse matrices: where their lines are. */
#ifndef CR_SPARSE_H
#define CR_SPARSE_H

#include "cr_format.h"
#include "cr_kernels.h"

typedef struct {
    const uint32_t *starts;
    const uint16_t *numbers;
    const unsigned char *lines;
} cr_stored_lines;

/* Of a tensor whose `starts` have been verified. */
static inline cr_stored_lines cr_find_stored_lines(const unsigned char *file, const cr_tensor *tensor)
{
    size_t panels = ((size_t)tensor->rows + CR_LANES - 1) / CR_LANES;
    const unsigned char *at = file + tensor->place;
    cr_stored_lines found = {.starts = (const uint32_t *)(const void *)at};
    at += CR_LINES(4 * (panels + 1));
    found.numbers = (const uint16_t *)(const void *)at;
    found.lines = at + CR_LINES(2 * (size_t)found.starts[panels]);
    return found;
}

#endif
