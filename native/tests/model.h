/* What the tests of the core share: a model from a file, with memory and inputs to run it. */
#ifndef CR_TEST_MODEL_H
#define CR_TEST_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cr.h"

#define WANT(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static inline void *allocate(size_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes ? bytes : 1)) abort();
    return memory;
}

static inline unsigned char *read_file(const char *name, size_t *bytes)
{
    FILE *stream = fopen(name, "rb");
    if (!stream || fseek(stream, 0, SEEK_END)) {
        perror(name);
        exit(1);
    }
    *bytes = (size_t)ftell(stream);
    rewind(stream);
    unsigned char *file = allocate(*bytes);
    WANT(fread(file, 1, *bytes, stream) == *bytes);
    fclose(stream);
    return file;
}

/* A model with a block, and inputs and outputs for some steps. */
typedef struct {
    cr_model model;
    void *expanded;
    unsigned char *block;
    unsigned char *workspace;
    const void *inputs[CR_MAX_PORTS];
    float *outputs[CR_MAX_PORTS];
    size_t output_bytes[CR_MAX_PORTS];
    size_t steps;
} run;

/* Numbers from -2 to 2, and tokens, by a generator that is the same everywhere (tests/golden_models.py has it too). */
static inline uint32_t next_number(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}

/* Memory for the Toeplitz-like matrices of a model, computed there; to be freed. */
static inline void *expand(cr_model *model)
{
    void *memory = allocate(cr_expanded_size(model));
    if (cr_expanded_size(model)) cr_expand(model, memory);
    return memory;
}

static inline run make_run(const unsigned char *file, size_t bytes, const char *isa, size_t steps)
{
    run r = {.steps = steps};
    uint64_t state = 1;
    WANT(cr_open(&r.model, file, bytes, isa) == CR_OK);
    r.expanded = expand(&r.model);
    r.block = allocate(cr_block_size(&r.model));
    r.workspace = allocate(cr_workspace_size(&r.model, steps));
    for (uint32_t i = 0; i < r.model.header->input_count; i++) {
        const cr_port *port = &r.model.inputs[i];
        size_t count = steps * cr_port_width(port);
        float *rows = allocate(4 * count);
        int32_t *tokens = (int32_t *)(void *)rows;
        for (size_t j = 0; j < count; j++)
            if (port->vocabulary)
                tokens[j] = (int32_t)(next_number(&state) % port->vocabulary);
            else
                rows[j] = (float)(int32_t)(next_number(&state) % 4001) / 1000.0f - 2.0f;
        r.inputs[i] = rows;
    }
    for (uint32_t i = 0; i < r.model.header->output_count; i++) {
        r.output_bytes[i] = 4 * steps * cr_port_width(&r.model.outputs[i]);
        r.outputs[i] = allocate(r.output_bytes[i]);
        memset(r.outputs[i], 0, r.output_bytes[i]);
    }
    cr_reset(&r.model, r.block);
    return r;
}

static inline void free_run(run *r)
{
    for (uint32_t i = 0; i < r->model.header->input_count; i++) free((void *)r->inputs[i]);
    for (uint32_t i = 0; i < r->model.header->output_count; i++) free(r->outputs[i]);
    free(r->expanded);
    free(r->block);
    free(r->workspace);
}

/* All steps one by one, where the model streams. */
static inline void run_steps(run *r)
{
    for (size_t t = 0; t < r->steps; t++) {
        const void *inputs[CR_MAX_PORTS];
        float *outputs[CR_MAX_PORTS];
        for (uint32_t i = 0; i < r->model.header->input_count; i++)
            inputs[i] = (const float *)r->inputs[i] + t * cr_port_width(&r->model.inputs[i]);
        for (uint32_t i = 0; i < r->model.header->output_count; i++)
            outputs[i] = r->outputs[i] + t * cr_port_width(&r->model.outputs[i]);
        WANT(cr_step(&r->model, r->block, inputs, outputs) == CR_OK);
    }
}

/* What a whole sequence of so many steps returns. */
static inline int code_of_sequence(const cr_model *model, size_t steps)
{
    return steps < model->least_steps || (model->most_steps && steps > model->most_steps) ? CR_ERROR_STEPS : CR_OK;
}

/* What came out: a checksum of the outputs, and of the state where the model streams. */
static inline uint32_t checksum(const run *r)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < r->model.header->output_count; i++) {
        int rows = r->model.offline && r->model.outputs[i].final ? 1 : (int)r->steps;
        crc = cr_crc32(crc, r->outputs[i], r->output_bytes[i] / r->steps * (size_t)rows);
    }
    return r->model.offline ? crc : cr_crc32(crc, r->block, cr_state_size(&r->model));
}

#endif
