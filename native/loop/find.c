/* Which loop this processor can run. */
#include <string.h>

#include "cr_kernels.h"
#include "loop.h"

extern loop_run *const loop_run_cr_kernels_scalar;
#if defined(__x86_64__) && defined(__GNUC__)
extern loop_run *const loop_run_cr_kernels_avx2, *const loop_run_cr_kernels_avx512;
#elif defined(__aarch64__) && defined(__GNUC__)
extern loop_run *const loop_run_cr_kernels_neon;
#endif

loop_run *loop_find(const char *name, const char **found)
{
    const cr_kernels *kernels = cr_find_kernels(name);
    if (!kernels) return NULL;
    *found = kernels->name;
#if defined(__x86_64__) && defined(__GNUC__)
    if (!strcmp(kernels->name, "avx512")) return loop_run_cr_kernels_avx512;
    if (!strcmp(kernels->name, "avx2")) return loop_run_cr_kernels_avx2;
#elif defined(__aarch64__) && defined(__GNUC__)
    if (!strcmp(kernels->name, "neon")) return loop_run_cr_kernels_neon;
#endif
    return loop_run_cr_kernels_scalar;
}
