/* What the kernel files ask of a compiler. */
#ifndef CR_INLINE_H
#define CR_INLINE_H

#include <stddef.h>
#include <stdint.h>

/* What is compiled for each instruction set: the kernels of the engine, or those of the loop over time. */
#ifndef CR_BODY
#define CR_BODY "cr_body.h"
#include "cr_numbers.h"
#endif

/* Compilers keep constants in registers over a loop. Where a sweep needs all of these for its sums, the constants are
 * read through a pointer that is hidden from the compiler in each turn. */
#if defined(__GNUC__)
#define CR_HIDE(pointer) __asm__ volatile("" : "+r"(pointer))
#else
#define CR_HIDE(pointer) (void)(pointer)
#endif

#if defined(__clang__)
#define CR_INLINE static inline __attribute__((always_inline))
#define CR_NOINLINE static __attribute__((noinline))
#define CR_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define CR_INLINE static inline __attribute__((always_inline)) /* loops are compiled again for each constant argument */
#define CR_NOINLINE static __attribute__((noinline))
#define CR_UNROLL _Pragma("GCC unroll 16")
#else
#define CR_INLINE static inline
#define CR_NOINLINE static
#define CR_UNROLL
#endif

#endif
