/* Which loop this processor can run. */
#include <string.h>

#include "cr_kernels.h"
#include "loop.h"

#define LOOP_DECLARE(table) extern const loop_functions loop_fused_##table, loop_exact_##table;
#define LOOP_CHOICE(table) (exact ? &loop_exact_##table : &loop_fused_##table)

LOOP_DECLARE(cr_kernels_scalar)
#if defined(__x86_64__) && defined(__GNUC__)
LOOP_DECLARE(cr_kernels_avx2)
LOOP_DECLARE(cr_kernels_avx512)
#elif defined(__aarch64__) && defined(__GNUC__)
LOOP_DECLARE(cr_kernels_neon)
#endif

const loop_functions *loop_find(const char *name, int exact, const cr_kernels **found)
{
    const cr_kernels *kernels = cr_find_kernels(name);
    if (!kernels) return NULL;
    *found = kernels;
#if defined(__x86_64__) && defined(__GNUC__)
    if (!strcmp(kernels->name, "avx512")) return LOOP_CHOICE(cr_kernels_avx512);
    if (!strcmp(kernels->name, "avx2")) return LOOP_CHOICE(cr_kernels_avx2);
#elif defined(__aarch64__) && defined(__GNUC__)
    if (!strcmp(kernels->name, "neon")) return LOOP_CHOICE(cr_kernels_neon);
#endif
    return LOOP_CHOICE(cr_kernels_scalar);
}
