/* NEON with dot products (Armv8.2): a vector is four registers. */
#if defined(__aarch64__) && defined(__GNUC__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include <arm_neon.h>

#include "cr_inline.h"

#define CR_TABLE cr_kernels_neon
#define CR_ISA_NAME "neon"
#define CR_TILE_PANELS 1

typedef struct { float32x4_t a, b, c, d; } cr_v;
typedef struct { int32x4_t a, b, c, d; } cr_w;
typedef struct { uint32x4_t a, b, c, d; } cr_m;
typedef int8x16_t cr_x;
typedef cr_w cr_h;

#define CR_EACH1(type, fn, p) ((type){fn((p).a), fn((p).b), fn((p).c), fn((p).d)})
#define CR_EACH2(type, fn, p, q) ((type){fn((p).a, (q).a), fn((p).b, (q).b), fn((p).c, (q).c), fn((p).d, (q).d)})

CR_INLINE cr_v v_load(const float *from)
{
    return (cr_v){vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)};
}
CR_INLINE void v_store(float *to, cr_v x)
{
    vst1q_f32(to, x.a), vst1q_f32(to + 4, x.b), vst1q_f32(to + 8, x.c), vst1q_f32(to + 12, x.d);
}
CR_INLINE cr_v v_splat(float x)
{
    float32x4_t y = vdupq_n_f32(x);
    return (cr_v){y, y, y, y};
}
CR_INLINE cr_v v_add(cr_v p, cr_v q) { return CR_EACH2(cr_v, vaddq_f32, p, q); }
CR_INLINE cr_v v_sub(cr_v p, cr_v q) { return CR_EACH2(cr_v, vsubq_f32, p, q); }
CR_INLINE cr_v v_mul(cr_v p, cr_v q) { return CR_EACH2(cr_v, vmulq_f32, p, q); }
CR_INLINE cr_v v_div(cr_v p, cr_v q) { return CR_EACH2(cr_v, vdivq_f32, p, q); }
CR_INLINE cr_v v_sqrt(cr_v x) { return CR_EACH1(cr_v, vsqrtq_f32, x); }
CR_INLINE float32x4_t cr_over(float32x4_t p, float32x4_t q) { return vbslq_f32(vcgtq_f32(p, q), p, q); }
CR_INLINE float32x4_t cr_under(float32x4_t p, float32x4_t q) { return vbslq_f32(vcltq_f32(p, q), p, q); }
CR_INLINE uint32x4_t cr_unordered(float32x4_t x) { return vmvnq_u32(vceqq_f32(x, x)); }
CR_INLINE cr_v v_over(cr_v p, cr_v q) { return CR_EACH2(cr_v, cr_over, p, q); }
CR_INLINE cr_v v_under(cr_v p, cr_v q) { return CR_EACH2(cr_v, cr_under, p, q); }
CR_INLINE cr_m v_less(cr_v p, cr_v q) { return CR_EACH2(cr_m, vcltq_f32, p, q); }
CR_INLINE cr_m v_equal(cr_v p, cr_v q) { return CR_EACH2(cr_m, vceqq_f32, p, q); }
CR_INLINE cr_m v_is_nan(cr_v x) { return CR_EACH1(cr_m, cr_unordered, x); }
CR_INLINE cr_v v_select(cr_m which, cr_v p, cr_v q)
{
    return (cr_v){vbslq_f32(which.a, p.a, q.a), vbslq_f32(which.b, p.b, q.b), vbslq_f32(which.c, p.c, q.c),
                  vbslq_f32(which.d, p.d, q.d)};
}
CR_INLINE cr_w v_bits(cr_v x) { return CR_EACH1(cr_w, vreinterpretq_s32_f32, x); }
CR_INLINE cr_w v_to_whole(cr_v x) { return CR_EACH1(cr_w, vcvtq_s32_f32, x); }
CR_INLINE cr_v v_from_whole(cr_w x) { return CR_EACH1(cr_v, vcvtq_f32_s32, x); }

CR_INLINE cr_v w_bits(cr_w x) { return CR_EACH1(cr_v, vreinterpretq_f32_s32, x); }
CR_INLINE cr_w w_splat(int32_t x)
{
    int32x4_t y = vdupq_n_s32(x);
    return (cr_w){y, y, y, y};
}
CR_INLINE cr_w w_add(cr_w p, cr_w q) { return CR_EACH2(cr_w, vaddq_s32, p, q); }
CR_INLINE cr_w w_sub(cr_w p, cr_w q) { return CR_EACH2(cr_w, vsubq_s32, p, q); }
CR_INLINE cr_w w_mul(cr_w p, cr_w q) { return CR_EACH2(cr_w, vmulq_s32, p, q); }
CR_INLINE cr_w w_and(cr_w p, cr_w q) { return CR_EACH2(cr_w, vandq_s32, p, q); }
CR_INLINE cr_w w_xor(cr_w p, cr_w q) { return CR_EACH2(cr_w, veorq_s32, p, q); }
CR_INLINE cr_w w_shift_left(cr_w x, int by)
{
    int32x4_t y = vdupq_n_s32(by);
    return (cr_w){vshlq_s32(x.a, y), vshlq_s32(x.b, y), vshlq_s32(x.c, y), vshlq_s32(x.d, y)};
}
CR_INLINE int32x4_t cr_shift(int32x4_t x, int32x4_t by)
{
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), by));
}
CR_INLINE cr_w w_shift_right(cr_w x, int by)
{
    int32x4_t y = vdupq_n_s32(-by);
    return (cr_w){cr_shift(x.a, y), cr_shift(x.b, y), cr_shift(x.c, y), cr_shift(x.d, y)};
}
CR_INLINE cr_w w_shift_right_signed(cr_w x, int by) { return w_shift_left(x, -by); }
CR_INLINE cr_w w_load(const void *from)
{
    const int32_t *at = from;
    return (cr_w){vld1q_s32(at), vld1q_s32(at + 4), vld1q_s32(at + 8), vld1q_s32(at + 12)};
}
CR_INLINE cr_w w_load_i8(const int8_t *from)
{
    int8x16_t x = vld1q_s8(from);
    int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
    return (cr_w){vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                  vmovl_s16(vget_high_s16(high))};
}
CR_INLINE cr_w w_load_u8(const uint8_t *from)
{
    uint8x16_t x = vld1q_u8(from);
    int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
    int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x)));
    return (cr_w){vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                  vmovl_s16(vget_high_s16(high))};
}
CR_INLINE void w_store_i8(int8_t *to, cr_w x)
{
    int16x8_t low = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)), high = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
    vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
CR_INLINE int32_t w_sum(cr_w x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }

/* sum + the products of four pairs of bytes in each lane. Clang before 16 has vdotq_s32 only where all code may use it. */
CR_INLINE int32x4_t cr_dot(int32x4_t sum, int8x16_t p, int8x16_t q)
{
#if defined(__clang__) && !defined(__ARM_FEATURE_DOTPROD)
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(p), "w"(q));
    return sum;
#else
    return vdotq_s32(sum, p, q);
#endif
}

CR_INLINE cr_x i8_splat(const int8_t *x)
{
    int32_t word;
    __builtin_memcpy(&word, x, sizeof word);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}
CR_INLINE cr_w i8_dot(cr_w sum, const int8_t *line, cr_x x)
{
    return (cr_w){cr_dot(sum.a, vld1q_s8(line), x), cr_dot(sum.b, vld1q_s8(line + 16), x),
                  cr_dot(sum.c, vld1q_s8(line + 32), x), cr_dot(sum.d, vld1q_s8(line + 48), x)};
}
CR_INLINE cr_x i4_splat(const int8_t *x) { return i8_splat(x); }
CR_INLINE int32x4_t cr_add_halves(int32x4_t sum, const uint8_t *line, cr_x low, cr_x high)
{
    uint8x16_t both = vld1q_u8(line);
    sum = cr_dot(sum, vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), low);
    return cr_dot(sum, vreinterpretq_s8_u8(vshrq_n_u8(both, 4)), high);
}
CR_INLINE cr_w i4_dot(cr_w sum, const uint8_t *line, cr_x low, cr_x high)
{
    return (cr_w){cr_add_halves(sum.a, line, low, high), cr_add_halves(sum.b, line + 16, low, high),
                  cr_add_halves(sum.c, line + 32, low, high), cr_add_halves(sum.d, line + 48, low, high)};
}

#include CR_BODY

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
