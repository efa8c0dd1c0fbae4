/* Print a checksum of what each model gives, on each instruction set of this machine: steps one by one, in runs of
 * other lengths, as a whole sequence, and with int4 matrices as they are stored.
 *
 *     golden FILE...      prints: NAME ISA CHECKSUM, or fails where two ways differ */
#include "model.h"

#include "cr_kernels.h"

enum { STEPS = 37 };

static uint32_t of_sequence(const unsigned char *file, size_t bytes, const char *isa, int as_stored)
{
    run r = make_run(file, bytes, isa, STEPS);
    if (as_stored && !r.model.vector_bytes) r.model.expanded = NULL;
    WANT(cr_run_sequence(&r.model, r.block, r.workspace, r.inputs, r.outputs, STEPS) == CR_OK);
    uint32_t crc = checksum(&r);
    free_run(&r);
    return crc;
}

static uint32_t of_steps(const unsigned char *file, size_t bytes, const char *isa)
{
    run r = make_run(file, bytes, isa, STEPS);
    run_steps(&r);
    uint32_t crc = checksum(&r);
    free_run(&r);
    return crc;
}

/* In runs of 1, 2, 3, ... steps. */
static uint32_t of_chunks(const unsigned char *file, size_t bytes, const char *isa)
{
    run r = make_run(file, bytes, isa, STEPS), part = r;
    for (size_t t = 0, length = 1; t < STEPS; t += length, length++) {
        if (length > STEPS - t) length = STEPS - t;
        for (uint32_t i = 0; i < r.model.header->input_count; i++)
            part.inputs[i] = (const float *)r.inputs[i] + t * cr_port_width(&r.model.inputs[i]);
        for (uint32_t i = 0; i < r.model.header->output_count; i++)
            part.outputs[i] = r.outputs[i] + t * cr_port_width(&r.model.outputs[i]);
        WANT(cr_run(&r.model, r.block, part.inputs, part.outputs, length) == CR_OK);
    }
    uint32_t crc = checksum(&r);
    free_run(&r);
    return crc;
}

int main(int count, char **names)
{
    for (int i = 1; i < count; i++) {
        size_t bytes;
        unsigned char *file = read_file(names[i], &bytes);
        const char *name = strrchr(names[i], '/') ? strrchr(names[i], '/') + 1 : names[i], *isa;
        for (size_t number = 0; (isa = cr_isa_name(number)); number++) {
            cr_model model;
            WANT(cr_open(&model, file, bytes, isa) == CR_OK);
            uint32_t crc = cr_is_offline(&model) ? of_sequence(file, bytes, isa, 0) : of_steps(file, bytes, isa);
            if (!cr_is_offline(&model)) WANT(of_chunks(file, bytes, isa) == crc);
            WANT(of_sequence(file, bytes, isa, 1) == crc);
            printf("%s %s %08x\n", name, isa, crc);
        }
        free(file);
    }
    return count < 2;
}
