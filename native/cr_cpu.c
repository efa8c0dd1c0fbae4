/* Which kernels this processor can run. */
#include <string.h>

#include "cr_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__aarch64__)
/* Products of bytes are optional before Armv8.4: Apple's A11 and A12 do not have them. */
static int cr_has_dot_products(void)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return 1; /* all of this program needs them */
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) && has;
#else
    return 0;
#endif
}
#endif

extern const cr_kernels cr_kernels_scalar, cr_kernels_avx2, cr_kernels_avx512, cr_kernels_neon;

/* The tables that are usable here, best first, from `tables` on; returns how many. */
static size_t cr_list_kernels(const cr_kernels *tables[4])
{
    size_t count = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        tables[count++] = &cr_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables[count++] = &cr_kernels_avx2;
#elif defined(__aarch64__) && defined(__GNUC__)
    if (cr_has_dot_products()) tables[count++] = &cr_kernels_neon;
#endif
    tables[count++] = &cr_kernels_scalar;
    return count;
}

const cr_kernels *cr_find_kernels(const char *name)
{
    const cr_kernels *tables[4];
    size_t count = cr_list_kernels(tables);
    for (size_t i = 0; i < count; i++)
        if (!name || !strcmp(name, tables[i]->name)) return tables[i];
    return NULL;
}

const char *cr_isa_name(size_t number)
{
    const cr_kernels *tables[4];
    return number < cr_list_kernels(tables) ? tables[number]->name : NULL;
}

size_t cr_near_cache(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    unsigned a, b, c = 0, d;
    if (__get_cpuid(0x80000006, &a, &b, &c, &d) && c >> 16) return (size_t)(c >> 16) << 10;
#endif
    return 256 << 10;
}
