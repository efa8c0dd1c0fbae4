/* Nothing is read before it is written: what a step finds in scratch would else depend on the step before, a state that no
 * copy of the stream has. */
#include "cr_load.h"

/* The ops that may write a buffer, before op `end`. */
typedef struct {
    uint32_t first;
    uint32_t end;
} cr_writers;

static cr_writers cr_find_writers(const cr_model *model, const cr_buffer *buffer, uint32_t end)
{
    const cr_segment *segment = &model->segments[buffer->segment];
    uint32_t after = segment->first_op + segment->op_count;
    return (cr_writers){segment->first_op, buffer->kind == CR_SEQUENCE && after < end ? after : end};
}

int cr_check_written(const cr_model *model, uint32_t end, cr_ref ref, uint64_t width, uint64_t *looks)
{
    const cr_buffer *buffer = &model->buffers[ref.buffer];
    if (buffer->kind != CR_SCRATCH && buffer->kind != CR_SEQUENCE) return CR_OK; /* states have an initial value */
    cr_writers writers = cr_find_writers(model, buffer, end);
    uint64_t low = ref.offset, high = low + width; /* what is not yet found to be written */
    while (low < high) {
        uint64_t left = high - low;
        for (uint32_t i = writers.end; i > writers.first && low < high; i--) {
            const cr_op *op = &model->ops[i - 1];
            if (!*looks) return CR_ERROR_LIMIT;
            --*looks;
            if (op->dst.buffer != ref.buffer) continue;
            uint64_t from = op->dst.offset, to = from + cr_written_width(op);
            if (from <= low && low < to) low = to;
            if (from < high && high <= to) high = from;
        }
        if (low < high && high - low == left) return CR_ERROR_UNWRITTEN;
    }
    return CR_OK;
}
