/* No instruction set in particular, and the definition of correct: a vector is four times four numbers in the vector
 * types of GNU C, which compile to whatever the machine has, if need be to single numbers.
 * Compile without contraction of a * b + c, and never with -ffast-math. */
#include <string.h>

#include "cr_inline.h"

#define CR_TABLE cr_kernels_scalar
#define CR_ISA_NAME "scalar"
#define CR_TILE_PANELS 1

typedef float cr_f4 __attribute__((vector_size(16)));
typedef int32_t cr_i4 __attribute__((vector_size(16)));
typedef uint32_t cr_u4 __attribute__((vector_size(16)));
typedef int16_t cr_s8 __attribute__((vector_size(16)));
typedef uint16_t cr_t8 __attribute__((vector_size(16)));
typedef int8_t cr_b4 __attribute__((vector_size(4)));
typedef uint8_t cr_c4 __attribute__((vector_size(4)));

typedef struct { cr_f4 a, b, c, d; } cr_v;
typedef struct { cr_i4 a, b, c, d; } cr_w;
typedef cr_w cr_m;
typedef struct { cr_s8 even, odd; } cr_x;
typedef cr_w cr_h;

#define CR_EACH1(type, fn, p) ((type){fn((p).a), fn((p).b), fn((p).c), fn((p).d)})
#define CR_EACH2(type, fn, p, q) ((type){fn((p).a, (q).a), fn((p).b, (q).b), fn((p).c, (q).c), fn((p).d, (q).d)})
#define CR_PLUS(p, q) ((p) + (q))
#define CR_MINUS(p, q) ((p) - (q))
#define CR_TIMES(p, q) ((p) * (q))
#define CR_OVER(p, q) ((p) / (q))
#define CR_WRAP_PLUS(p, q) ((cr_i4)((cr_u4)(p) + (cr_u4)(q)))
#define CR_WRAP_MINUS(p, q) ((cr_i4)((cr_u4)(p) - (cr_u4)(q)))
#define CR_AND(p, q) ((p) & (q))
#define CR_XOR(p, q) ((p) ^ (q))
#define CR_BELOW(p, q) ((cr_i4)((p) < (q)))
#define CR_SAME(p, q) ((cr_i4)((p) == (q)))
#define CR_NOT_SELF(p) ((cr_i4)((p) != (p)))
#define CR_AS_FLOAT(p) ((cr_f4)(p))
#define CR_AS_WHOLE(p) ((cr_i4)(p))
#define CR_TO_FLOAT(p) __builtin_convertvector(p, cr_f4)
#define CR_TO_WHOLE(p) __builtin_convertvector(p, cr_i4)

CR_INLINE cr_f4 cr_choose(cr_i4 which, cr_f4 p, cr_f4 q) { return (cr_f4)((which & (cr_i4)p) | (~which & (cr_i4)q)); }
CR_INLINE cr_f4 cr_greater(cr_f4 p, cr_f4 q) { return cr_choose(p > q, p, q); }
CR_INLINE cr_f4 cr_smaller(cr_f4 p, cr_f4 q) { return cr_choose(p < q, p, q); }
CR_INLINE cr_f4 cr_root(cr_f4 x)
{
    return (cr_f4){__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]), __builtin_sqrtf(x[3])};
}

CR_INLINE cr_v v_load(const float *from)
{
    cr_v y;
    memcpy(&y, from, sizeof y);
    return y;
}
CR_INLINE void v_store(float *to, cr_v x) { memcpy(to, &x, sizeof x); }
CR_INLINE cr_v v_splat(float x)
{
    cr_f4 y = {x, x, x, x};
    return (cr_v){y, y, y, y};
}
CR_INLINE cr_v v_add(cr_v p, cr_v q) { return CR_EACH2(cr_v, CR_PLUS, p, q); }
CR_INLINE cr_v v_sub(cr_v p, cr_v q) { return CR_EACH2(cr_v, CR_MINUS, p, q); }
CR_INLINE cr_v v_mul(cr_v p, cr_v q) { return CR_EACH2(cr_v, CR_TIMES, p, q); }
CR_INLINE cr_v v_div(cr_v p, cr_v q) { return CR_EACH2(cr_v, CR_OVER, p, q); }
CR_INLINE cr_v v_sqrt(cr_v x) { return CR_EACH1(cr_v, cr_root, x); }
CR_INLINE cr_v v_over(cr_v p, cr_v q) { return CR_EACH2(cr_v, cr_greater, p, q); }
CR_INLINE cr_v v_under(cr_v p, cr_v q) { return CR_EACH2(cr_v, cr_smaller, p, q); }
CR_INLINE cr_m v_less(cr_v p, cr_v q) { return CR_EACH2(cr_m, CR_BELOW, p, q); }
CR_INLINE cr_m v_equal(cr_v p, cr_v q) { return CR_EACH2(cr_m, CR_SAME, p, q); }
CR_INLINE cr_m v_is_nan(cr_v x) { return CR_EACH1(cr_m, CR_NOT_SELF, x); }
CR_INLINE cr_v v_select(cr_m which, cr_v p, cr_v q)
{
    return (cr_v){cr_choose(which.a, p.a, q.a), cr_choose(which.b, p.b, q.b), cr_choose(which.c, p.c, q.c),
                  cr_choose(which.d, p.d, q.d)};
}
CR_INLINE cr_w v_bits(cr_v x) { return CR_EACH1(cr_w, CR_AS_WHOLE, x); }
CR_INLINE cr_w v_to_whole(cr_v x) { return CR_EACH1(cr_w, CR_TO_WHOLE, x); }
CR_INLINE cr_v v_from_whole(cr_w x) { return CR_EACH1(cr_v, CR_TO_FLOAT, x); }

CR_INLINE cr_v w_bits(cr_w x) { return CR_EACH1(cr_v, CR_AS_FLOAT, x); }
CR_INLINE cr_w w_splat(int32_t x)
{
    cr_i4 y = {x, x, x, x};
    return (cr_w){y, y, y, y};
}
CR_INLINE cr_w w_add(cr_w p, cr_w q) { return CR_EACH2(cr_w, CR_WRAP_PLUS, p, q); }
CR_INLINE cr_w w_sub(cr_w p, cr_w q) { return CR_EACH2(cr_w, CR_WRAP_MINUS, p, q); }
CR_INLINE cr_w w_mul(cr_w p, cr_w q) { return CR_EACH2(cr_w, CR_TIMES, p, q); }
CR_INLINE cr_w w_and(cr_w p, cr_w q) { return CR_EACH2(cr_w, CR_AND, p, q); }
CR_INLINE cr_w w_xor(cr_w p, cr_w q) { return CR_EACH2(cr_w, CR_XOR, p, q); }
CR_INLINE cr_w w_shift_left(cr_w x, int by)
{
    return (cr_w){(cr_i4)((cr_u4)x.a << by), (cr_i4)((cr_u4)x.b << by), (cr_i4)((cr_u4)x.c << by),
                  (cr_i4)((cr_u4)x.d << by)};
}
CR_INLINE cr_w w_shift_right(cr_w x, int by)
{
    return (cr_w){(cr_i4)((cr_u4)x.a >> by), (cr_i4)((cr_u4)x.b >> by), (cr_i4)((cr_u4)x.c >> by),
                  (cr_i4)((cr_u4)x.d >> by)};
}
CR_INLINE cr_w w_shift_right_signed(cr_w x, int by) { return (cr_w){x.a >> by, x.b >> by, x.c >> by, x.d >> by}; }
CR_INLINE cr_w w_load(const void *from)
{
    cr_w y;
    memcpy(&y, from, sizeof y);
    return y;
}
CR_INLINE cr_w w_load_i8(const int8_t *from)
{
    cr_b4 x[4];
    memcpy(x, from, sizeof x);
    return (cr_w){CR_TO_WHOLE(x[0]), CR_TO_WHOLE(x[1]), CR_TO_WHOLE(x[2]), CR_TO_WHOLE(x[3])};
}
CR_INLINE cr_w w_load_u8(const uint8_t *from)
{
    cr_c4 x[4];
    memcpy(x, from, sizeof x);
    return (cr_w){CR_TO_WHOLE(x[0]), CR_TO_WHOLE(x[1]), CR_TO_WHOLE(x[2]), CR_TO_WHOLE(x[3])};
}
CR_INLINE void w_store_i8(int8_t *to, cr_w x)
{
    cr_b4 y[4] = {__builtin_convertvector(x.a, cr_b4), __builtin_convertvector(x.b, cr_b4),
                  __builtin_convertvector(x.c, cr_b4), __builtin_convertvector(x.d, cr_b4)};
    memcpy(to, y, sizeof y);
}
CR_INLINE int32_t w_sum(cr_w x)
{
    cr_u4 sum = (cr_u4)x.a + (cr_u4)x.b + (cr_u4)x.c + (cr_u4)x.d;
    return (int32_t)(sum[0] + sum[1] + sum[2] + sum[3]);
}

/* Sixteen bytes are eight pairs. The products of a pair are added in 16 bits, where they fit: 2 * 127 * 127, or four of
 * 15 * 127. Two such sums are the halves of a row's word. */
CR_INLINE cr_x i8_splat(const int8_t *x)
{
    return (cr_x){{x[0], x[2], x[0], x[2], x[0], x[2], x[0], x[2]}, {x[1], x[3], x[1], x[3], x[1], x[3], x[1], x[3]}};
}
CR_INLINE cr_i4 cr_add_pairs(cr_i4 sum, cr_s8 pairs)
{
    cr_i4 words = (cr_i4)pairs;
    return sum + ((cr_i4)((cr_u4)words << 16) >> 16) + (words >> 16);
}
CR_INLINE cr_i4 cr_add_quarter(cr_i4 sum, const int8_t *line, cr_x x)
{
    cr_s8 w;
    memcpy(&w, line, sizeof w);
    return cr_add_pairs(sum, ((cr_s8)((cr_t8)w << 8) >> 8) * x.even + (w >> 8) * x.odd);
}
CR_INLINE cr_w i8_dot(cr_w sum, const int8_t *line, cr_x x)
{
    return (cr_w){cr_add_quarter(sum.a, line, x), cr_add_quarter(sum.b, line + 16, x),
                  cr_add_quarter(sum.c, line + 32, x), cr_add_quarter(sum.d, line + 48, x)};
}
CR_INLINE cr_x i4_splat(const int8_t *x) { return i8_splat(x); }
CR_INLINE cr_i4 cr_add_halves(cr_i4 sum, const uint8_t *line, cr_x low, cr_x high)
{
    cr_t8 w;
    memcpy(&w, line, sizeof w);
    cr_s8 pairs = (cr_s8)(w & 15) * low.even + (cr_s8)(w >> 8 & 15) * low.odd;
    return cr_add_pairs(sum, pairs + (cr_s8)(w >> 4 & 15) * high.even + (cr_s8)(w >> 12) * high.odd);
}
CR_INLINE cr_h i4_dot(cr_h sum, const uint8_t *line, cr_x low, cr_x high)
{
    return (cr_h){cr_add_halves(sum.a, line, low, high), cr_add_halves(sum.b, line + 16, low, high),
                  cr_add_halves(sum.c, line + 32, low, high), cr_add_halves(sum.d, line + 48, low, high)};
}

#include CR_BODY
