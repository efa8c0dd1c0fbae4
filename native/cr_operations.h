/* The operations of a program and their functions, each in one list, X(name, number, ...), of which enumerations,
 * checks and kernels are made. docs/operations.md says what each computes. Python has the same list in
 * runtime/operations.py; a test compares the two.
 *
 * n and k are fields of cr_op, P is n rounded up to a multiple of CR_LANES, and Q is k. */
#ifndef CR_OPERATIONS_H
#define CR_OPERATIONS_H

#include <stdint.h>

/* How many numbers an operand has, or how much work an operation is. */
#define CR_WIDTHS(X)                                                                                                   \
    X(NONE, 0)                                                                                                         \
    X(ONE, 1)                                                                                                          \
    X(N, n)                                                                                                            \
    X(K, k)                                                                                                            \
    X(N_K, n * k)                                                                                                      \
    X(N_AND_K, n + k)                                                                                                  \
    X(3N, 3 * n)                                                                                                       \
    X(4N, 4 * n)                                                                                                       \
    X(3P, 3 * P)                                                                                                       \
    X(4P, 4 * P)                                                                                                       \
    X(3Q, 3 * Q)                                                                                                       \
    X(4Q, 4 * Q)                                                                                                       \
    X(3Q_ROWS, 3 * Q * (n / k))                                                                                        \
    X(4Q_ROWS, 4 * Q * (n / k))                                                                                        \
    X(K_P_1, k + P + 1)                                                                                                \
    X(3N_K, 3 * n * k)                                                                                                 \
    X(4N_K, 4 * n * k)                                                                                                 \
    X(K_LOG_N, k * cr_digits(n))

/* What an operand may be besides a place apart from dst that is read. */
enum cr_use {
    CR_IN_PLACE = 1,                      /* or the very place of dst, where as wide */
    CR_OPTIONAL = 2,                  /* or absent */
    CR_UPDATED = 4,                   /* and is written: apart from all others */
    CR_ALL_STEPS = 8                  /* and read at other steps than this: an input, or a sequence of an earlier segment */
};

/* What k is. */
enum cr_rule { CR_NO_K, CR_ANY_K, CR_K_DIVIDES_N, CR_N_DIVIDES_K, CR_N_UP_TO_K };

enum cr_store { CR_USES_NO_TENSOR, CR_USES_MATRIX, CR_USES_TABLE, CR_USES_INDEX, CR_USES_COLUMNS, CR_USES_TAPS };

/* Absent is what an operation does not have. */
#define CR_OPERATIONS(X)                                                                                               \
    X(EMBED, 1, .a = {CR_WIDTH_ONE, 0}, .tensor = CR_USES_TABLE)                                                       \
    X(AFFINE, 2, .a = {CR_WIDTH_K, 0}, .b = {CR_WIDTH_N, CR_IN_PLACE | CR_OPTIONAL}, .k = CR_ANY_K,                    \
      .tensor = CR_USES_MATRIX, .gates = 1, .rows = CR_WIDTH_N, .work = CR_WIDTH_N_K)                                  \
    X(GATHER, 3, .a = {CR_WIDTH_K, 0}, .k = CR_ANY_K, .tensor = CR_USES_INDEX)                                         \
    X(UNARY, 4, .a = {CR_WIDTH_N, CR_IN_PLACE}, .functions = CR_UNARY_COUNT)                                           \
    X(BINARY, 5, .a = {CR_WIDTH_N, CR_IN_PLACE}, .b = {CR_WIDTH_K, CR_IN_PLACE}, .k = CR_K_DIVIDES_N,                  \
      .functions = CR_BINARY_COUNT)                                                                                    \
    X(REDUCE, 6, .a = {CR_WIDTH_N_K, 0}, .k = CR_ANY_K, .functions = CR_REDUCE_COUNT, .work = CR_WIDTH_N_K)            \
    X(SOFTMAX, 7, .a = {CR_WIDTH_N, CR_IN_PLACE}, .k = CR_K_DIVIDES_N)                                                 \
    X(LOG_SOFTMAX, 8, .a = {CR_WIDTH_N, CR_IN_PLACE}, .k = CR_K_DIVIDES_N)                                             \
    X(LAYER_NORM, 9, .a = {CR_WIDTH_N, CR_IN_PLACE}, .k = CR_K_DIVIDES_N, .parameters = 1)                             \
    X(LSTM, 10, .a = {CR_WIDTH_4P, 0}, .b = {CR_WIDTH_N, CR_UPDATED}, .c = {CR_WIDTH_K, 0}, .k = CR_ANY_K,             \
      .tensor = CR_USES_MATRIX, .gates = 4, .rows = CR_WIDTH_4P, .work = CR_WIDTH_4N_K)                                \
    X(GRU, 11, .a = {CR_WIDTH_3P, 0}, .b = {CR_WIDTH_N, CR_OPTIONAL}, .c = {CR_WIDTH_K, 0},                            \
      .d = {CR_WIDTH_N, CR_IN_PLACE}, .k = CR_ANY_K, .tensor = CR_USES_MATRIX, .gates = 3, .rows = CR_WIDTH_3P,        \
      .work = CR_WIDTH_3N_K)                                                                                           \
    X(FLIP, 12, .a = {CR_WIDTH_N, CR_ALL_STEPS})                                                                       \
    X(TOP, 13, .a = {CR_WIDTH_K, 0}, .k = CR_N_UP_TO_K, .functions = CR_TOP_COUNT, .work = CR_WIDTH_K_LOG_N)           \
    X(SELECT, 14, .a = {CR_WIDTH_N, CR_IN_PLACE}, .b = {CR_WIDTH_N, CR_IN_PLACE}, .c = {CR_WIDTH_N, CR_IN_PLACE})      \
    X(DELAY, 15, .a = {CR_WIDTH_N, 0}, .k = CR_N_DIVIDES_K, .writes_k = 1, .work = CR_WIDTH_K)                         \
    X(LSTM_CELL, 16, .a = {CR_WIDTH_4N, 0}, .b = {CR_WIDTH_N, CR_UPDATED}, .work = CR_WIDTH_4N)                        \
    X(GRU_CELL, 17, .a = {CR_WIDTH_3N, 0}, .c = {CR_WIDTH_3N, 0}, .d = {CR_WIDTH_N, CR_IN_PLACE}, .work = CR_WIDTH_3N) \
    X(MATMUL, 18, .a = {CR_WIDTH_K, 0}, .b = {CR_WIDTH_N, CR_IN_PLACE | CR_OPTIONAL}, .k = CR_ANY_K,                   \
      .tensor = CR_USES_MATRIX, .gates = 1, .rows = CR_WIDTH_N, .functions = CR_MATMUL_COUNT, .work = CR_WIDTH_N_K)      \
    X(DELTA, 19, .a = {CR_WIDTH_K, 0}, .b = {CR_WIDTH_N, CR_IN_PLACE | CR_OPTIONAL}, .c = {CR_WIDTH_K_P_1, CR_UPDATED}, \
      .k = CR_ANY_K, .tensor = CR_USES_COLUMNS, .gates = 1, .rows = CR_WIDTH_N, .work = CR_WIDTH_N_K)                    \
    X(LSTM_OVER, 20, .a = {CR_WIDTH_4Q_ROWS, 0}, .b = {CR_WIDTH_K, CR_UPDATED}, .c = {CR_WIDTH_K, 0},                  \
      .k = CR_K_DIVIDES_N, .tensor = CR_USES_MATRIX, .gates = 4, .rows = CR_WIDTH_4Q, .functions = CR_OVER_COUNT,      \
      .work = CR_WIDTH_4N_K)                                                                                           \
    X(GRU_OVER, 21, .a = {CR_WIDTH_3Q_ROWS, 0}, .b = {CR_WIDTH_K, CR_OPTIONAL}, .c = {CR_WIDTH_K, 0},                  \
      .k = CR_K_DIVIDES_N, .tensor = CR_USES_MATRIX, .gates = 3, .rows = CR_WIDTH_3Q, .functions = CR_OVER_COUNT,      \
      .work = CR_WIDTH_3N_K)                                                                                           \
    X(GRU_EACH, 22, .a = {CR_WIDTH_3Q_ROWS, 0}, .b = {CR_WIDTH_K, CR_OPTIONAL}, .c = {CR_WIDTH_N, 0},                  \
      .k = CR_K_DIVIDES_N, .tensor = CR_USES_MATRIX, .gates = 3, .rows = CR_WIDTH_3Q, .work = CR_WIDTH_3N_K)           \
    X(DEPTHWISE, 23, .a = {CR_WIDTH_K, 0}, .b = {CR_WIDTH_N, CR_IN_PLACE | CR_OPTIONAL}, .k = CR_ANY_K,                \
      .tensor = CR_USES_TAPS, .work = CR_WIDTH_N_K)                                                                    \
    X(ATTEND, 24, .a = {CR_WIDTH_K, 0}, .b = {CR_WIDTH_K, CR_ALL_STEPS}, .c = {CR_WIDTH_N, CR_ALL_STEPS},              \
      .k = CR_ANY_K, .functions = CR_ATTEND_COUNT, .parameters = 1, .work = CR_WIDTH_N_AND_K)

/* X(name, number, parameters, kernel): how many of p0 and p1 it has, and its value for the vector x. */
#define CR_UNARY_FUNCTIONS(X)                                                                                          \
    X(COPY, 0, 0, x)                                                                                                   \
    X(SCALE_SHIFT, 1, 2, cr_horner(x, v_splat(p0), p1))                                                                \
    X(ABS, 2, 0, cr_abs(x))                                                                                            \
    X(CLAMP, 3, 2, cr_flush(cr_clamp(x, p0, p1)))                                                                      \
    X(RECIPROCAL, 4, 0, v_div(v_splat(1.0f), x))                                                                       \
    X(SQRT, 5, 0, v_sqrt(x))                                                                                           \
    X(EXP, 6, 0, cr_exp(x))                                                                                            \
    X(LOG, 7, 0, cr_log(x))                                                                                            \
    X(ERF, 8, 0, cr_erf(x))                                                                                            \
    X(TANH, 9, 0, cr_tanh(x))                                                                                          \
    X(SIGMOID, 10, 0, cr_sigmoid(x))                                                                                   \
    X(SIN, 11, 0, cr_sine(x, 0))                                                                                       \
    X(COS, 12, 0, cr_sine(x, 1))                                                                                       \
    X(LEAKY_RELU, 13, 1, cr_leaky(x, p0))

/* X(name, number, kernel): its value for the vectors a and b. */
#define CR_BINARY_FUNCTIONS(X)                                                                                         \
    X(ADD, 0, v_add(a, b))                                                                                             \
    X(SUB, 1, v_sub(a, b))                                                                                             \
    X(MUL, 2, v_mul(a, b))                                                                                             \
    X(DIV, 3, v_div(a, b))                                                                                             \
    X(MAX, 4, cr_flush(cr_max(a, b)))                                                                                  \
    X(MIN, 5, cr_flush(cr_min(a, b)))                                                                                  \
    X(EQUAL, 6, cr_truth(v_equal(a, b)))                                                                               \
    X(NOT_EQUAL, 7, v_select(v_equal(a, b), v_splat(0.0f), v_splat(1.0f)))                                             \
    X(LESS, 8, cr_truth(v_less(a, b)))                                                                                 \
    X(LESS_EQUAL, 9, v_select(v_equal(a, b), v_splat(1.0f), cr_truth(v_less(a, b))))

#define CR_REDUCE_FUNCTIONS(X) X(SUM, 0) X(MAX, 1) X(MIN, 2) X(ARGMAX, 3)
#define CR_TOP_FUNCTIONS(X) X(VALUES, 0) X(POSITIONS, 1)
#define CR_MATMUL_FUNCTIONS(X) X(LEFT, 0) X(RIGHT, 1) X(WINDOWS, 2)
#define CR_OVER_FUNCTIONS(X) X(FORWARD, 0) X(BACKWARD, 1)
#define CR_ATTEND_FUNCTIONS(X) X(ALL, 0) X(CAUSAL, 1)

#define CR_WIDTH_NAME(name, value) CR_WIDTH_##name,
enum cr_width { CR_WIDTHS(CR_WIDTH_NAME) CR_WIDTH_COUNT };
#undef CR_WIDTH_NAME

#define CR_OPERATION_NAME(name, number, ...) CR_##name = number,
#define CR_UNARY_NAME(name, number, ...) CR_UNARY_##name = number,
#define CR_BINARY_NAME(name, number, ...) CR_BINARY_##name = number,
#define CR_REDUCE_NAME(name, number) CR_REDUCE_##name = number,
#define CR_TOP_NAME(name, number) CR_TOP_##name = number,
#define CR_MATMUL_NAME(name, number) CR_MATMUL_##name = number,
#define CR_OVER_NAME(name, number) CR_OVER_##name = number,
#define CR_ATTEND_NAME(name, number) CR_ATTEND_##name = number,
enum cr_code { CR_OPERATIONS(CR_OPERATION_NAME) CR_CODE_COUNT };
enum cr_unary { CR_UNARY_FUNCTIONS(CR_UNARY_NAME) CR_UNARY_COUNT };
enum cr_binary { CR_BINARY_FUNCTIONS(CR_BINARY_NAME) CR_BINARY_COUNT };
enum cr_reduce { CR_REDUCE_FUNCTIONS(CR_REDUCE_NAME) CR_REDUCE_COUNT };
enum cr_top { CR_TOP_FUNCTIONS(CR_TOP_NAME) CR_TOP_COUNT };
enum cr_matmul_function { CR_MATMUL_FUNCTIONS(CR_MATMUL_NAME) CR_MATMUL_COUNT };
enum cr_over { CR_OVER_FUNCTIONS(CR_OVER_NAME) CR_OVER_COUNT };
enum cr_attend { CR_ATTEND_FUNCTIONS(CR_ATTEND_NAME) CR_ATTEND_COUNT };
#undef CR_OPERATION_NAME
#undef CR_UNARY_NAME
#undef CR_BINARY_NAME
#undef CR_REDUCE_NAME
#undef CR_TOP_NAME
#undef CR_MATMUL_NAME
#undef CR_OVER_NAME
#undef CR_ATTEND_NAME

typedef struct {
    uint8_t width;                    /* enum cr_width */
    uint8_t use;                      /* of enum cr_use */
} cr_operand;

typedef struct {
    const char *name;
    cr_operand a, b, c, d;
    uint8_t k;                        /* enum cr_rule */
    uint8_t tensor;                   /* enum cr_store */
    uint8_t gates;                    /* of a matrix: its panels of a block, 1 = any number of them, */
    uint8_t rows;                     /* and its rows, enum cr_width */
    uint8_t functions;                /* how many there are; 0 = fn is 0 */
    uint8_t parameters;               /* whether it has a p0; products with whole numbers have one, too */
    uint8_t writes_k;                 /* k numbers at dst, not n */
    uint8_t work;                     /* enum cr_width; NONE = n */
} cr_operation;

#ifdef __cplusplus
extern "C" {
#endif

/* Whether an op multiplies many vectors of a step with a matrix: of float32 or int8 entries that are all stored. */
static inline int cr_has_rows(uint32_t code)
{
    return code == CR_MATMUL || (code >= CR_LSTM_OVER && code <= CR_GRU_EACH);
}

/* By code; 0 is none. */
extern const cr_operation cr_operations[CR_CODE_COUNT];

/* By enum cr_unary: how many of p0 and p1 it has. */
extern const uint8_t cr_unary_parameters[CR_UNARY_COUNT];

/* A width in numbers, and as it is written above. */
uint64_t cr_width_of(unsigned width, uint64_t n, uint64_t k);
const char *cr_width_text(unsigned width);

#ifdef __cplusplus
}
#endif
#endif
