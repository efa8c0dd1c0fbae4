/* compactrnn: runs a packed recurrent model. Plain C11, no dependencies, no allocation, no I/O.
 *
 *     cr_model model;
 *     int code = cr_open(&model, file, file_bytes, NULL);          // file: 64-byte aligned, kept by the caller
 *     if (cr_expanded_size(&model)) cr_expand(&model, aligned_alloc(64, cr_expanded_size(&model)));
 *     void *block = aligned_alloc(64, cr_block_size(&model));      // one per stream: plain memory, memcpy copies it
 *     cr_reset(&model, block);
 *     code = cr_step(&model, block, inputs, outputs);              // as often as you like
 *
 * Numbers: the same file and inputs give the same outputs, bit for bit, on every instruction set, if the library is compiled
 * with arithmetic as IEEE 754 has it: no -ffast-math, no contraction of a * b + c (-ffp-contract=off), no extended precision
 * (on 32-bit x86: -msse2 -mfpmath=sse). What a macro shows of that is an error when compiling; the rest is CR_ERROR_ARITHMETIC
 * from cr_open. Rounding to nearest and the flushing of subnormal numbers to zero are set while the core runs, and restored,
 * on x86 and 64-bit Arm. Elsewhere (WebAssembly, 32-bit Arm, RISC-V) it runs in the mode that it finds: there rounding to
 * nearest is the caller's to keep, and results in which subnormal numbers occur (below 1.2e-38) may differ in them.
 *
 * Memory: a file may ask for much more than its own size. cr_expanded_size, cr_block_size and cr_workspace_size say how much,
 * and cr_step_work how long a step takes, before anything is allocated or run: refuse what is beyond your limits. */
#ifndef CR_H
#define CR_H

#include <stddef.h>
#include <stdint.h>

#include "cr_format.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cr_code_of_error {
    CR_OK = 0,
    CR_ERROR_ALIGNMENT,      /* the file does not start at a multiple of 64 in memory */
    CR_ERROR_TRUNCATED,      /* shorter than its header says, or than a header */
    CR_ERROR_MAGIC,          /* not a model file */
    CR_ERROR_VERSION,        /* of a version that this library does not read */
    CR_ERROR_FEATURE,        /* needs a feature that this library does not have */
    CR_ERROR_CHECKSUM,       /* header or body damaged */
    CR_ERROR_LIMIT,          /* a count or a size beyond the limits of cr_format.h */
    CR_ERROR_LAYOUT,         /* a place that is not the implied one, trailing bytes, non-zero padding or reserved */
    CR_ERROR_ENUM,           /* an unknown kind, type, code or function */
    CR_ERROR_REFERENCE,      /* an operand outside its buffer, or a buffer, tensor or segment that does not exist */
    CR_ERROR_ACCESS,         /* a write where none is allowed, or what a later segment makes is read */
    CR_ERROR_UNWRITTEN,      /* numbers of a scratch or a sequence that are read before they are written */
    CR_ERROR_OVERLAP,        /* operands that overlap where they must not */
    CR_ERROR_SHAPE,          /* sizes of an op that contradict each other or its tensor */
    CR_ERROR_VALUE,          /* a scale, a parameter, a weight or an index out of range */
    CR_ERROR_ISA,            /* unknown kernels, or ones that this processor lacks */
    CR_ERROR_TOKEN,          /* an input token outside its vocabulary; nothing was run */
    CR_ERROR_OFFLINE,        /* the model needs whole sequences: cr_run_sequence */
    CR_ERROR_ARITHMETIC,     /* the library was compiled so that it rounds differently */
    CR_ERROR_EXPAND,         /* the model has matrices made of vectors, and cr_expand has not been called */
    CR_ERROR_STEPS,          /* the model does not take sequences of so few or so many steps; nothing was run */
    CR_ERROR_COUNT
};

/* A verified file. Immutable, once expanded: share it between threads. */
typedef struct cr_model {
    const unsigned char *file;
    const cr_header *header;
    const cr_buffer *buffers;
    const cr_tensor *tensors;
    const cr_op *ops;
    const cr_segment *segments;
    const cr_port *inputs;
    const cr_port *outputs;
    const unsigned char *metadata;
    const struct cr_kernels *kernels;
    size_t state_bytes;      /* the first part of the block: all that persists from step to step */
    size_t block_bytes;
    size_t row_bytes;        /* of all sequences, per step */
    size_t rows;             /* where the block's rows of sequences start: `chunk` of them, unless offline */
    size_t workspace;        /* where the block's work space starts */
    size_t chunk;            /* steps that run together, segment by segment */
    size_t vector_bytes;     /* of matrices made of vectors and, as the last part, of what cr_expand itself works on */
    size_t scratch_bytes;
    size_t expanded_bytes;   /* of these and of unpacked int4 matrices */
    const unsigned char *expanded;
    int offline;             /* needs whole sequences */
    uint32_t least_steps;    /* of a whole sequence, >= 1 */
    uint32_t most_steps;     /* 0: any number */
    uint32_t fault;          /* after an error in an op: its number; in an output: op_count + its number; else CR_NONE */
} cr_model;

/* Verify `bytes` bytes at `file` and bind `model` to them; `isa` names the kernels, NULL = the best.
 * Reads nothing else, writes `model` only. The file must stay where it is, unchanged. */
int cr_open(cr_model *model, const void *file, size_t bytes, const char *isa);

/* Where matrices are not multiplied with as they are stored, cr_expanded_size is not 0: cr_expand then computes them, before
 * the first run, in so many bytes of memory at a multiple of 64, which must stay there, unchanged, as long as the model is
 * used. These are Toeplitz-like, circulant and hashed matrices, which are stored as a few vectors: for each of their numbers
 * it takes 2 * rank operations, or one. And with some kernels the int4 matrices of small files, which get a byte for each
 * entry: a model that has only these runs without cr_expand, too, with the same results, but slower. */
size_t cr_expanded_size(const cr_model *model);
void cr_expand(cr_model *model, void *memory);

/* What an error code means: a static string. */
const char *cr_error(int code);

/* The name of the kernels in use. */
const char *cr_isa(const cr_model *model);

/* Bytes of a stream's block, which starts at a multiple of 64, and of the part of it that persists. */
size_t cr_block_size(const cr_model *model);
size_t cr_state_size(const cr_model *model);

/* What a step costs, known before anything runs: multiplications of its products, and numbers that other ops handle. ATTEND
 * counts once, as if a sequence had one step: it takes so many times that as the sequence has steps. */
uint64_t cr_step_work(const cr_model *model);

/* Whether the model needs whole sequences. */
int cr_is_offline(const cr_model *model);

/* Reset the stream: states as the file says, everything else zero. */
void cr_reset(const cr_model *model, void *block);

/* Where the numbers of a state are in the block, to be read and set between steps: model->buffers[buffer].width of them, NULL
 * if that buffer is no state. Names of states and their buffers stand in the JSON section, "states"; one that is "bounded"
 * there must be set to numbers from -1 to 1. */
float *cr_state(const cr_model *model, void *block, uint32_t buffer);

/* `steps` time steps. inputs[i]: steps rows of float, or steps int32_t tokens; outputs[o]: steps rows of float, which do
 * not overlap the inputs or each other. Bit for bit the same as so many single steps. A NaN in the outputs is always the same NaN.
 * Returns CR_OK, or CR_ERROR_TOKEN, CR_ERROR_OFFLINE or CR_ERROR_EXPAND and nothing was run. */
int cr_run(const cr_model *model, void *block, const void *const *inputs, float *const *outputs, size_t steps);
int cr_step(const cr_model *model, void *block, const void *const *inputs, float *const *outputs);

/* Rows of an output that cr_run_sequence writes: 1 of a final one, of others `steps`, or fewer, where the model leaves
 * some out at the ends. */
size_t cr_output_rows(const cr_model *model, uint32_t output, size_t steps);

/* A whole sequence of model->least_steps to model->most_steps, from the initial state: any model. outputs[o]: cr_output_rows
 * rows. Returns CR_OK, or CR_ERROR_TOKEN, CR_ERROR_STEPS or CR_ERROR_EXPAND and nothing was run.
 * `workspace`: cr_workspace_size bytes at a multiple of 64; that size is SIZE_MAX where it does not fit. */
size_t cr_workspace_size(const cr_model *model, size_t steps);
int cr_run_sequence(const cr_model *model, void *block, void *workspace, const void *const *inputs,
                    float *const *outputs, size_t steps);

/* Numbers of one row of a port. */
size_t cr_port_width(const cr_port *port);

/* zlib's CRC-32 of `bytes` bytes; `crc`: that of what came before, or 0. */
uint32_t cr_crc32(uint32_t crc, const void *data, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
