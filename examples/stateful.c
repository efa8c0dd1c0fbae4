/* Run a packed model from a given state:
 *
 *     cc -std=c11 -O2 -ffp-contract=off -Inative examples/stateful.c native/cr_*.c -lm -o stateful
 *     ./stateful MODEL.crnn BUFFER < numbers
 *
 * BUFFER is the number of a state, as `compactrnn info MODEL.crnn` shows it. The numbers are those of the state, then one row
 * of the model's input for each step; each row of its output is printed, and the state at the end. */
#include <stdio.h>
#include <stdlib.h>

#include "cr.h"

static size_t lines(size_t bytes) { return (bytes + CR_LINE - 1) / CR_LINE * CR_LINE; }

static int read_row(float *row, size_t width)
{
    for (size_t i = 0; i < width; i++)
        if (scanf("%f", &row[i]) != 1) return 0;
    return 1;
}

static void print_row(const float *row, size_t width)
{
    for (size_t i = 0; i < width; i++) printf("%.9g ", row[i]);
    printf("\n");
}

static void *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) return NULL;
    long size = ftell(file);
    if (size < 0 || fseek(file, 0, SEEK_SET)) return NULL;
    *bytes = (size_t)size;
    void *memory = aligned_alloc(CR_LINE, lines(*bytes));
    if (memory && fread(memory, 1, *bytes, file) != *bytes) return NULL;
    fclose(file);
    return memory;
}

int main(int count, char **arguments)
{
    cr_model model;
    size_t bytes = 0;
    void *file = count == 3 ? read_file(arguments[1], &bytes) : NULL;
    if (!file) return fprintf(stderr, "stateful MODEL.crnn BUFFER\n"), 1;
    int code = cr_open(&model, file, bytes, NULL);
    if (code) return fprintf(stderr, "%s\n", cr_error(code)), 1;
    if (cr_is_offline(&model) || model.header->input_count != 1 || model.header->output_count != 1 || model.inputs[0].vocabulary)
        return fprintf(stderr, "expected a model that streams, with one input of numbers and one output\n"), 1;

    void *block = aligned_alloc(CR_LINE, lines(cr_block_size(&model)));
    size_t in = cr_port_width(&model.inputs[0]), out = cr_port_width(&model.outputs[0]);
    float *x = malloc(4 * in), *y = malloc(4 * out);
    if (!block || !x || !y) return 1;

    uint32_t buffer = (uint32_t)strtoul(arguments[2], NULL, 10);
    cr_reset(&model, block);
    float *h = cr_state(&model, block, buffer);
    if (!h) return fprintf(stderr, "buffer %u is no state\n", buffer), 1;
    size_t width = model.buffers[buffer].width;
    if (!read_row(h, width)) return fprintf(stderr, "expected %zu numbers of the state\n", width), 1;
    while (read_row(x, in)) {
        const void *inputs[] = {x};
        float *outputs[] = {y};
        if ((code = cr_step(&model, block, inputs, outputs))) return fprintf(stderr, "%s\n", cr_error(code)), 1;
        print_row(y, out);
    }
    print_row(h, width);
    return 0;
}
