// Rounding of a row of a matrix to int8, or to int4 in groups; runtime/rounding.py says by what rule.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cr_format.h"
#include "cr_inline.h"

namespace {

constexpr double NOTHING = 1e-34;  // a row whose numbers are all smaller is one of zeros

// The nearest whole number, of two the even one: |x| < 2^51.
CR_INLINE double nearest(double x) { return (x + 6755399441055744.0) - 6755399441055744.0; }

CR_INLINE double between(double low, double x, double high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

template <class T> bool is_finite(const T *values, size_t n) {
    double zero = 0;
    for (size_t i = 0; i < n; i++) zero += static_cast<double>(values[i]) * 0;
    return zero == 0;
}

template <class T> double largest_of(const T *values, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = std::max(largest, std::fabs(static_cast<double>(values[i])));
    return largest;
}

template <class T> void round_row(const T *values, size_t n, int8_t *entries, float *scale) {
    double largest = largest_of(values, n);
    *scale = largest < NOTHING ? 1.0f : static_cast<float>(largest / 127);
    double step = *scale;
    for (size_t i = 0; i < n; i++) {
        entries[i] = static_cast<int8_t>(between(-127, nearest(static_cast<double>(values[i]) / step), 127));
    }
}

// What rounding to multiples of `step` costs a group, n <= 64 numbers: the sum of squared errors, in eight sums.
CR_INLINE double squared_error(const double *values, size_t n, double step) {
    double sums[8] = {0};
    for (size_t i = 0; i < n; i += 8)
        for (size_t j = 0; j < 8; j++) {
            double error = between(-8, nearest(values[i + j] / step), 7) * step - values[i + j];
            sums[j] += error * error;
        }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// The same of a group in units of 1, to about five digits.
CR_INLINE float about_squared_error(const float *values, size_t n, float step) {
    float sums[16] = {0}, inverse = 1 / step, total = 0;
    for (size_t i = 0; i < n; i += 16)
        for (size_t j = 0; j < 16; j++) {
            float whole = (values[i + j] * inverse + 12582912.0f) - 12582912.0f;
            whole = whole < -8 ? -8 : whole;
            whole = whole > 7 ? 7 : whole;
            float error = whole * step - values[i + j];
            sums[j] += error * error;
        }
    for (float sum : sums) total += sum;
    return total;
}

constexpr size_t MOST_SCALES = 16;

// Rounds a group, padded with zeros, with that of the multiples `wholes` of `unit` that is best, of equal ones the first,
// and returns it: those that are about as good as the best are compared in float64. Without any, the group is of zeros.
// Vectors of any width give the same bits.
CR_INLINE double round_group_by_lanes(const double *values, size_t n, double unit, const double *wholes, size_t count,
                                      int8_t *entries) {
    float scaled[CR_GROUP], about[MOST_SCALES], fewest = INFINITY;
    double inverse = 1 / unit;
    for (size_t i = 0; i < CR_GROUP; i++) scaled[i] = static_cast<float>(values[i] * inverse);
    for (size_t c = 0; c < count; c++) {
        about[c] = about_squared_error(scaled, n, static_cast<float>(wholes[c]));
        fewest = about[c] < fewest ? about[c] : fewest;
    }
    double best = 0, least = INFINITY;
    for (size_t c = 0; c < count; c++) {
        auto whole = static_cast<float>(wholes[c]);
        if (about[c] > fewest * 1.0001f + 64e-5f * whole * whole) continue;
        double error = squared_error(values, n, wholes[c] * unit);
        if (error < least) best = wholes[c], least = error;
    }
    double step = best > 0 ? best * unit : 1;
    for (size_t i = 0; i < CR_GROUP; i++) entries[i] = static_cast<int8_t>(between(-8, nearest(values[i] / step), 7));
    return best;
}

using RoundGroup = double(const double *values, size_t n, double unit, const double *wholes, size_t count, int8_t *entries);

#define DEFINE_ROUND_GROUP(name, attribute)                                                                           \
    attribute inline double name(const double *values, size_t n, double unit, const double *wholes, size_t count,     \
                                 int8_t *entries) {                                                                   \
        return round_group_by_lanes(values, n, unit, wholes, count, entries);                                         \
    }

DEFINE_ROUND_GROUP(round_group_plain, )
#if defined(__x86_64__) && defined(__GNUC__)
DEFINE_ROUND_GROUP(round_group_avx2, __attribute__((target("avx2"))))
DEFINE_ROUND_GROUP(round_group_avx512, __attribute__((target("avx512f,prefer-vector-width=512"))))

inline RoundGroup *find_round_group() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") ? round_group_avx512
           : __builtin_cpu_supports("avx2")  ? round_group_avx2
                                             : round_group_plain;
}
#else
inline RoundGroup *find_round_group() { return round_group_plain; }
#endif

template <class T>
void round_groups_of_row(const T *values, size_t n, double top, const double *clips, size_t count, int8_t *entries,
                         float *scale, uint8_t *group_scale) {
    double most = largest_of(values, n);
    *scale = most < NOTHING ? 1.0f : static_cast<float>(most * clips[count - 1] / 7 / top);
    double unit = *scale;
    static RoundGroup *const round_group = find_round_group();
    for (size_t first = 0; first < n; first += CR_GROUP, entries += CR_GROUP, values += CR_GROUP) {
        size_t size = std::min<size_t>(n - first, CR_GROUP);
        double group[CR_GROUP] = {0}, largest = 0;
        for (size_t i = 0; i < size; i++) group[i] = static_cast<double>(values[i]);
        for (size_t i = 0; i < size; i++) largest = std::max(largest, std::fabs(group[i]));
        double wholes[MOST_SCALES];
        size_t different = 0;
        for (size_t c = 0; c < count && largest > 0; c++) {
            double whole = between(1, nearest(largest * clips[c] / 7 / unit), top);
            if (!different || whole != wholes[different - 1]) wholes[different++] = whole;
        }
        int8_t rounded[CR_GROUP];
        double best = round_group(group, size, unit, wholes, different, rounded);
        std::copy_n(rounded, size, entries);
        *group_scale++ = static_cast<uint8_t>(best);
    }
}

}  // namespace
