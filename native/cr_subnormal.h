/* Subnormals off and on. */
#ifndef CR_SUBNORMAL_H
#define CR_SUBNORMAL_H

#include <stdint.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

/* Subnormals cost a hundred times a normal operation, so they are flushed while we run, in the one rounding mode that results
 * are defined for. Machines without such a control, and those whose control is not known here, run as they are: see cr.h. */
static inline uint64_t cr_flush_subnormals(void)
{
#if defined(__SSE2__) || defined(_M_X64)
    uint64_t before = _mm_getcsr();
    _mm_setcsr((0x1f80u | 0x8040u)); /* round to nearest, exceptions masked, FTZ and DAZ */
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24));
    return before;
#else
    return 0;
#endif
}

static inline void cr_restore_subnormals(uint64_t before)
{
#if defined(__SSE2__) || defined(_M_X64)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

#endif
