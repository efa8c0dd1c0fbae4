/* Functions of vectors: only operations that every machine rounds alike. */
#include <string.h>

#include "cr_format.h"

enum { LANES = CR_LANES };

/* These leave the memory behind the first n >= 1 lanes alone. */
#ifndef CR_HAS_MASKED_LOADS
CR_INLINE cr_v v_load_some(const float *from, size_t n, float absent)
{
    float lanes[LANES];
    if (n >= LANES) return v_load(from);
    v_store(lanes, v_splat(absent));
    memcpy(lanes, from, sizeof(float) * n);
    return v_load(lanes);
}
#endif

#ifndef CR_HAS_MASKED_STORES
CR_INLINE void v_store_some(float *to, cr_v x, size_t n)
{
    float lanes[LANES];
    v_store(n < LANES ? lanes : to, x);
    if (n < LANES) memcpy(to, lanes, sizeof(float) * n);
}
#endif

CR_INLINE cr_v cr_max(cr_v a, cr_v b)
{
    return v_select(v_is_nan(a), a, v_over(a, b));
}

CR_INLINE cr_v cr_min(cr_v a, cr_v b)
{
    return v_select(v_is_nan(a), a, v_under(a, b));
}

CR_INLINE cr_v cr_clamp(cr_v x, float low, float high)
{
    return v_under(v_splat(high), v_over(v_splat(low), x));
}

/* p * x + c, rounded twice */
CR_INLINE cr_v cr_horner(cr_v p, cr_v x, float c)
{
    return v_add(v_mul(p, x), v_splat(c));
}

/* Rational 9/8 approximation of tanh, published in google/XNNPACK (BSD-3-Clause); absolute error below 4e-7. */
static const float cr_tanh_numbers[] = {
    -7.8522667885f,    7.8522667885f,     1.4248920266e-08f, 8.1365948290e-07f, 2.1235626264e-05f, 3.3472978976e-04f,
    3.5330520477e-03f, 2.6018999517e-02f, 1.3412411511e-01f, 4.6745735407e-01f, 1.0f,              0.5f,
};

/* `k`: cr_tanh_numbers. */
CR_INLINE cr_v cr_tanh_by(const float *k, cr_v x)
{
    x = cr_clamp(x, k[0], k[1]);
    cr_v y = v_mul(x, x);
    cr_v p = cr_horner(v_splat(k[2]), y, k[4]);
    cr_v q = cr_horner(v_splat(k[3]), y, k[5]);
    p = cr_horner(p, y, k[6]);
    q = cr_horner(q, y, k[7]);
    p = cr_horner(p, y, k[8]);
    q = cr_horner(q, y, k[9]);
    p = cr_horner(p, y, k[10]);
    q = cr_horner(q, y, k[10]);
    return v_div(v_mul(x, p), q);
}

CR_INLINE cr_v cr_sigmoid_by(const float *k, cr_v x)
{
    cr_v half = v_splat(k[11]);
    return v_add(half, v_mul(half, cr_tanh_by(k, v_mul(half, x))));
}

CR_INLINE cr_v cr_tanh(cr_v x)
{
    return cr_tanh_by(cr_tanh_numbers, x);
}

CR_INLINE cr_v cr_sigmoid(cr_v x)
{
    return cr_sigmoid_by(cr_tanh_numbers, x);
}

/* One step of n LSTM units, 16 at most, from their gates before the sigmoid and tanh. `k`: cr_tanh_numbers. In this and the
 * next the order of loads and stores counts: GCC 12 keeps other registers, and a step takes 5 % longer, if they move. */
CR_INLINE void cr_lstm_units(const float *k, const cr_v *gates, float *cell, float *dst, size_t n)
{
    cr_v c = v_load_some(cell, n, 0.0f);
    c = v_add(v_mul(cr_sigmoid_by(k, gates[1]), c), v_mul(cr_sigmoid_by(k, gates[0]), cr_tanh_by(k, gates[2])));
    v_store_some(cell, c, n);
    v_store_some(dst, v_mul(cr_sigmoid_by(k, gates[3]), cr_tanh_by(k, c)), n);
}

/* One step of n GRU units, 16 at most, from the sums for r and z, and for the candidate those from the input and from the
 * state; h: what they were. */
CR_INLINE void cr_gru_units(const float *k, cr_v reset, cr_v update, cr_v from_x, cr_v from_h, const float *h, float *dst,
                            size_t n)
{
    update = cr_sigmoid_by(k, update);
    cr_v candidate = cr_tanh_by(k, v_add(from_x, v_mul(cr_sigmoid_by(k, reset), from_h)));
    cr_v before = v_load_some(h, n, 0.0f);
    v_store_some(dst, v_add(v_mul(v_sub(v_splat(1.0f), update), candidate), v_mul(update, before)), n);
}

/* e^x = 2^n 2^f with n whole and |f| <= 1/2; relative error below 4e-7. Adding 1.5 * 2^23 rounds to a whole number,
 * which then stands in the low bits. */
CR_INLINE cr_v cr_exp(cr_v x)
{
    cr_v clamped = cr_clamp(x, -87.0f, 89.0f);
    cr_v shifted = cr_horner(clamped, v_splat(1.44269504f), 12582912.0f);
    cr_v n = v_sub(shifted, v_splat(12582912.0f));
    cr_w whole = w_sub(v_bits(shifted), w_splat(0x4b400000));
    cr_v f = v_sub(v_sub(clamped, v_mul(n, v_splat(0.693359375f))), v_mul(n, v_splat(-2.12194440e-4f)));
    f = v_mul(f, v_splat(1.44269504f));
    cr_v p = cr_horner(v_splat(0.00132745639f), f, 0.00967196317f);
    p = cr_horner(p, f, 0.0555067867f);
    p = cr_horner(p, f, 0.240222353f);
    p = cr_horner(p, f, 0.693147061f);
    p = cr_horner(p, f, 1.0f);
    /* 2^n in two factors, for 2^128 is no float */
    cr_w half = w_sub(w_shift_right(w_add(whole, w_splat(256)), 1), w_splat(128));
    p = v_mul(p, w_bits(w_shift_left(w_add(half, w_splat(127)), 23)));
    p = v_mul(p, w_bits(w_shift_left(w_add(w_sub(whole, half), w_splat(127)), 23)));
    p = v_select(v_less(x, v_splat(-87.0f)), v_splat(0.0f), p);
    return v_select(v_is_nan(x), x, p);
}

/* The mantissa in [sqrt(1/2), sqrt(2)) by a polynomial (Cephes logf, S. Moshier); error below 3e-7 + 2e-7 |log x|. */
CR_INLINE cr_v cr_log(cr_v x)
{
    cr_w bits = w_sub(v_bits(x), w_splat(0x3f3504f3));
    cr_v e = v_from_whole(w_shift_right_signed(bits, 23));
    cr_v m = v_sub(w_bits(w_add(w_and(bits, w_splat(0x007fffff)), w_splat(0x3f3504f3))), v_splat(1.0f));
    cr_v z = v_mul(m, m);
    cr_v p = cr_horner(v_splat(7.0376836292e-2f), m, -1.1514610310e-1f);
    p = cr_horner(p, m, 1.1676998740e-1f);
    p = cr_horner(p, m, -1.2420140846e-1f);
    p = cr_horner(p, m, 1.4249322787e-1f);
    p = cr_horner(p, m, -1.6668057665e-1f);
    p = cr_horner(p, m, 2.0000714765e-1f);
    p = cr_horner(p, m, -2.4999993993e-1f);
    p = cr_horner(p, m, 3.3333331174e-1f);
    p = v_add(v_mul(v_mul(p, m), z), v_mul(e, v_splat(-2.12194440e-4f)));
    p = v_sub(p, v_mul(v_splat(0.5f), z));
    p = v_add(v_add(m, p), v_mul(e, v_splat(0.693359375f)));
    p = v_select(v_less(x, v_splat(1.17549435e-38f)), w_bits(w_splat((int32_t)0xff800000)), p); /* 0, or flushed to it */
    p = v_select(v_less(v_splat(3.40282347e38f), x), x, p);
    p = v_select(v_less(x, v_splat(0.0f)), w_bits(w_splat(0x7fc00000)), p);
    return v_select(v_is_nan(x), x, p);
}

CR_INLINE cr_v cr_abs(cr_v x)
{
    return w_bits(w_and(v_bits(x), w_splat(0x7fffffff)));
}

/* A subnormal becomes zero, as in arithmetic. Comparing and selecting hand it on, or not, as the machine likes. */
CR_INLINE cr_v cr_flush(cr_v x)
{
    cr_v zero = w_bits(w_and(v_bits(x), w_splat(INT32_MIN)));
    return v_select(v_less(cr_abs(x), v_splat(1.17549435e-38f)), zero, x);
}

CR_INLINE cr_v cr_leaky(cr_v x, float slope)
{
    x = cr_flush(x);
    return v_select(v_less(v_splat(0.0f), x), x, v_mul(x, v_splat(slope)));
}

CR_INLINE cr_v cr_negative(cr_v x)
{
    return v_sub(v_splat(-0.0f), x);
}

/* Abramowitz and Stegun 7.1.26; absolute error below 1e-6. */
CR_INLINE cr_v cr_erf(cr_v x)
{
    cr_m below = v_less(x, v_splat(0.0f));
    cr_v size = v_select(below, cr_negative(x), x);
    cr_v t = v_div(v_splat(1.0f), v_add(v_splat(1.0f), v_mul(v_splat(0.3275911f), size)));
    cr_v p = cr_horner(v_splat(1.061405429f), t, -1.453152027f);
    p = cr_horner(p, t, 1.421413741f);
    p = cr_horner(p, t, -0.284496736f);
    p = cr_horner(p, t, 0.254829592f);
    cr_v y = v_sub(v_splat(1.0f), v_mul(v_mul(p, t), cr_exp(cr_negative(v_mul(size, size)))));
    return v_select(below, cr_negative(y), y);
}

/* sin(x + quarters * pi / 2), absolute error below 1.2e-7 for |x| <= 100000; beyond that NaN. x is reduced by multiples n of
 * pi / 2 in four parts, of which all but the last have 8 bits: n * part is exact. Polynomials: Cephes sinf, S. Moshier. */
CR_INLINE cr_v cr_sine(cr_v x, int32_t quarters)
{
    cr_v shifted = cr_horner(x, v_splat(0.636619772f), 12582912.0f); /* as in cr_exp: n stands in the low bits */
    cr_v n = v_sub(shifted, v_splat(12582912.0f));
    cr_v r = v_sub(x, v_mul(n, v_splat(0x1.92p+0f)));
    r = v_sub(r, v_mul(n, v_splat(0x1.fap-12f)));
    r = v_sub(r, v_mul(n, v_splat(0x1.54p-20f)));
    r = v_sub(r, v_mul(n, v_splat(0x1.10b462p-30f)));
    cr_v z = v_mul(r, r);
    cr_v sine = cr_horner(cr_horner(v_splat(-1.9515295891e-4f), z, 8.3321608736e-3f), z, -1.6666654611e-1f);
    cr_v cosine = cr_horner(cr_horner(v_splat(2.443315711809948e-5f), z, -1.388731625493765e-3f), z, 4.166664568298827e-2f);
    sine = v_add(v_mul(v_mul(sine, z), r), r);
    cosine = v_add(v_sub(v_mul(v_mul(cosine, z), z), v_mul(v_splat(0.5f), z)), v_splat(1.0f));
    cr_w quarter = w_and(w_add(v_bits(shifted), w_splat(quarters)), w_splat(3));
    cr_m even = v_equal(v_from_whole(w_and(quarter, w_splat(1))), v_splat(0.0f));
    cr_w sign = w_shift_left(w_and(quarter, w_splat(2)), 30);
    cr_v y = w_bits(w_xor(v_bits(v_select(even, sine, cosine)), sign));
    return v_select(v_less(v_splat(100000.0f), cr_abs(x)), w_bits(w_splat(0x7fc00000)), y);
}
