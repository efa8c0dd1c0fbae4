/* What cr_spectral.h multiplies with: the remainders of the vectors of a large Toeplitz-like matrix, in double and then
 * rounded. */
#include <math.h>
#include <string.h>

#include "cr_kernels.h"
#include "cr_numbers.h"
#include "cr_toeplitz.h"

/* Blocks that lie in the lanes beside each other: all if they are few, rounded up to a power of two. */
static size_t cr_blocks_beside(size_t blocks)
{
    size_t beside = 1;
    while (beside < blocks && beside < CR_LANES) beside *= 2;
    return beside;
}

cr_spectra cr_spectra_of(const cr_tensor *tensor, const cr_toeplitz *form, const void *memory)
{
    size_t k = tensor->columns, of_gate = (size_t)(cr_toeplitz_blocks(tensor, form) / form->gates);
    size_t beside = cr_blocks_beside(of_gate * form->gates), groups = (form->rank * beside + CR_LANES - 1) / CR_LANES;
    size_t count = (of_gate * form->gates + beside - 1) / beside * groups;
    return (cr_spectra){.k = k, .gates = form->gates, .of_gate = of_gate, .units = form->units, .beside = beside,
                        .groups = groups, .count = count, .interleaved = (int)form->interleaved,
                        .numbers = memory};
}

/* Roots t = 1 .. count - 1: the square root of i, then below each w the square roots of w and of -w. Of a number of length
 * 1 in the upper half plane, the square root in the first quadrant. */
static void cr_find_roots(double *roots, size_t count)
{
    roots[2] = roots[3] = sqrt(0.5);
    for (size_t t = 2; t < count; t++) {
        double c = roots[t / 2 * 2], s = roots[t / 2 * 2 + 1];
        double large = sqrt((1.0 + fabs(c)) * 0.5), small = s / (2.0 * large);
        double re = c < 0 ? small : large, im = c < 0 ? large : small;
        roots[2 * t] = t % 2 ? -im : re;
        roots[2 * t + 1] = t % 2 ? re : im;
    }
}

/* As in cr_spectral.h, of one polynomial. */
static void cr_split_double(double *v, size_t half, const double *roots)
{
    for (size_t m = half / 2, count = 1; m; m /= 2, count *= 2)
        for (size_t i = 0; i < half / 2; i++) {
            size_t t = count + i / m;
            double *re = v + i / m * 2 * m + i % m, *im = re + half;
            double pr = re[m] * roots[2 * t] - im[m] * roots[2 * t + 1];
            double pi = re[m] * roots[2 * t + 1] + im[m] * roots[2 * t];
            re[m] = re[0] - pr, im[m] = im[0] - pi, re[0] += pr, im[0] += pi;
        }
}

static void cr_split_whole_double(double *v, size_t k, const double *roots)
{
    for (size_t half = k / 2; half; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            double low = v[i], high = v[half + i];
            v[i] = low + high, v[half + i] = low - high;
        }
        if (half > 1) cr_split_double(v + half, half / 2, roots);
    }
}

/* One lane of a group; joining multiplies by k / 2, and by k where remainders are real. */
static void cr_write_lane(float *group, size_t lane, const double *v, size_t k, int whole)
{
    for (size_t i = 0; i < k; i++) group[CR_LANES * i + lane] = (float)(v[i] * (whole && i < 2 ? 1.0 : 2.0) / (double)k);
}

void cr_fill_spectra(const cr_tensor *tensor, const cr_toeplitz *form, void *memory, double *scratch)
{
    cr_spectra m = cr_spectra_of(tensor, form, memory);
    size_t k = m.k, blocks = m.gates * m.of_gate, rank = form->rank;
    const float *g = (const float *)(const void *)(form + 1), *h = g + blocks * rank * k;
    float *roots = memory, *second = roots + k, *first = second + CR_LANES * k * m.count;
    double *exact = scratch, *v = scratch + k;
    memset(memory, 0, (size_t)cr_spectra_bytes(&m));
    cr_find_roots(exact, k / 2);
    for (size_t i = 2; i < k; i++) roots[i] = (float)exact[i];
    for (size_t pair = 0; pair < blocks * rank; pair++) {
        size_t block = pair / rank, j = pair % rank, place = j * m.beside + block % m.beside;
        size_t group = (block / m.beside * m.groups + place / CR_LANES) * CR_LANES * k;
        for (size_t i = 0; i < k; i++) v[i] = (double)h[pair * k + i];
        cr_split_double(v, k / 2, exact);
        cr_write_lane(second + group, place % CR_LANES, v, k, 0);
        for (size_t i = 0; i < k; i++) v[i] = (double)g[pair * k + i];
        cr_split_whole_double(v, k, exact);
        cr_write_lane(first + group, place % CR_LANES, v, k, 1);
    }
}
