/* Toeplitz-like matrices: what cr_expand makes of them. */
#ifndef CR_TOEPLITZ_H
#define CR_TOEPLITZ_H

#include "cr_format.h"
#include "cr_kernels.h"

static inline uint64_t cr_toeplitz_blocks(const cr_tensor *tensor, const cr_toeplitz *form)
{
    return (uint64_t)form->gates * (((uint64_t)form->units + tensor->columns - 1) / tensor->columns);
}

#ifndef CR_SPECTRAL_BYTES
#define CR_SPECTRAL_BYTES (3u << 20) /* the tests have another */
#endif

/* Whether products are made by polynomials (cr_spectral.h) rather than with the expanded matrix: where that is faster, in
 * a matrix larger than a second level of cache, of low rank, whose blocks are not cut off early (docs/performance.md). It
 * depends on sizes alone, so that all machines round alike. */
static inline int cr_is_spectral(const cr_tensor *tensor, const cr_toeplitz *form)
{
    uint64_t k = tensor->columns;
    return form->rule == CR_RULE_TOEPLITZ && !(k & (k - 1)) && 32ull * form->rank <= k && 2ull * form->units >= k &&
           4ull * form->gates * form->units * k >= CR_SPECTRAL_BYTES;
}

/* Where the spectra lie, in the memory that cr_fill_spectra filled. */
cr_spectra cr_spectra_of(const cr_tensor *tensor, const cr_toeplitz *form, const void *memory);

static inline uint64_t cr_spectra_bytes(const cr_spectra *m)
{
    return 4ull * m->k * (1 + 2ull * CR_LANES * m->count);
}

/* `scratch`: 2 k numbers */
void cr_fill_spectra(const cr_tensor *tensor, const cr_toeplitz *form, void *memory, double *scratch);

/* Of what cr_expand computes for a tensor. */
uint64_t cr_expanded_bytes(const cr_tensor *tensor, const cr_toeplitz *form);

#endif
