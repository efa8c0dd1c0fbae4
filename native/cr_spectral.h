/* The product with a large Toeplitz-like matrix, by polynomials: part of cr_body.h.
 *
 * Z_1(g) u are the coefficients of g u modulo X^k - 1, Z_-1(h) x those of h x modulo X^k + 1, k a power of two. Such a
 * polynomial is taken apart into its remainders by smaller ones, until a product is one number each:
 *     X^2m - 1 = (X^m - 1)(X^m + 1)        X^2m + 1 over the reals is X^m - i over the complex numbers: the second half
 *                                          of the coefficients are the imaginary parts of the first
 *     X^2m - w^2 = (X^m - w)(X^m + w)      roots[t] are the w, t = 1 for -i, 2t and 2t + 1 below t
 * Nothing is put into another order, since the way back undoes each step. Remainders lie where the coefficients lay.
 *
 * 16 lanes are 16 pairs of vectors: those of all blocks for some j, see cr_spectra.c. */

/* `half` pairs of lanes, `half` apart: sums and differences. */
CR_INLINE void cr_split_real(float *v, size_t half)
{
    for (size_t i = 0; i < half; i++, v += LANES) {
        cr_v low = v_load(v), high = v_load(v + LANES * half);
        v_store(v, v_add(low, high));
        v_store(v + LANES * half, v_sub(low, high));
    }
}

/* Remainders of a polynomial with `half` complex coefficients modulo X^half - i; imaginary parts after real ones. */
static void cr_split(float *v, size_t half, const float *roots)
{
    float *imaginary = v + LANES * half;
    for (size_t m = half / 2, count = 1; m; m /= 2, count *= 2)
        for (size_t t = 0; t < count; t++) {
            cr_v wr = v_splat(roots[2 * (count + t)]), wi = v_splat(roots[2 * (count + t) + 1]);
            float *re = v + LANES * 2 * m * t, *im = imaginary + LANES * 2 * m * t;
            for (size_t i = 0; i < m; i++, re += LANES, im += LANES) {
                cr_v lr = v_load(re), li = v_load(im), hr = v_load(re + LANES * m), hi = v_load(im + LANES * m);
                cr_v pr = v_sub(v_mul(hr, wr), v_mul(hi, wi)), pi = v_add(v_mul(hr, wi), v_mul(hi, wr));
                v_store(re, v_add(lr, pr));
                v_store(im, v_add(li, pi));
                v_store(re + LANES * m, v_sub(lr, pr));
                v_store(im + LANES * m, v_sub(li, pi));
            }
        }
}

/* The way back, times `half`. */
static void cr_join(float *v, size_t half, const float *roots)
{
    float *imaginary = v + LANES * half;
    for (size_t m = 1, count = half / 2; count; m *= 2, count /= 2)
        for (size_t t = 0; t < count; t++) {
            cr_v wr = v_splat(roots[2 * (count + t)]), wi = v_splat(roots[2 * (count + t) + 1]);
            float *re = v + LANES * 2 * m * t, *im = imaginary + LANES * 2 * m * t;
            for (size_t i = 0; i < m; i++, re += LANES, im += LANES) {
                cr_v pr = v_load(re), pi = v_load(im), qr = v_load(re + LANES * m), qi = v_load(im + LANES * m);
                cr_v dr = v_sub(pr, qr), di = v_sub(pi, qi);
                v_store(re, v_add(pr, qr));
                v_store(im, v_add(pi, qi));
                v_store(re + LANES * m, v_add(v_mul(dr, wr), v_mul(di, wi)));
                v_store(im + LANES * m, v_sub(v_mul(di, wr), v_mul(dr, wi)));
            }
        }
}

/* One polynomial instead of 16: cr_split with its coefficients side by side. */
static void cr_split_one(float *v, size_t half, const float *roots)
{
    for (size_t m = half / 2, count = 1; m; m /= 2, count *= 2)
        for (size_t t = 0; t < count; t++) {
            float *re = v + 2 * m * t, *im = re + half;
            cr_v wr = v_splat(roots[2 * (count + t)]), wi = v_splat(roots[2 * (count + t) + 1]);
            for (size_t i = 0; i < m; i += LANES) {
                size_t left = m - i;
                cr_v lr = v_load_some(re + i, left, 0.0f), li = v_load_some(im + i, left, 0.0f);
                cr_v hr = v_load_some(re + m + i, left, 0.0f), hi = v_load_some(im + m + i, left, 0.0f);
                cr_v pr = v_sub(v_mul(hr, wr), v_mul(hi, wi)), pi = v_add(v_mul(hr, wi), v_mul(hi, wr));
                v_store_some(re + i, v_add(lr, pr), left);
                v_store_some(im + i, v_add(li, pi), left);
                v_store_some(re + m + i, v_sub(lr, pr), left);
                v_store_some(im + m + i, v_sub(li, pi), left);
            }
        }
}

/* v = remainders of x, which all lanes share, times those of `spectrum` */
static void cr_times_x(float *v, const float *spectrum, const float *x, size_t half)
{
    for (size_t i = 0; i < half; i++) {
        cr_v xr = v_splat(x[i]), xi = v_splat(x[half + i]);
        cr_v sr = v_load(spectrum + LANES * i), si = v_load(spectrum + LANES * (half + i));
        v_store(v + LANES * i, v_sub(v_mul(sr, xr), v_mul(si, xi)));
        v_store(v + LANES * (half + i), v_add(v_mul(sr, xi), v_mul(si, xr)));
    }
}

/* sum += v * spectrum, of complex remainders */
CR_INLINE void cr_add_products(float *sum, const float *v, const float *spectrum, size_t half)
{
    for (size_t i = 0; i < half; i++) {
        float *re = sum + LANES * i, *im = re + LANES * half;
        cr_v vr = v_load(v + LANES * i), vi = v_load(v + LANES * (half + i));
        cr_v sr = v_load(spectrum + LANES * i), si = v_load(spectrum + LANES * (half + i));
        v_store(re, v_add(v_load(re), v_sub(v_mul(sr, vr), v_mul(si, vi))));
        v_store(im, v_add(v_load(im), v_add(v_mul(sr, vi), v_mul(si, vr))));
    }
}

/* sum += v * spectrum, of a polynomial modulo X^k - 1: two real remainders, then those of X^2 + 1, X^4 + 1, ... */
static void cr_add_spectrum(float *sum, const float *v, const float *spectrum, size_t k)
{
    for (size_t i = 0; i < 2; i++) {
        float *to = sum + LANES * i;
        v_store(to, v_add(v_load(to), v_mul(v_load(v + LANES * i), v_load(spectrum + LANES * i))));
    }
    for (size_t at = 2; at < k; at *= 2) cr_add_products(sum + LANES * at, v + LANES * at, spectrum + LANES * at, at / 2);
}

static void cr_split_whole(float *v, size_t k, const float *roots)
{
    for (size_t half = k / 2; half; half /= 2) {
        cr_split_real(v, half);
        if (half > 1) cr_split(v + LANES * half, half / 2, roots);
    }
}

static void cr_join_whole(float *v, size_t k, const float *roots)
{
    for (size_t half = 1; half < k; half *= 2) {
        if (half > 1) cr_join(v + LANES * half, half / 2, roots);
        cr_split_real(v, half);
    }
}

/* The lanes of each block, added up, to its rows. */
static void cr_write_blocks(float *dst, const cr_spectra *m, const float *sum, size_t first)
{
    for (size_t i = 0; i < m->k; i++) {
        float lanes[2 * LANES] = {0};
        cr_v x = v_load(sum + LANES * i);
        for (size_t apart = LANES / 2; apart >= m->beside; apart /= 2) {
            v_store(lanes, x);
            x = v_add(x, v_load(lanes + apart));
        }
        v_store(lanes, x);
        for (size_t b = 0; b < m->beside && first + b < m->gates * m->of_gate; b++) {
            size_t gate = (first + b) / m->of_gate, unit = (first + b) % m->of_gate * m->k + i;
            size_t row = m->interleaved ? (unit / LANES * m->gates + gate) * LANES + unit % LANES : gate * m->units + unit;
            if (unit < m->units) dst[row] = lanes[b];
        }
    }
}

static void cr_spectral(float *dst, const cr_spectra *m, const float *x, float *work)
{
    size_t k = m->k, blocks = m->gates * m->of_gate;
    float *spectrum = work, *v = work + k, *sum = v + LANES * k;
    const float *roots = m->numbers, *second = roots + k, *first = second + LANES * k * m->count;
    memcpy(spectrum, x, k * sizeof *x);
    cr_split_one(spectrum, k / 2, roots);
    for (size_t block = 0; block < blocks; block += m->beside) {
        memset(sum, 0, LANES * k * sizeof *sum);
        for (size_t g = 0; g < m->groups; g++, second += LANES * k, first += LANES * k) {
            cr_times_x(v, second, spectrum, k / 2);
            cr_join(v, k / 2, roots);
            cr_split_whole(v, k, roots);
            cr_add_spectrum(sum, v, first, k);
        }
        cr_join_whole(sum, k, roots);
        cr_write_blocks(dst, m, sum, block);
    }
}
