/* The plain serial loop that benchmarks/linear_scan.py compares with: time outside, columns inside, one thread. */
#include <stddef.h>

void states(const float *a, const float *x, const float *initial, float *restrict h, ptrdiff_t steps, ptrdiff_t n)
{
    for (ptrdiff_t t = 0; t < steps; t++) {
        const float *before = t ? h + (t - 1) * n : initial;
        float *now = h + t * n;
#pragma GCC ivdep
        for (ptrdiff_t c = 0; c < n; c++) now[c] = a[t * n + c] * before[c] + x[t * n + c];
    }
}

/* `carry`, n floats, zero before, becomes the gradient of the initial state. */
void gradients(const float *a, const float *initial, const float *h, const float *dh, float *restrict da,
               float *restrict dx, float *restrict carry, ptrdiff_t steps, ptrdiff_t n)
{
    for (ptrdiff_t t = steps - 1; t >= 0; t--) {
        const float *before = t ? h + (t - 1) * n : initial;
#pragma GCC ivdep
        for (ptrdiff_t c = 0; c < n; c++) {
            float g = dh[t * n + c] + carry[c];
            dx[t * n + c] = g;
            da[t * n + c] = before[c] * g;
            carry[c] = a[t * n + c] * g;
        }
    }
}
