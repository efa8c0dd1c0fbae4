/* Single steps of model files from C, by turns: steps ROUNDS FILE... prints for each round the microseconds that a step of
 * each model takes, by the clock of the thread. For benchmarks/sparse_products.py, which compiles it with the core. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cr.h"

enum { BURST = 400 }; /* microseconds */

typedef struct {
    cr_model model;
    void *block;
    const void *inputs[CR_MAX_PORTS];
    float *outputs[CR_MAX_PORTS];
    size_t calls;
} contender;

static double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!memory) abort();
    return memory;
}

static double burst(contender *c, size_t calls)
{
    double start = microseconds();
    for (size_t i = 0; i < calls; i++)
        if (cr_step(&c->model, c->block, c->inputs, c->outputs)) abort();
    return (microseconds() - start) / (double)calls;
}

static void open_model(contender *c, const char *name)
{
    FILE *stream = fopen(name, "rb");
    if (!stream || fseek(stream, 0, SEEK_END)) exit(1);
    size_t bytes = (size_t)ftell(stream);
    void *file = allocate(bytes);
    rewind(stream);
    if (fread(file, 1, bytes, stream) != bytes) exit(1);
    fclose(stream);
    int code = cr_open(&c->model, file, bytes, NULL);
    if (code) {
        fprintf(stderr, "%s: %s\n", name, cr_error(code));
        exit(1);
    }
    if (cr_expanded_size(&c->model)) cr_expand(&c->model, allocate(cr_expanded_size(&c->model)));
    c->block = allocate(cr_block_size(&c->model));
    cr_reset(&c->model, c->block);
    for (uint32_t i = 0; i < c->model.header->input_count; i++) {
        size_t width = cr_port_width(&c->model.inputs[i]);
        float *x = allocate(4 * width);
        for (size_t j = 0; j < width; j++) x[j] = (float)(j % 13) / 13 - 0.5f;
        c->inputs[i] = x;
    }
    for (uint32_t i = 0; i < c->model.header->output_count; i++)
        c->outputs[i] = allocate(4 * cr_port_width(&c->model.outputs[i]));
}

int main(int count, char **names)
{
    if (count < 3) return 1;
    size_t models = (size_t)count - 2, rounds = (size_t)atol(names[1]);
    contender *all = calloc(models, sizeof *all);
    double *times = calloc(models, sizeof *times);
    for (size_t i = 0; i < models; i++) {
        open_model(&all[i], names[i + 2]);
        burst(&all[i], 30);
        all[i].calls = (size_t)(BURST / burst(&all[i], 30)) + 2;
    }
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < models; i++) {
            contender *c = &all[round % 2 ? models - 1 - i : i];
            burst(c, 2); /* what it reads comes back into the caches */
            times[c - all] = burst(c, c->calls);
        }
        for (size_t i = 0; i < models; i++) printf("%.4f%c", times[i], i + 1 < models ? ' ' : '\n');
    }
    return 0;
}
