// Products with matrices of many rows, for training; weights/products.py gives the addresses of tensors that outlive the
// call.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <vector>

#include "cr_subnormal.h"
#include "memory.h"
#include "pack.h"
#include "parallel.h"

namespace nb = nanobind;

namespace {

// Runs task(first, end) for shares of `count`, multiples of `block`, each in a thread.
template <class Task> void share_out(size_t count, size_t block, size_t threads, const Task &task) {
    size_t blocks = (count + block - 1) / block;
    size_t share = (blocks + std::max<size_t>(threads, 1) - 1) / std::max<size_t>(threads, 1) * block;
    in_parallel(share ? (count + share - 1) / share : 0, [&](size_t number) {
        uint64_t before = cr_flush_subnormals();
        task(number * share, std::min((number + 1) * share, count));
        cr_restore_subnormals(before);
    });
}

void outer(const loop_outer &job, size_t height, size_t threads, const std::string &isa) {
    const cr_kernels *kernels;
    loop_run_outer *run = find_loop(isa, false, &kernels).outer;
    share_out(height, LOOP_OUTER_DOWN, threads, [&](size_t top, size_t bottom) {
        run(&job, top, bottom, zeros<float>(LOOP_OUTER_ROOM(job.width)).get());
    });
}

void linear(float *to, const float *x, ptrdiff_t x_row, size_t rows, const Matrix &matrix, size_t threads,
            const std::string &isa) {
    const cr_kernels *kernels;
    loop_run *run = find_loop(isa, false, &kernels).run;
    Array<float> panels = zeros<float>(matrix.panels_size());
    matrix.pack(panels.get());
    loop_op op{};
    op.code = LOOP_LINEAR;
    op.width = static_cast<size_t>(matrix.width), op.depth = static_cast<size_t>(matrix.depth);
    op.to = loop_place{to, 0, matrix.width, matrix.width};
    op.a = loop_place{const_cast<float *>(x), 0, x_row, x_row};
    op.panels = panels.get();
    share_out(rows, LOOP_TILE, threads, [&](size_t first, size_t end) { run(&op, 1, 1, 0, first, end); });
}

} // namespace

NB_MODULE(_products, module) {
    module.def(
        "outer",
        [](int64_t to, int64_t a, int64_t a_row, int64_t b, int64_t b_row, size_t rows, size_t height, size_t width,
           size_t threads, const std::string &isa) {
            nb::gil_scoped_release released;
            loop_outer job{pointer<float>(to), pointer<const float>(a), pointer<const float>(b), a_row, b_row, rows, width};
            outer(job, height, threads, isa);
        },
        nb::arg("to"), nb::arg("a"), nb::arg("a_row"), nb::arg("b"), nb::arg("b_row"), nb::arg("rows"), nb::arg("height"),
        nb::arg("width"), nb::arg("threads"), nb::arg("isa"));
    module.def(
        "linear",
        [](int64_t to, int64_t x, int64_t x_row, size_t rows, int64_t matrix, int64_t width, int64_t depth, int64_t down,
           int64_t along, size_t threads, const std::string &isa) {
            nb::gil_scoped_release released;
            linear(pointer<float>(to), pointer<const float>(x), x_row, rows,
                   Matrix{pointer<const float>(matrix), width, depth, down, along}, threads, isa);
        },
        nb::arg("to"), nb::arg("x"), nb::arg("x_row"), nb::arg("rows"), nb::arg("matrix"), nb::arg("width"),
        nb::arg("depth"), nb::arg("down"), nb::arg("along"), nb::arg("threads"), nb::arg("isa"));
}
