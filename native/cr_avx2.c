/* AVX2: a vector is two registers. */
#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include <immintrin.h>

#include "cr_inline.h"

#define CR_TABLE cr_kernels_avx2
#define CR_ISA_NAME "avx2"
#define CR_TILE_PANELS 1
#define CR_HAS_MASKED_LOADS /* stores by mask are slow on AMD's */
#define CR_I8_CHAINS 1 /* only additions are chained, and a second set of sums does not fit sixteen registers */

typedef struct { __m256 a, b; } cr_v;
typedef struct { __m256i a, b; } cr_w;
typedef struct { __m256 a, b; } cr_m;
typedef struct { __m256i x, size; } cr_x;
typedef cr_w cr_h;

#define CR_PAIR(type, first, second) ((type){first, second})

CR_INLINE cr_v v_load(const float *from) { return CR_PAIR(cr_v, _mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)); }
CR_INLINE void v_store(float *to, cr_v x) { _mm256_storeu_ps(to, x.a), _mm256_storeu_ps(to + 8, x.b); }
CR_INLINE cr_v v_splat(float x) { return CR_PAIR(cr_v, _mm256_set1_ps(x), _mm256_set1_ps(x)); }
CR_INLINE cr_v v_add(cr_v p, cr_v q) { return CR_PAIR(cr_v, _mm256_add_ps(p.a, q.a), _mm256_add_ps(p.b, q.b)); }
CR_INLINE cr_v v_sub(cr_v p, cr_v q) { return CR_PAIR(cr_v, _mm256_sub_ps(p.a, q.a), _mm256_sub_ps(p.b, q.b)); }
CR_INLINE cr_v v_mul(cr_v p, cr_v q) { return CR_PAIR(cr_v, _mm256_mul_ps(p.a, q.a), _mm256_mul_ps(p.b, q.b)); }
CR_INLINE cr_v v_div(cr_v p, cr_v q) { return CR_PAIR(cr_v, _mm256_div_ps(p.a, q.a), _mm256_div_ps(p.b, q.b)); }
CR_INLINE cr_v v_sqrt(cr_v x) { return CR_PAIR(cr_v, _mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)); }
CR_INLINE cr_v v_over(cr_v p, cr_v q) { return CR_PAIR(cr_v, _mm256_max_ps(p.a, q.a), _mm256_max_ps(p.b, q.b)); }
CR_INLINE cr_v v_under(cr_v p, cr_v q) { return CR_PAIR(cr_v, _mm256_min_ps(p.a, q.a), _mm256_min_ps(p.b, q.b)); }
CR_INLINE cr_m v_less(cr_v p, cr_v q)
{
    return CR_PAIR(cr_m, _mm256_cmp_ps(p.a, q.a, _CMP_LT_OQ), _mm256_cmp_ps(p.b, q.b, _CMP_LT_OQ));
}
CR_INLINE cr_m v_equal(cr_v p, cr_v q)
{
    return CR_PAIR(cr_m, _mm256_cmp_ps(p.a, q.a, _CMP_EQ_OQ), _mm256_cmp_ps(p.b, q.b, _CMP_EQ_OQ));
}
CR_INLINE cr_m v_is_nan(cr_v x)
{
    return CR_PAIR(cr_m, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q));
}
CR_INLINE cr_v v_select(cr_m which, cr_v p, cr_v q)
{
    return CR_PAIR(cr_v, _mm256_blendv_ps(q.a, p.a, which.a), _mm256_blendv_ps(q.b, p.b, which.b));
}
CR_INLINE __m256 cr_load_first(const float *from, int n, __m256 absent)
{
    __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_blendv_ps(absent, _mm256_maskload_ps(from, there), _mm256_castsi256_ps(there));
}
CR_INLINE cr_v v_load_some(const float *from, size_t n, float absent)
{
    if (n >= 16) return v_load(from);
    __m256 filled = _mm256_set1_ps(absent);
    return CR_PAIR(cr_v, cr_load_first(from, (int)n, filled), cr_load_first(from + 8, (int)n - 8, filled));
}
CR_INLINE cr_w v_bits(cr_v x) { return CR_PAIR(cr_w, _mm256_castps_si256(x.a), _mm256_castps_si256(x.b)); }
CR_INLINE cr_w v_to_whole(cr_v x) { return CR_PAIR(cr_w, _mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)); }
CR_INLINE cr_v v_from_whole(cr_w x) { return CR_PAIR(cr_v, _mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)); }

CR_INLINE cr_v w_bits(cr_w x) { return CR_PAIR(cr_v, _mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)); }
CR_INLINE cr_w w_splat(int32_t x) { return CR_PAIR(cr_w, _mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
CR_INLINE cr_w w_add(cr_w p, cr_w q) { return CR_PAIR(cr_w, _mm256_add_epi32(p.a, q.a), _mm256_add_epi32(p.b, q.b)); }
CR_INLINE cr_w w_sub(cr_w p, cr_w q) { return CR_PAIR(cr_w, _mm256_sub_epi32(p.a, q.a), _mm256_sub_epi32(p.b, q.b)); }
CR_INLINE cr_w w_mul(cr_w p, cr_w q)
{
    return CR_PAIR(cr_w, _mm256_mullo_epi32(p.a, q.a), _mm256_mullo_epi32(p.b, q.b));
}
CR_INLINE cr_w w_and(cr_w p, cr_w q) { return CR_PAIR(cr_w, _mm256_and_si256(p.a, q.a), _mm256_and_si256(p.b, q.b)); }
CR_INLINE cr_w w_xor(cr_w p, cr_w q) { return CR_PAIR(cr_w, _mm256_xor_si256(p.a, q.a), _mm256_xor_si256(p.b, q.b)); }
CR_INLINE cr_w w_shift_left(cr_w x, int by) { return CR_PAIR(cr_w, _mm256_slli_epi32(x.a, by), _mm256_slli_epi32(x.b, by)); }
CR_INLINE cr_w w_shift_right(cr_w x, int by)
{
    return CR_PAIR(cr_w, _mm256_srli_epi32(x.a, by), _mm256_srli_epi32(x.b, by));
}
CR_INLINE cr_w w_shift_right_signed(cr_w x, int by)
{
    return CR_PAIR(cr_w, _mm256_srai_epi32(x.a, by), _mm256_srai_epi32(x.b, by));
}
CR_INLINE cr_w w_load(const void *from)
{
    const char *at = from;
    return CR_PAIR(cr_w, _mm256_loadu_si256((const void *)at), _mm256_loadu_si256((const void *)(at + 32)));
}
CR_INLINE cr_w w_load_i8(const int8_t *from)
{
    return CR_PAIR(cr_w, _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)from)),
                   _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(from + 8))));
}
CR_INLINE cr_w w_load_u8(const uint8_t *from)
{
    return CR_PAIR(cr_w, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)from)),
                   _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(from + 8))));
}
CR_INLINE void w_store_i8(int8_t *to, cr_w x)
{
    __m256i half = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8); /* packing works within 128 bits */
    _mm_storeu_si128((void *)to, _mm_packs_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
CR_INLINE int32_t w_sum(cr_w x)
{
    __m256i both = _mm256_add_epi32(x.a, x.b);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/* Products of an unsigned with a signed byte are added in pairs to 16 bits, which cannot overflow: |x| <= 127 with the
 * weight in [-127, 127] under the sign of x, or an i4 entry, stored as 0 .. 15, with x. */
CR_INLINE __m256i cr_word(const int8_t *x)
{
    int32_t word;
    __builtin_memcpy(&word, x, sizeof word);
    return _mm256_set1_epi32(word);
}
/* GCC copies every sum to another register and back around _mm256_add_epi32 and _mm256_add_epi16 */
CR_INLINE __m256i cr_add_to_words(__m256i sum, __m256i x)
{
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x));
    return sum;
}
CR_INLINE __m256i cr_add_to_halves(__m256i sum, __m256i x)
{
    __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(x));
    return sum;
}
CR_INLINE __m256i cr_add_pairs(__m256i sum, __m256i pairs)
{
    return cr_add_to_words(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

CR_INLINE cr_x i8_splat(const int8_t *x) { return CR_PAIR(cr_x, cr_word(x), _mm256_abs_epi8(cr_word(x))); }
CR_INLINE cr_w i8_dot(cr_w sum, const int8_t *line, cr_x x)
{
    cr_w w = w_load(line);
    return CR_PAIR(cr_w, cr_add_pairs(sum.a, _mm256_maddubs_epi16(x.size, _mm256_sign_epi8(w.a, x.x))),
                   cr_add_pairs(sum.b, _mm256_maddubs_epi16(x.size, _mm256_sign_epi8(w.b, x.x))));
}
CR_INLINE cr_x i4_splat(const int8_t *x) { return CR_PAIR(cr_x, cr_word(x), cr_word(x)); }
CR_INLINE __m256i cr_add_halves(__m256i sum, __m256i both, __m256i low, __m256i high)
{
    __m256i mask = _mm256_set1_epi8(15);
    __m256i first = _mm256_maddubs_epi16(_mm256_and_si256(both, mask), low);
    __m256i second = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi32(both, 4), mask), high);
    return cr_add_pairs(sum, _mm256_add_epi16(first, second)); /* at most 4 * 15 * 127 */
}
CR_INLINE cr_w i4_dot(cr_w sum, const uint8_t *line, cr_x low, cr_x high)
{
    cr_w both = w_load(line);
    return CR_PAIR(cr_w, cr_add_halves(sum.a, both.a, low.x, high.x), cr_add_halves(sum.b, both.b, low.x, high.x));
}

/* Of entries that have a byte each all products of a group are added up in 16 bits, with 128 added to x; see cr_unpacked.h. */
#define CR_HAS_UNPACKED_I4
CR_INLINE cr_x s4_splat(const int8_t *x)
{
    __m256i raised = _mm256_xor_si256(cr_word(x), _mm256_set1_epi8(-128));
    return CR_PAIR(cr_x, raised, raised);
}
CR_INLINE cr_w s4_dot(cr_w pairs, const void *line, cr_x x)
{
    cr_w w = w_load(line);
    return CR_PAIR(cr_w, cr_add_to_halves(pairs.a, _mm256_maddubs_epi16(x.x, w.a)),
                   cr_add_to_halves(pairs.b, _mm256_maddubs_epi16(x.x, w.b)));
}
CR_INLINE cr_w s4_sum(cr_w total, cr_w pairs, const void *scales)
{
    cr_w scale = w_load(scales);
    return CR_PAIR(cr_w, cr_add_to_words(total.a, _mm256_madd_epi16(pairs.a, scale.a)),
                   cr_add_to_words(total.b, _mm256_madd_epi16(pairs.b, scale.b)));
}

#define CR_HAS_TURNED_COLUMNS 1
CR_INLINE void cr_turn_half(int8_t *to, __m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i low_ab = _mm256_unpacklo_epi8(a, b), high_ab = _mm256_unpackhi_epi8(a, b);
    __m256i low_cd = _mm256_unpacklo_epi8(c, d), high_cd = _mm256_unpackhi_epi8(c, d);
    _mm256_storeu_si256((void *)to, _mm256_unpacklo_epi16(low_ab, low_cd));
    _mm256_storeu_si256((void *)(to + 64), _mm256_unpackhi_epi16(low_ab, low_cd));
    _mm256_storeu_si256((void *)(to + 128), _mm256_unpacklo_epi16(high_ab, high_cd));
    _mm256_storeu_si256((void *)(to + 192), _mm256_unpackhi_epi16(high_ab, high_cd));
}
CR_INLINE void i8_turn(int8_t *to, const int8_t *a, const int8_t *b, const int8_t *c, const int8_t *d)
{
    cr_w p = w_load(a), q = w_load(b), r = w_load(c), s = w_load(d);
    cr_turn_half(to, p.a, q.a, r.a, s.a);
    cr_turn_half(to + 32, p.b, q.b, r.b, s.b);
}

#include CR_BODY

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
