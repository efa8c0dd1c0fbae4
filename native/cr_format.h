/* The model file, version 1: the specification of the format, in C.
 *
 * Little-endian. A 64-byte header, then eight sections in this order, then nothing:
 *
 *     buffers    cr_buffer  x buffer_count         what the program computes on
 *     tensors    cr_tensor  x tensor_count         weights, tables, indices
 *     ops        cr_op      x op_count             the program
 *     segments   cr_segment x segment_count        which ops run together
 *     inputs     cr_port    x input_count
 *     outputs    cr_port    x output_count
 *     metadata   JSON, UTF-8, metadata_bytes       never needed to execute
 *     data       the initial values of the buffers that have them, in the order of the buffers, then the tensors
 *
 * Every section, and every array in `data`, starts at the next multiple of 64 and is padded with zero bytes. The place
 * of everything therefore follows from the counts and sizes. It is stored too, so that a reader needs no memory of its
 * own, and a stored place that is not the implied one is an error: nothing can overlap, and no byte lies outside. */
#ifndef CR_FORMAT_H
#define CR_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define CR_MAGIC "\x89" "CRNN\r\n\x1a"
#define CR_VERSION 1u
#define CR_KNOWN_FEATURES 0u          /* a feature bit that the reader does not know is an error */
#define CR_LINE 64u                   /* bytes: the alignment of everything */
#define CR_LANES 16u                  /* rows of a panel */
#define CR_NONE 0xffffffffu           /* no buffer, no tensor */

/* Limits. With them no product of two fields overflows 64 bits and no int8 sum of products overflows 32. */
#define CR_MAX_BUFFERS 65536u
#define CR_MAX_TENSORS 65536u
#define CR_MAX_OPS 65536u
#define CR_MAX_SEGMENTS 256u
#define CR_MAX_PORTS 64u
#define CR_MAX_RANK 8u
#define CR_MAX_WIDTH (1u << 20)       /* of a buffer, of an operand */
#define CR_MAX_COLUMNS 65536u         /* of a matrix */
#define CR_MAX_ROWS (1u << 24)        /* of a table or matrix: a token is exact in float32 */
#define CR_MAX_METADATA (16u << 20)
#define CR_MAX_BLOCK (256u << 20)     /* bytes of one stream's block, and of one row of all sequences */

typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t features;
    uint64_t file_bytes;
    uint32_t header_crc;              /* CRC-32 (zlib's) of this header with this field zero */
    uint32_t body_crc;                /* CRC-32 of everything after the header */
    uint32_t buffer_count;
    uint32_t tensor_count;
    uint32_t op_count;
    uint32_t segment_count;
    uint32_t input_count;
    uint32_t output_count;
    uint32_t metadata_bytes;
    uint32_t reserved;                /* reserved fields are zero, everywhere */
} cr_header;

enum cr_kind {
    CR_SCRATCH = 0,                   /* valid within a step; read by a later segment: what the last step wrote */
    CR_STATE = 1,                     /* persists from step to step */
    CR_CONSTANT = 2,                  /* in the file, never written */
    CR_INPUT = 3,                     /* the row that the caller gives, never written by an op */
    CR_SEQUENCE = 4,                  /* one row for every step */
    CR_KIND_COUNT = 5
};

/* `place`, in bytes: of a constant its `data` in the file; of a sequence its column in the row of all sequences; of the
 * others in the stream's block, where all states come first, then all inputs, then all scratch, each in the order of
 * the buffers. `init`: the place of the initial values in the file; 0 for a state that starts as zeros, and for other
 * kinds. `segment`: the one segment that writes a sequence; else 0. */
typedef struct {
    uint32_t kind;
    uint32_t width;                   /* in numbers, >= 1 */
    uint32_t segment;
    uint32_t reserved;
    uint64_t place;
    uint64_t init;
} cr_buffer;

/* A matrix lies in panels of 16 rows, a panel in 64-byte lines:
 *     f32: line j holds column j of the 16 rows; i8: line j holds columns 4j..4j+3 of row 0, of row 1, ...
 * Rows and columns that are only padding are zero. A table lies row after row, unpadded. An i8 array is followed by one
 * float32 scale per row, finite, positive and normal; no entry of an i8 matrix is -128. */
enum cr_type {
    CR_MATRIX_F32 = 0,
    CR_MATRIX_I8 = 1,
    CR_TABLE_F32 = 2,
    CR_TABLE_F16 = 3,
    CR_TABLE_I8 = 4,
    CR_INDEX = 5,                     /* int32, columns = 1 */
    CR_TYPE_COUNT = 6
};

typedef struct {
    uint32_t type;
    uint32_t rows;
    uint32_t columns;
    uint32_t reserved;
    uint64_t place;
    uint64_t scale;                   /* the place of the scales; 0 where there are none */
} cr_tensor;

typedef struct {
    uint32_t buffer;
    uint32_t offset;                  /* in numbers */
} cr_ref;

enum cr_code {
    CR_EMBED = 1,                     /* dst[n] = table[token at a] */
    CR_AFFINE = 2,                    /* dst[n] = b[n] (or zeros) + W a[k]; i8: p0 = scale of a, 0 = its absmax / 127 */
    CR_GATHER = 3,                    /* dst[i] = a[index[i]], 0 where index[i] < 0; a has k numbers */
    CR_UNARY = 4,                     /* dst[i] = fn(a[i]) */
    CR_BINARY = 5,                    /* dst[i] = fn(a[i], b[i % k]) */
    CR_REDUCE = 6,                    /* dst[i] = fn of a[i*k .. i*k+k-1] */
    CR_SOFTMAX = 7,                   /* over each group of k of n numbers */
    CR_LOG_SOFTMAX = 8,
    CR_LAYER_NORM = 9,                /* (x - mean) / sqrt(variance + p0) over each group of k of n numbers */
    CR_LSTM = 10,                     /* gates a[4n] (i, f, g, o), cell b[n] updated in place; dst[n] = o tanh(c) */
    CR_GRU = 11,                      /* a[3n] (r, z, n from x), b[3n] (from h), c[n] = h: (1-z) tanh(xn + r hn) + z h */
    CR_FLIP = 12,                     /* dst[n] at t = a at T-1-t; a is an input, or a sequence of an earlier segment */
    CR_CODE_COUNT = 13
};

enum cr_unary {
    CR_COPY, CR_SCALE_SHIFT, CR_ABS, CR_CLAMP, CR_RECIPROCAL, CR_SQRT, CR_EXP, CR_LOG, CR_ERF, CR_TANH, CR_SIGMOID,
    CR_UNARY_COUNT
};
enum cr_binary { CR_ADD, CR_SUB, CR_MUL, CR_DIV, CR_MAX, CR_MIN, CR_BINARY_COUNT };
enum cr_reduce { CR_SUM, CR_REDUCE_MAX, CR_REDUCE_MIN, CR_REDUCE_COUNT };

/* Fields that the code does not use are zero, absent operands and tensors CR_NONE with offset 0. An operand is the same
 * place as dst only where the op is element-wise (a and b of UNARY and BINARY with k = n, c of GRU, the groups of
 * SOFTMAX, LOG_SOFTMAX, LAYER_NORM) or where it is the start of a sum (b of AFFINE); else it does not overlap dst. */
typedef struct {
    uint16_t code;
    uint16_t fn;
    uint32_t n;
    uint32_t k;
    uint32_t tensor;
    cr_ref dst;
    cr_ref a;
    cr_ref b;
    cr_ref c;
    float p0;
    float p1;
    uint32_t reserved[2];
} cr_op;

/* The next op_count ops. A forward segment runs them for t = 0 .. T-1; a once segment runs them once, with t = T-1.
 * A file of one forward segment without FLIP streams, and has no sequences. Only forward segments write sequences. */
enum cr_segment_kind { CR_FORWARD = 0, CR_ONCE = 1, CR_SEGMENT_KIND_COUNT = 2 };

typedef struct {
    uint32_t kind;
    uint32_t first_op;
    uint32_t op_count;
    uint32_t reserved;
} cr_segment;

/* An input (its whole buffer; vocabulary > 0: a token, of width 1) or an output (product of the shape numbers at
 * offset). An output is collected at every step of `segment`; a final one once, after everything. */
typedef struct {
    uint32_t buffer;
    uint32_t offset;
    uint32_t vocabulary;
    uint32_t final;
    uint32_t segment;
    uint32_t rank;
    uint32_t shape[CR_MAX_RANK];
    uint32_t reserved[2];
} cr_port;

static_assert(sizeof(cr_header) == 64, "header");
static_assert(sizeof(cr_buffer) == 32, "buffer");
static_assert(sizeof(cr_tensor) == 32, "tensor");
static_assert(sizeof(cr_op) == 64, "op");
static_assert(sizeof(cr_segment) == 16, "segment");
static_assert(sizeof(cr_port) == 64, "port");

#endif
