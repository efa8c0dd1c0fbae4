/* AVX-512 with VNNI: a vector is one register. */
#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif

#include <immintrin.h>

#include "cr_inline.h"

#define CR_TABLE cr_kernels_avx512
#define CR_ISA_NAME "avx512"
#define CR_TILE_PANELS 4
#define CR_HAS_MASKED_LOADS
#define CR_HAS_MASKED_STORES
#define CR_HAS_UNSIGNED_PRODUCTS

typedef __m512 cr_v;
typedef __m512i cr_w;
typedef __mmask16 cr_m;
typedef __m512i cr_x;
typedef struct { __m512i low, high; } cr_h;

CR_INLINE cr_v v_load(const float *from) { return _mm512_loadu_ps(from); }
CR_INLINE void v_store(float *to, cr_v x) { _mm512_storeu_ps(to, x); }
CR_INLINE cr_m cr_first_lanes(size_t n) { return (cr_m)((1u << n) - 1); }
CR_INLINE cr_v v_load_some(const float *from, size_t n, float absent)
{
    return n < 16 ? _mm512_mask_loadu_ps(_mm512_set1_ps(absent), cr_first_lanes(n), from) : v_load(from);
}
CR_INLINE void v_store_some(float *to, cr_v x, size_t n)
{
    if (n < 16)
        _mm512_mask_storeu_ps(to, cr_first_lanes(n), x);
    else
        v_store(to, x);
}
CR_INLINE cr_v v_splat(float x) { return _mm512_set1_ps(x); }
CR_INLINE cr_v v_add(cr_v a, cr_v b) { return _mm512_add_ps(a, b); }
CR_INLINE cr_v v_sub(cr_v a, cr_v b) { return _mm512_sub_ps(a, b); }
CR_INLINE cr_v v_mul(cr_v a, cr_v b) { return _mm512_mul_ps(a, b); }
CR_INLINE cr_v v_div(cr_v a, cr_v b) { return _mm512_div_ps(a, b); }
CR_INLINE cr_v v_sqrt(cr_v x) { return _mm512_sqrt_ps(x); }
CR_INLINE cr_v v_over(cr_v a, cr_v b) { return _mm512_max_ps(a, b); }
CR_INLINE cr_v v_under(cr_v a, cr_v b) { return _mm512_min_ps(a, b); }
CR_INLINE cr_m v_less(cr_v a, cr_v b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
CR_INLINE cr_m v_equal(cr_v a, cr_v b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
CR_INLINE cr_m v_is_nan(cr_v x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
CR_INLINE cr_v v_select(cr_m which, cr_v a, cr_v b) { return _mm512_mask_blend_ps(which, b, a); }
CR_INLINE cr_w v_bits(cr_v x) { return _mm512_castps_si512(x); }
CR_INLINE cr_w v_to_whole(cr_v x) { return _mm512_cvttps_epi32(x); }
CR_INLINE cr_v v_from_whole(cr_w x) { return _mm512_cvtepi32_ps(x); }

CR_INLINE cr_v w_bits(cr_w x) { return _mm512_castsi512_ps(x); }
CR_INLINE cr_w w_splat(int32_t x) { return _mm512_set1_epi32(x); }
CR_INLINE cr_w w_add(cr_w a, cr_w b) { return _mm512_add_epi32(a, b); }
CR_INLINE cr_w w_sub(cr_w a, cr_w b) { return _mm512_sub_epi32(a, b); }
CR_INLINE cr_w w_mul(cr_w a, cr_w b) { return _mm512_mullo_epi32(a, b); }
CR_INLINE cr_w w_and(cr_w a, cr_w b) { return _mm512_and_si512(a, b); }
CR_INLINE cr_w w_xor(cr_w a, cr_w b) { return _mm512_xor_si512(a, b); }
CR_INLINE cr_w w_shift_left(cr_w x, unsigned by) { return _mm512_slli_epi32(x, by); }
CR_INLINE cr_w w_shift_right(cr_w x, unsigned by) { return _mm512_srli_epi32(x, by); }
CR_INLINE cr_w w_shift_right_signed(cr_w x, unsigned by) { return _mm512_srai_epi32(x, by); }
CR_INLINE cr_w w_load(const void *from) { return _mm512_loadu_si512(from); }
CR_INLINE cr_w w_load_i8(const int8_t *from) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)from)); }
CR_INLINE cr_w w_load_u8(const uint8_t *from) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from)); }
CR_INLINE void w_store_i8(int8_t *to, cr_w x) { _mm_storeu_si128((void *)to, _mm512_cvtepi32_epi8(x)); }
CR_INLINE int32_t w_sum(cr_w x) { return _mm512_reduce_add_epi32(x); }

/* The product instruction takes its first factor without a sign: x + 128 stands for x, and 128 times the sum of the
 * weights is taken off beforehand. Entries of an i4 matrix have no sign as they are stored. */
CR_INLINE cr_w cr_word(const int8_t *x)
{
    int32_t word;
    __builtin_memcpy(&word, x, sizeof word);
    return _mm512_set1_epi32(word);
}

CR_INLINE cr_w i8_start(const int32_t *sums) { return _mm512_slli_epi32(_mm512_sub_epi32(w_splat(0), w_load(sums)), 7); }
CR_INLINE cr_x i8_splat(const int8_t *x) { return w_xor(cr_word(x), w_splat((int32_t)0x80808080)); }
CR_INLINE cr_w i8_dot(cr_w sum, const int8_t *line, cr_x x)
{
    /* GCC copies every sum to another register and back around _mm512_dpbusd_epi32 */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "vm"(w_load(line)));
    return sum;
}
CR_INLINE cr_x i4_splat(const int8_t *x) { return cr_word(x); }
CR_INLINE cr_h i4_start(int32_t x) { return (cr_h){w_splat(x), w_splat(0)}; }
CR_INLINE cr_h i4_dot(cr_h sum, const uint8_t *line, cr_x low, cr_x high)
{
    cr_w both = w_load(line), mask = w_splat(0x0f0f0f0f); /* the high halves stay 16 times too large: that spares a shift */
    sum.low = _mm512_dpbusd_epi32(sum.low, w_and(both, mask), low);
    sum.high = _mm512_dpbusd_epi32(sum.high, _mm512_andnot_si512(mask, both), high);
    return sum;
}
CR_INLINE cr_w i4_sum(cr_h sum) { return w_add(sum.low, w_shift_right_signed(sum.high, 4)); }

#define CR_HAS_TURNED_PRODUCTS 1
CR_INLINE void i8_turn(cr_w *to, const int8_t *const *column)
{
    cr_w a = w_load(column[0]), b = w_load(column[1]), c = w_load(column[2]), d = w_load(column[3]);
    cr_w low_ab = _mm512_unpacklo_epi8(a, b), high_ab = _mm512_unpackhi_epi8(a, b);
    cr_w low_cd = _mm512_unpacklo_epi8(c, d), high_cd = _mm512_unpackhi_epi8(c, d);
    to[0] = _mm512_unpacklo_epi16(low_ab, low_cd), to[1] = _mm512_unpackhi_epi16(low_ab, low_cd);
    to[2] = _mm512_unpacklo_epi16(high_ab, high_cd), to[3] = _mm512_unpackhi_epi16(high_ab, high_cd);
}
CR_INLINE cr_w i8_dot_word(cr_w sum, cr_w line, cr_x x)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(line));
    return sum;
}

#include CR_BODY

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
