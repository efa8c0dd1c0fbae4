/* Single kernels under the read rate, for whoever changes them: microseconds, medians of 41 turns.
 *
 *     cc -O2 -ffp-contract=off -Inative benchmarks/kernels.c native/cr_*.c -lm -o kernels && taskset -c 0 ./kernels [ISA]
 *
 * `read` is a plain read of as many bytes; each matrix stays in whatever cache holds it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cr_format.h"
#include "cr_kernels.h"

enum { TURNS = 41, LARGEST = 64 << 20, WIDTH = 1 << 14 };

static double seconds(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { READ, AFFINE, LSTM, GRU, KINDS };

static size_t matrix_bytes(uint32_t type, size_t panels, size_t columns, size_t block)
{
    if (type == CR_MATRIX_F32) return panels * 64 * columns;
    if (type == CR_MATRIX_I8) return panels * 64 * ((columns + 3) / 4);
    if (type == CR_UNPACKED_I4) return panels * 64 * ((columns + 3) / 4 + 2 * ((columns + 63) / 64));
    return panels * 64 * ((columns + 7) / 8) + (panels + block - 1) / block * 64 * ((columns + 63) / 64);
}

int main(int count, char **names)
{
    static const struct {
        uint32_t type;
        const char *name;
    } types[] = {{CR_MATRIX_F32, "float32"}, {CR_MATRIX_I8, "int8"}, {CR_MATRIX_I4, "int4"}, {CR_UNPACKED_I4, "unpacked"}};
    static const size_t sizes[][2] = {{64, 64}, {128, 40}, {128, 128}, {256, 256}, {400, 400}, {384, 1504}, {1504, 1504}};
    static float x[WIDTH], gates[WIDTH], cell[WIDTH], h[WIDTH];
    const cr_kernels *kernels = cr_find_kernels(count > 1 ? names[1] : NULL);
    if (!kernels) {
        fprintf(stderr, "%s: got kernels that this processor lacks\n", names[1]);
        return 1;
    }
    char *lines = aligned_alloc(64, LARGEST), *quantized = aligned_alloc(64, CR_QUANTIZED_BYTES(WIDTH));
    float *scale = aligned_alloc(64, sizeof(float) * WIDTH);
    int32_t *sums = aligned_alloc(64, sizeof(int32_t) * WIDTH);
    memset(lines, 0, LARGEST);
    memset(sums, 0, sizeof(int32_t) * WIDTH);
    for (size_t i = 0; i < WIDTH; i++) scale[i] = 1e-3f, x[i] = (float)(i % 13) / 13 - 0.5f, gates[i] = 0.1f;
    printf("%s: type, units, inputs, bytes: read, affine (GB/s), lstm (ns a unit beyond read), gru of 3/4 the bytes\n",
           kernels->name);
    for (size_t number = 0; number < sizeof types / sizeof *types; number++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            uint32_t type = types[number].type;
            if (!kernels->affine[type]) continue;
            size_t n = sizes[s][0], k = sizes[s][1], bytes = matrix_bytes(type, n / 4, k, 4) / 256 * 256;
            cr_matrix four = {lines, scale, sums, 4 * n, k, 4}, three = {lines, scale, sums, 3 * n, k, 3};
            size_t calls = 2000000 / bytes + 1;
            double times[KINDS][TURNS];
            const void *in = type == CR_MATRIX_F32 ? (const void *)x : quantized;
            kernels->quantize(quantized, x, 1 / 127.0f, k);
            for (int turn = 0; turn < TURNS; turn++)
                for (int kind = 0; kind < KINDS; kind++) {
                    volatile uint32_t sink = 0;
                    double start = seconds();
                    for (size_t call = 0; call < calls; call++) {
                        if (kind == READ) sink += kernels->read(lines, bytes);
                        if (kind == AFFINE)
                            kernels->affine[type]((cr_rows){h, 0}, &four, (cr_rows){(void *)(uintptr_t)in, 0},
                                                  (cr_rows){NULL, 0}, 1);
                        if (kind == LSTM) kernels->lstm[type](h, &four, in, gates, cell, n, 0);
                        if (kind == GRU) kernels->gru[type](h, &three, in, gates, gates, cell, n, 0);
                    }
                    times[kind][turn] = (seconds() - start) / (double)calls * 1e6;
                }
            double t[KINDS];
            for (int kind = 0; kind < KINDS; kind++) {
                qsort(times[kind], TURNS, sizeof(double), compare);
                t[kind] = times[kind][TURNS / 2];
            }
            printf("%8s %5zu %5zu %9zu: %8.2f, %8.2f (%5.1f), %8.2f (%.1f), %8.2f\n", types[number].name, n, k, bytes, t[READ],
                   t[AFFINE], (double)bytes / t[AFFINE] / 1e3, t[LSTM], (t[LSTM] - t[READ]) / (double)n * 1e3, t[GRU]);
        }
    free(lines);
    free(quantized);
    free(scale);
    free(sums);
    return 0;
}
