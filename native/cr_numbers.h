/* What the law of numbers in cr_kernels.h asks of the compiler. What no macro tells, cr_open finds out by computing. */
#ifndef CR_NUMBERS_H
#define CR_NUMBERS_H

#include <float.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "compile the core without -ffast-math and -ffinite-math-only: they change results, and NaN would be lost"
#endif

#if defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "compile the core without -fassociative-math and -freciprocal-math: they change results"
#endif

/* 16 is 0 with arithmetic in half precision besides. */
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "float arithmetic must round to float: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

/* GCC does not know the pragma: give it -ffp-contract=off. */
#if defined(__clang__) || defined(_MSC_VER)
#pragma STDC FP_CONTRACT OFF
#endif

#endif
