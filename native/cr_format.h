/* The model file, version 4: the specification of the format, in C. A file of another version is refused: pack the model
 * again.
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

#include "cr_operations.h"

#define CR_MAGIC "\x89" "CRNN\r\n\x1a"
#define CR_VERSION 4u
#define CR_KNOWN_FEATURES 1u          /* a feature bit that the reader does not know is an error */
#define CR_FEATURE_STEPS 1u           /* `most_steps`, `least` or `fewer` is not 0 */
#define CR_LINE 64u                   /* bytes: the alignment of everything */
#define CR_LANES 16u                  /* rows of a panel, units of a block of gates */
#define CR_MAX_BLOCK_PANELS 4u        /* panels that lie line by line beside each other */
#define CR_GROUP 64u                  /* columns of an i4 matrix that share a scale */
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
#define CR_MAX_LOOKS (1u << 28)       /* at ops, to verify that nothing is read before it is written, and at indices */
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
    uint32_t most_steps;              /* of a whole sequence; 0: any number */
} cr_header;

enum cr_kind {
    CR_SCRATCH = 0,                   /* valid within a step; read by a later segment: what the last step wrote */
    CR_STATE = 1,                     /* persists from step to step; the first segment that uses it alone writes it */
    CR_CONSTANT = 2,                  /* in the file, never written */
    CR_INPUT = 3,                     /* the row that the caller gives, never written by an op */
    CR_SEQUENCE = 4,                  /* one row for every step */
    CR_KIND_COUNT = 5
};

/* `place`, in bytes: of a constant its `data` in the file; of a sequence its column in the row of all sequences; of the
 * others in the stream's block, where all states come first, then all inputs, then all scratch, each in the order of
 * the buffers. `init`: the place of the initial values in the file; 0 for a state that starts as zeros, and for other
 * kinds. `segment`: of a sequence, the one segment that writes it; of an input, the number of its port; of a scratch or
 * a state, the first segment that uses it; of a constant 0. */
typedef struct {
    uint32_t kind;
    uint32_t width;                   /* in numbers, >= 1 */
    uint32_t segment;
    uint32_t reserved;                /* reserved fields are zero, everywhere */
    uint64_t place;
    uint64_t init;
} cr_buffer;

/* A matrix lies in panels of 16 rows, and a panel in 64-byte lines; `block` neighboring panels (the last block may have
 * fewer) lie line by line beside each other, so that one sweep over memory feeds all of them:
 *     for each block: for each line j: for each panel of the block: 64 bytes
 *     f32: line j holds column j of the 16 rows
 *     i8:  line j holds columns 4j .. 4j+3 of row 0, of row 1, ...
 *     i4:  line j holds columns 8j .. 8j+7: byte 4r + b has column 8j + b of row r in its low half and column 8j + 4 + b
 *          in its high half, each as entry + 8. After the last line of each group of 64 columns comes one line more:
 *          byte 16p + r is the scale, a whole number, of row r of panel p in this group; the rest of it is zero.
 * Entries of rows and columns that are only padding are zero, and so are the group scales of such rows.
 * Scales of rows follow: one float32 for each, finite, positive and normal. After those of an i8 matrix comes, at the next
 * line, one int32 for each row: the sum of its entries. No entry of an i8 matrix is -128. In each row of an i4 matrix
 * the group scales add up to at most CR_MAX_GROUP_SCALES, so that no sum of products leaves 32 bits.
 * The matrix of a CR_LSTM or CR_GRU is of blocks of 4 or 3 panels: the gates of 16 units. A table lies row after row,
 * unpadded; a CR_TABLE_I8 has a scale for each row too. CR_EMBED takes a row of a table, or of a matrix in panels that are all
 * stored (f32, i8, i4), such as one that a product reads, too. */
/* A sparse matrix lies in the same panels and lines, of which only some are stored; all entries of the others are zero. At
 * `place` comes for each panel the number of its first stored line, uint32, and after those of the panels the number of all
 * stored lines; at the next line a uint16 for each stored line: its j, ascending within a panel; at the next line the
 * stored lines, 64 bytes each, panel after panel; scales and sums as above. `block` panels are multiplied side by side.
 *
 * Of a matrix of single entries, of at most CR_MAX_COLUMNS rows, at `place` comes for each column the number of its first
 * entry, uint32, and after those of the columns the number of all entries; at the next line a uint16 for each entry: its row,
 * ascending within a column; at the next line the entries, float32 or int8, column after column; scales as above. It serves
 * AFFINE alone, and has no `block`. */
/* What DELTA multiplies with is read column by column: a CR_MATRIX_F32, or a CR_COLUMNS_I8. This one lies in blocks of 64 rows,
 * the last filled up with zeros; a block has a line for each column: byte 16q + 4p + r of it is row 16p + 4q + r of the block.
 * Scales as above; its `block` is CR_MAX_BLOCK_PANELS. */
#define CR_DELTA_PERIOD 64u           /* steps from one time that DELTA begins a float32 sum from zero to the next */
#define CR_MAX_GROUP_SCALES 33026u    /* 2^31 / (64 * 8 * 127) */
enum cr_type {
    CR_MATRIX_F32 = 0,
    CR_MATRIX_I8 = 1,
    CR_MATRIX_I4 = 2,
    CR_TABLE_F32 = 3,
    CR_TABLE_F16 = 4,
    CR_TABLE_I8 = 5,
    CR_INDEX = 6,                     /* int32, columns = 1 */
    CR_TOEPLITZ_F32 = 7,              /* a float32 matrix that is made of vectors: of Toeplitz-like blocks, or by another rule */
    CR_SPARSE_F32 = 8,
    CR_SPARSE_I8 = 9,
    CR_ENTRIES_F32 = 10,
    CR_ENTRIES_I8 = 11,
    CR_COLUMNS_I8 = 12,
    CR_RUNS = 13,                     /* an index as a cr_index_run for each row, columns = 1 */
    CR_REPEATS = 14,                  /* an index as blocks: a cr_index_block, then a cr_index_repeat for each run, each a row; columns = 1 */
    CR_TYPE_COUNT = 15
};

/* `count` positions of an index, the first and others `step` after each other; or -1 as often, and no step. */
typedef struct {
    int32_t first;
    int16_t step;
    uint16_t count;
} cr_index_run;

/* The next `runs` rows are runs that come `times` times one after the other, the positions of each by its own `shift` further
 * every time. What is -1, or comes once, has no shift. */
typedef struct {
    uint32_t times;
    uint32_t runs;
    uint32_t reserved;
} cr_index_block;

typedef struct {
    int32_t first;
    int32_t shift;
    int16_t step;
    uint16_t count;
} cr_index_repeat;

typedef struct {
    uint32_t type;
    uint32_t rows;
    uint32_t columns;
    uint32_t block;                   /* panels of a block, of a matrix that has panels; else 0 */
    uint64_t place;
    uint64_t scale;                   /* the place of the scales; 0 where there are none; see cr_toeplitz */
} cr_tensor;

/* What comes before the vectors of a CR_TOEPLITZ_F32 with k columns. Its rows are those of `gates` gates with `units` rows
 * each, one after the other, or interleaved as gates lie: then they are gates * P rows. Each gate is ceil(units / k) blocks
 * below each other, the last cut off at its units; a block is a k x k matrix of displacement rank `rank`,
 *     sum over j of Z_1(g_j) Z_-1(h_j)
 * where Z_1(v) and Z_-1(v) are the circulant and the skew-circulant matrix with the first column v. The vectors are float32
 * numbers of CR_MAX_VECTOR at most: of all blocks the g_j, each k numbers, then of all blocks the h_j.
 *
 * Other rules have no `rank`, and `size` numbers for each vector. With them a row of `gates` gates is a unit as above.
 *   CR_RULE_CIRCULANT: `size` divides k. A gate is ceil(units / size) times k / size circulant blocks of `size` rows and
 *     columns, the last ones cut off below; stored is the first column of each, row of blocks after row of blocks.
 *   CR_RULE_HASHED: with h = cr_mix(i k + j), an entry (i, j) of a gate is number (h >> 1) mod `size` of the gate's vector,
 *     or minus that where h is odd. `size` is not more than a gate has entries.
 *
 * cr_expand computes the panels of the matrix, laid out with `block` as those of a CR_MATRIX_F32, in memory of the
 * caller's. There `scale` is their place; they lie one after the other, in the order of the tensors. */
#define CR_MAX_VECTOR 1e10f           /* so that no product with finite numbers of ordinary size overflows */
enum cr_made_by {
    CR_RULE_TOEPLITZ = 0,
    CR_RULE_CIRCULANT = 1,
    CR_RULE_HASHED = 2
};

typedef struct {
    uint32_t rank;                    /* from 1 to k */
    uint32_t gates;
    uint32_t units;
    uint32_t interleaved;             /* 0 or 1 */
    uint32_t rule;
    uint32_t size;                    /* 0 of Toeplitz-like blocks */
    uint32_t reserved[10];
} cr_toeplitz;

typedef struct {
    uint32_t buffer;
    uint32_t offset;                  /* in numbers */
} cr_ref;

/* What operations there are, with their operands and functions: cr_operations.h; what each computes: docs/operations.md.
 *
 * Gates lie in blocks of 16 units: 16 numbers of the first gate, 16 of the second, ..., then the next 16 units. P stands
 * for n rounded up to a multiple of 16: there are 4P or 3P gates, and as many rows in the matrices that make them. What
 * is computed for units beyond n goes nowhere.
 *
 * Every number of a scratch or a sequence that an op or an output reads has been written by an op before it, in its own or
 * an earlier segment. */

/* Fields that the code does not use are zero, absent operands and tensors CR_NONE with offset 0. An operand is the same
 * place as dst only where cr_operations.h says so: else it does not overlap dst. */
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
    cr_ref d;
} cr_op;

/* The next op_count ops. A forward segment runs them for t = 0 .. T-1; a once segment runs them once, with t = T-1.
 * Only forward segments write sequences. A file streams if all its segments are forward, no op reads other steps (CR_ALL_STEPS),
 * and each scratch and state is used, by ops and outputs, in its own `segment` alone: then it may run in chunks of steps, segment
 * by segment, and a segment of one AFFINE reads its matrix once for several steps. Any other file needs whole sequences. */
enum cr_segment_kind { CR_FORWARD = 0, CR_ONCE = 1, CR_SEGMENT_KIND_COUNT = 2 };

typedef struct {
    uint32_t kind;
    uint32_t first_op;
    uint32_t op_count;
    uint32_t reserved;
} cr_segment;

/* An input (its whole buffer; vocabulary > 0: a token, of width 1) or an output (product of the shape numbers at
 * offset). An output is collected at every step of `segment`; a final one once, after everything. An output may need a whole
 * sequence of at least `least` steps, and have `fewer` rows than that has steps: the last ones are not there. Only an output
 * that is not final, of a file that needs whole sequences, has fewer rows, and its `least` is more. */
typedef struct {
    uint32_t buffer;
    uint32_t offset;
    uint32_t vocabulary;
    uint32_t final;
    uint32_t segment;
    uint32_t rank;
    uint32_t shape[CR_MAX_RANK];
    uint32_t least;
    uint32_t fewer;
} cr_port;

static_assert(sizeof(cr_header) == 64, "header");
static_assert(sizeof(cr_buffer) == 32, "buffer");
static_assert(sizeof(cr_tensor) == 32, "tensor");
static_assert(sizeof(cr_toeplitz) == 64, "toeplitz");
static_assert(sizeof(cr_index_run) == 8, "run");
static_assert(sizeof(cr_index_block) == 12 && sizeof(cr_index_repeat) == 12, "repeat");
static_assert(sizeof(cr_op) == 64, "op");
static_assert(sizeof(cr_segment) == 16, "segment");
static_assert(sizeof(cr_port) == 64, "port");

#endif
