/* Rows of tables and matrices, for CR_EMBED. */
#ifndef CR_LOOKUP_H
#define CR_LOOKUP_H

#include "cr.h"

/* Row `row` of a table, or of a matrix in plain panels, of a verified model. */
void cr_look_up(const cr_model *model, const cr_tensor *tensor, size_t row, float *dst);

#endif
