/* From the vectors of a file to what the kernels multiply with. Where products are not made by polynomials (cr_spectra.c),
 * that is the matrix.
 *
 * A Toeplitz-like block is M = sum_j Z_1(g_j) Z_-1(h_j), so that Z_1 M - M Z_-1 = 2 sum_j g_j (J h_j)^T: with row numbers
 * modulo k,
 *     M[i][0]         = sum_j sum_l g_j[i - l] h_j[l]
 *     M[i + 1][c + 1] = M[i][c] - 2 sum_j g_j[i + 1] h_j[k - 1 - c]
 * and a column costs 2 * rank operations for each row. All of it is in double: a product of two float32 numbers is exact
 * there, contracted or not, and the sums, in the order of j and l, round alike everywhere. */
#include <string.h>

#include "cr.h"
#include "cr_numbers.h"
#include "cr_shared.h"
#include "cr_subnormal.h"
#include "cr_toeplitz.h"
#include "cr_unpacked.h"

/* A gate's rows from `unit` on go to these panels. */
typedef struct {
    float *panels;
    const cr_tensor *tensor;
    const cr_toeplitz *form;
    uint64_t gate;
    uint64_t unit;
} cr_rows_to;

uint64_t cr_expanded_bytes(const cr_tensor *tensor, const cr_toeplitz *form)
{
    if (cr_is_spectral(tensor, form)) {
        cr_spectra spectra = cr_spectra_of(tensor, form, NULL);
        return cr_spectra_bytes(&spectra);
    }
    return (uint64_t)(tensor->rows + CR_LANES - 1) / CR_LANES * CR_LINE * tensor->columns;
}

/* sum[i] += scale * vector[i], as double */
static void cr_add_scaled(double *sum, double scale, const float *vector, size_t count)
{
    for (size_t i = 0; i < count; i++) sum[i] += scale * (double)vector[i];
}

static void cr_first_column(double *column, const float *g, const float *h, size_t rank, size_t k)
{
    memset(column, 0, k * sizeof *column);
    for (size_t j = 0; j < rank; j++, g += k, h += k)
        for (size_t l = 0; l < k; l++) {
            cr_add_scaled(column + l, (double)h[l], g, k - l);
            cr_add_scaled(column, (double)h[l], g + k - l, l);
        }
}

/* From column c to column c + 1. */
static void cr_next_column(double *column, const float *g, const float *h, size_t rank, size_t k, size_t c)
{
    double last = column[k - 1];
    memmove(column + 1, column, (k - 1) * sizeof *column);
    column[0] = last;
    for (size_t j = 0; j < rank; j++, g += k, h += k) cr_add_scaled(column, -2.0 * (double)h[k - 1 - c], g, k);
}

/* The first `count` numbers of a column, into the rows that are theirs. */
static void cr_write_column(cr_rows_to to, const double *column, size_t count, size_t c)
{
    uint64_t panels = (to.tensor->rows + CR_LANES - 1) / CR_LANES, block = to.tensor->block, gates = to.form->gates;
    for (size_t i = 0; i < count;) {
        uint64_t unit = to.unit + i;
        uint64_t row = to.form->interleaved ? (unit / CR_LANES * gates + to.gate) * CR_LANES + unit % CR_LANES
                                            : to.gate * to.form->units + unit;
        uint64_t panel = row / CR_LANES, lane = row % CR_LANES, first = panel / block * block;
        uint64_t width = panels - first < block ? panels - first : block;
        float *line = to.panels + (first * to.tensor->columns + c * width + panel - first) * CR_LANES;
        for (; lane < CR_LANES && i < count; lane++, i++) line[lane] = (float)column[i];
    }
}

/* A matrix of which every entry is one of the numbers `v`. */
static void cr_expand_shared(const cr_tensor *tensor, const cr_toeplitz *form, const float *v, float *panels, double *column)
{
    size_t k = tensor->columns;
    for (uint64_t gate = 0; gate < form->gates; gate++)
        for (uint64_t unit = 0; unit < form->units; unit += k) { /* `column` takes k numbers */
            cr_rows_to to = {panels, tensor, form, gate, unit};
            size_t count = form->units - unit < k ? (size_t)(form->units - unit) : k;
            for (size_t c = 0; c < k; c++) {
                for (size_t i = 0; i < count; i++) column[i] = (double)cr_shared_entry(form, v, k, gate, unit + i, c);
                cr_write_column(to, column, count, c);
            }
        }
}

static void cr_expand_tensor(const cr_model *model, const cr_tensor *tensor, unsigned char *memory, double *scratch)
{
    const cr_toeplitz *form = (const void *)(model->file + tensor->place);
    size_t k = tensor->columns, rank = form->rank, of_gate = (size_t)(cr_toeplitz_blocks(tensor, form) / form->gates);
    const float *g = (const float *)(const void *)(form + 1), *h = g + form->gates * of_gate * rank * k;
    float *panels = (float *)(void *)(memory + tensor->scale);
    if (cr_is_spectral(tensor, form)) {
        cr_fill_spectra(tensor, form, panels, scratch);
        return;
    }
    double *column = scratch;
    memset(panels, 0, (size_t)cr_expanded_bytes(tensor, form));
    if (form->rule != CR_RULE_TOEPLITZ) {
        cr_expand_shared(tensor, form, g, panels, column);
        return;
    }
    for (uint32_t gate = 0; gate < form->gates; gate++)
        for (size_t block = 0; block < of_gate; block++, g += rank * k, h += rank * k) {
            cr_rows_to to = {panels, tensor, form, gate, block * k};
            size_t count = form->units - to.unit < k ? (size_t)(form->units - to.unit) : k;
            cr_first_column(column, g, h, rank, k);
            for (size_t c = 0; c < k; c++) {
                if (c) cr_next_column(column, g, h, rank, k, c - 1);
                cr_write_column(to, column, count, c);
            }
        }
}

size_t cr_expanded_size(const cr_model *model)
{
    return model->expanded_bytes;
}

void cr_expand(cr_model *model, void *memory)
{
    uint64_t before = cr_flush_subnormals();
    for (uint32_t i = 0; i < model->header->tensor_count; i++) {
        const cr_tensor *tensor = &model->tensors[i];
        if (tensor->type != CR_TOEPLITZ_F32) continue;
        double *scratch = (double *)(void *)((unsigned char *)memory + model->vector_bytes - model->scratch_bytes);
        cr_expand_tensor(model, tensor, memory, scratch);
    }
    if (model->expanded_bytes != model->vector_bytes) cr_unpack(model, (unsigned char *)memory + model->vector_bytes);
    model->expanded = memory;
    cr_restore_subnormals(before);
}
