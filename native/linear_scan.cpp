// Linear recurrences y_t = a_t * y_(t-1) + x_t over columns of float32, forward in time or back, and their gradient;
// see layers/linear_recurrence.py, the only caller, which has checked all sizes.
//
// Columns do not know each other: they are vectors, and threads share them out. Where there are too few of them, threads
// share the time: each but the first sums its chunk up as y -> product * y + local, the first computes what it gives
// meanwhile, then every chunk knows where it starts.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "parallel.h"

#if defined(__clang__)
#define SCAN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SCAN_UNROLL _Pragma("GCC unroll 16")
#endif
#define SCAN_INLINE __attribute__((always_inline)) inline

namespace nb = nanobind;

namespace {

// Row t of an array lies `t * step` floats after its pointer, in the order in which the recurrence runs.
struct Rows {
    const float *a, *x;
    float *y;
    const float *before = nullptr;  // for the gradient: slope_t = before_t * y_t, or the sum of these over t
    float *slope = nullptr;
    ptrdiff_t step, a_step;

    Rows from_column(ptrdiff_t c) const
    {
        return {a + c, x + c, y ? y + c : y, before ? before + c : before, slope ? slope + c : slope, step, a_step};
    }
    Rows from_row(ptrdiff_t t) const
    {
        ptrdiff_t on = t * step;
        float *row = slope && a_step ? slope + on : slope;
        return {a + t * a_step, x + on, y ? y + on : y, before ? before + on : before, row, step, a_step};
    }
};

// Panels of columns are done one after the other, over so many rows that these stay in the caches and in few pages.
template <class Visit>
void for_blocks(const Rows &rows, ptrdiff_t count, ptrdiff_t width, const Visit &visit)
{
    ptrdiff_t block = std::clamp<ptrdiff_t>(8192 / width, 8, 1024);
    for (ptrdiff_t t = 0; t < count; t += block) visit(rows.from_row(t), std::min(block, count - t));
}

enum class Kind { states, slopes, slope_sums };

struct Kernels {
    // By `far` and kind: `count` rows of `width` columns from the state before them, which becomes the state after them.
    void (*take[2][3])(const Rows &, ptrdiff_t count, ptrdiff_t width, float *state);
    // The same without any output, and the product of all factors.
    void (*reduce)(const Rows &, ptrdiff_t count, ptrdiff_t width, float *state, float *product);
};

#if defined(__x86_64__) && defined(__clang__)
#define SCAN_BEGIN(isa) _Pragma(SCAN_TEXT(clang attribute push(__attribute__((target(isa))), apply_to = function)))
#define SCAN_END _Pragma("clang attribute pop")
#elif defined(__x86_64__)
#define SCAN_BEGIN(isa) _Pragma("GCC push_options") _Pragma(SCAN_TEXT(GCC target(isa)))
#define SCAN_END _Pragma("GCC pop_options")
#endif
#define SCAN_TEXT(...) #__VA_ARGS__

namespace plain {
#define LANES 4
#include "linear_scan_body.h"
#undef LANES
}  // namespace plain

#if defined(__x86_64__)
SCAN_BEGIN("avx2,fma")
namespace avx2 {
#define LANES 8
#include "linear_scan_body.h"
#undef LANES
}  // namespace avx2
SCAN_END

SCAN_BEGIN("avx512f,avx512vl,avx2,fma")
namespace avx512 {
#define LANES 16
#include "linear_scan_body.h"
#undef LANES
}  // namespace avx512
SCAN_END
#endif

const Kernels &choose_kernels()
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return avx512::kernels;
    if (fma) return avx2::kernels;
#endif
    return plain::kernels;
}

// Memory of this size is new from the system each time, and making its pages one by one takes longer than the scan.
void prefer_large_pages(float *memory, size_t floats)
{
#if defined(__linux__)
    constexpr uintptr_t page = 4096;
    uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
    uintptr_t end = reinterpret_cast<uintptr_t>(memory + floats) / page * page;
    if (end > first && end - first >= (size_t{24} << 20)) madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)floats;
#endif
}

// Whether the caches cannot hold what is written, and all vectors of it are aligned.
bool belongs_far(const Rows &rows, ptrdiff_t count, ptrdiff_t columns)
{
    constexpr ptrdiff_t many = ptrdiff_t{2} << 20;  // of the five arrays in a training step, no 32 MB hold all
    bool aligned = (reinterpret_cast<uintptr_t>(rows.y) | reinterpret_cast<uintptr_t>(rows.slope)) % 64 == 0;
    return count * columns >= many && columns % 16 == 0 && aligned;
}

class Solver {
public:
    Solver(const Rows &rows, ptrdiff_t count, ptrdiff_t columns, ptrdiff_t threads)
        : columns_(columns), threads_(threads), far_(belongs_far(rows, count, columns))
    {
    }

    // All rows, from `state`, which becomes the last one.
    void solve(const Rows &rows, ptrdiff_t count, float *state)
    {
        constexpr ptrdiff_t line = 16;  // floats: no two threads write to one cache line
        ptrdiff_t groups = std::clamp<ptrdiff_t>(columns_ / line, 1, threads_);
        ptrdiff_t width = (columns_ / groups + line - 1) / line * line;
        groups = (columns_ + width - 1) / width;
        ptrdiff_t chunks = threads_ / groups;
        if (groups > 1 || chunks < 2 || count < 8 * chunks) {
            in_parallel(groups, [&](ptrdiff_t group) {
                ptrdiff_t first = group * width;
                take(rows.from_column(first), count, std::min(width, columns_ - first), state + first);
            });
            return;
        }
        solve_in_chunks(rows, count, chunks, state);
    }

private:
    // Rows 0 to `first` by one thread, while the others sum up the chunks after it but the last; then all of these.
    void solve_in_chunks(const Rows &rows, ptrdiff_t count, ptrdiff_t chunks, float *state)
    {
        ptrdiff_t length = static_cast<ptrdiff_t>(static_cast<double>(count) / (static_cast<double>(chunks) + share));
        ptrdiff_t first = count - chunks * length;
        std::vector<float> local(chunks * columns_), product(chunks * columns_, 1.0f), sums;
        in_parallel(chunks, [&](ptrdiff_t i) {
            if (i == 0) {
                take(rows, first, columns_, state);
            } else {
                ptrdiff_t at = i * columns_;
                kernels_.reduce(rows.from_row(first + (i - 1) * length), length, columns_, &local[at], &product[at]);
            }
        });
        // An infinite product times a state of zero would be no number, where the loop over time has zero.
        auto finite = [](float v) { return std::isfinite(v); };
        if (!std::all_of(local.begin(), local.end(), finite) || !std::all_of(product.begin(), product.end(), finite)) {
            take(rows.from_row(first), count - first, columns_, state);
            return;
        }
        std::copy_n(state, columns_, local.begin());
        for (ptrdiff_t i = columns_; i < chunks * columns_; i++) local[i] += product[i] * local[i - columns_];
        if (rows.slope && !rows.a_step) sums.resize(chunks * columns_);
        in_parallel(chunks, [&](ptrdiff_t i) {
            Rows chunk = rows.from_row(first + i * length);
            if (!sums.empty()) chunk.slope = &sums[i * columns_];
            take(chunk, length, columns_, &local[i * columns_]);
        });
        for (size_t i = 0; i < sums.size(); i++) rows.slope[i % columns_] += sums[i];
        std::copy_n(&local[(chunks - 1) * columns_], columns_, state);
    }

    void take(const Rows &rows, ptrdiff_t count, ptrdiff_t width, float *state) const
    {
        Kind kind = !rows.slope ? Kind::states : rows.a_step ? Kind::slopes : Kind::slope_sums;
        kernels_.take[far_][static_cast<int>(kind)](rows, count, width, state);
    }

    static constexpr double share = 0.8;  // of the time of one chunk's states goes into summing it up
    const Kernels &kernels_ = choose_kernels();
    ptrdiff_t columns_, threads_;
    bool far_;
};

template <class T>
T *pointer(uintptr_t address)
{
    return reinterpret_cast<T *>(address);
}

}  // namespace

NB_MODULE(_linear_scan, module)
{
    module.doc() = "Kernels of layers/linear_recurrence.py; arrays are addresses of contiguous float32.";
    module.def(
        "states",
        [](uintptr_t decay, bool constant, uintptr_t x, uintptr_t initial, uintptr_t h, ptrdiff_t steps, ptrdiff_t columns,
           bool reverse, ptrdiff_t threads) {
            ptrdiff_t step = reverse ? -columns : columns, first = reverse ? (steps - 1) * columns : 0;
            float *to = pointer<float>(h);
            prefer_large_pages(to, steps * columns);
            Rows rows{};
            rows.a = pointer<const float>(decay) + (constant ? 0 : first), rows.a_step = constant ? 0 : step;
            rows.x = pointer<const float>(x) + first, rows.y = to + first, rows.step = step;
            std::vector<float> state(pointer<const float>(initial), pointer<const float>(initial) + columns);
            Solver(rows, steps, columns, threads).solve(rows, steps, state.data());
        },
        nb::call_guard<nb::gil_scoped_release>());
    // h_t = A_t h_(t-1) + x_t with a matrix of size x size for each column: decay is (size, size, steps, columns), or
    // without steps if it is constant; x and h are (size, steps, columns), initial is (size, columns).
    module.def(
        "blocks",
        [](uintptr_t decay, uintptr_t x, uintptr_t initial, uintptr_t h, bool constant, ptrdiff_t size, ptrdiff_t steps,
           ptrdiff_t columns, bool reverse) {
            const float *from = pointer<const float>(initial);
            std::vector<float> state(from, from + size * columns);
            ptrdiff_t matrix = constant ? columns : steps * columns;
            for (ptrdiff_t s = 0; s < steps; s++) {
                ptrdiff_t t = reverse ? steps - 1 - s : s;
                const float *a = pointer<const float>(decay) + (constant ? 0 : t * columns);
                for (ptrdiff_t i = 0; i < size; i++) {
                    ptrdiff_t at = (i * steps + t) * columns;
                    float *__restrict y = pointer<float>(h) + at;
                    std::copy_n(pointer<const float>(x) + at, columns, y);
                    for (ptrdiff_t j = 0; j < size; j++, a += matrix) {
                        const float *before = &state[j * columns];
                        for (ptrdiff_t c = 0; c < columns; c++) y[c] += a[c] * before[c];
                    }
                }
                for (ptrdiff_t i = 0; i < size; i++)
                    std::copy_n(pointer<float>(h) + (i * steps + t) * columns, columns, &state[i * columns]);
            }
        },
        nb::call_guard<nb::gil_scoped_release>());
    // From the gradient `dh` of all states: of decay (to be zero before, if constant), x and initial.
    module.def(
        "gradients",
        [](uintptr_t decay, bool constant, uintptr_t initial, uintptr_t h, uintptr_t dh, uintptr_t d_decay, uintptr_t dx,
           uintptr_t d_initial, ptrdiff_t steps, ptrdiff_t columns, bool reverse, ptrdiff_t threads) {
            // Against the direction of the states; factors lie one row behind, and states before one row ahead.
            ptrdiff_t step = reverse ? columns : -columns, first = reverse ? 0 : (steps - 1) * columns;
            prefer_large_pages(pointer<float>(dx), steps * columns);
            if (!constant) prefer_large_pages(pointer<float>(d_decay), steps * columns);
            std::vector<float> zero(columns), state(columns);
            Rows rows{};
            rows.x = pointer<const float>(dh) + first, rows.y = pointer<float>(dx) + first;
            rows.before = pointer<const float>(h) + first + step, rows.slope = pointer<float>(d_decay) + (constant ? 0 : first);
            rows.step = step, rows.a_step = constant ? 0 : step;
            rows.a = pointer<const float>(decay) + (constant ? 0 : first - step);
            Rows end = rows;
            end.a = zero.data();
            if (steps == 1) end.before = pointer<const float>(initial);
            Solver solver(rows, steps, columns, threads), alone(rows, 1, columns, 1);
            alone.solve(end, 1, state.data());
            if (steps > 2) solver.solve(rows.from_row(1), steps - 2, state.data());
            if (steps > 1) {
                Rows start = rows.from_row(steps - 1);
                start.before = pointer<const float>(initial);
                alone.solve(start, 1, state.data());
            }
            const float *last = pointer<const float>(decay) + (constant || !reverse ? 0 : (steps - 1) * columns);
            for (ptrdiff_t c = 0; c < columns; c++) pointer<float>(d_initial)[c] = last[c] * state[c];
        },
        nb::call_guard<nb::gil_scoped_release>());
}
