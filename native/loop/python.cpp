// The Python face of the loop: layers/loop/native.py has laid out every array and gives addresses; the arrays are its
// own and outlive the call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cr_format.h"
#include "cr_packed.h"
#include "cr_subnormal.h"
#include "memory.h"
#include "pack.h"
#include "parallel.h"

namespace nb = nanobind;

namespace {

using Table = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Columns of the table: an operation; its four places; its matrix; its total.
enum Column { CODE, WIDTH, DEPTH, ADDEND, PLACES, MATRIX = PLACES + 4 * 5, TOTAL = MATRIX + 3, COLUMNS };
// A place: whether it is scratch; an address, or how many numbers into the scratch; strides in numbers.
enum PlaceColumn { SCRATCH, ADDRESS, TIME, TILE, ROW };

Matrix matrix_of(const int64_t *row) {
    return {pointer<const float>(row[MATRIX]), row[WIDTH], row[DEPTH], row[MATRIX + 1], row[MATRIX + 2]};
}

// What one thread writes on the way.
struct Worker {
    std::vector<loop_op> ops;
    Array<float> scratch, sums;
    Array<double> totals;
    Array<char> quantized;
    size_t first, end;
};

class Loop {
public:
    Loop(Table table, size_t scratch, bool exact, const std::string &isa) : table_(table), scratch_(scratch) {
        run_ = find_loop(isa, exact, &kernels_).run;
        if (table.shape(1) != COLUMNS) throw nb::value_error("a table of another width");
        size_t numbers = 0;
        for (size_t i = 0; i < table.shape(0); i++)
            if (row(i)[CODE] == LOOP_LINEAR) numbers += matrix_of(row(i)).panels_size();
        panels_ = zeros<float>(numbers);
        float *to = panels_.get();
        for (size_t i = 0; i < table.shape(0); i++) {
            starts_.push_back(to);
            if (row(i)[CODE] != LOOP_LINEAR) continue;
            matrix_of(row(i)).pack(to);
            to += matrix_of(row(i)).panels_size();
        }
    }

    void run(size_t steps, size_t rows, bool backwards, size_t threads) {
        std::vector<Worker> workers;
        size_t share = (rows + std::max<size_t>(threads, 1) - 1) / std::max<size_t>(threads, 1);
        share = (share + 3) / 4 * 4; // four rows at least share a read of the matrices
        for (size_t first = 0; first < rows; first += share) workers.push_back(worker(first, std::min(first + share, rows)));
        in_parallel(workers.size(), [&](size_t number) {
            Worker &worker = workers[number];
            uint64_t before = cr_flush_subnormals();
            run_(worker.ops.data(), worker.ops.size(), steps, backwards, worker.first, worker.end);
            cr_restore_subnormals(before);
        });
        for (size_t i = 0; i < table_.shape(0); i++)
            if (row(i)[CODE] == LOOP_SUM)
                for (auto &worker : workers)
                    for (int64_t j = 0; j < row(i)[WIDTH]; j++)
                        pointer<double>(row(i)[TOTAL])[j] += worker.ops[i].total[j];
    }

private:
    const int64_t *row(size_t i) const { return table_.data() + i * COLUMNS; }

    Worker worker(size_t first, size_t end) const {
        size_t sums = 0, quantized = 0;
        for (size_t i = 0; i < table_.shape(0); i++) {
            if (row(i)[CODE] == LOOP_SUM) sums += static_cast<size_t>(row(i)[WIDTH]);
            if (row(i)[CODE] == LOOP_QUANTIZED)
                quantized = std::max(quantized, LOOP_TILE * CR_QUANTIZED_BYTES(static_cast<size_t>(row(i)[DEPTH])));
        }
        Worker made{{}, zeros<float>(scratch_), zeros<float>(sums), zeros<double>(sums), zeros<char>(quantized), first, end};
        size_t at = 0;
        for (size_t i = 0; i < table_.shape(0); i++) {
            const int64_t *from = row(i);
            loop_op op{};
            op.code = static_cast<int32_t>(from[CODE]);
            op.has_addend = static_cast<int32_t>(from[ADDEND]);
            op.width = static_cast<size_t>(from[WIDTH]);
            op.depth = static_cast<size_t>(from[DEPTH]);
            loop_place *places[] = {&op.to, &op.a, &op.b, &op.c};
            for (size_t p = 0; p < 4; p++) {
                const int64_t *place = from + PLACES + p * 5;
                float *base = place[SCRATCH] ? made.scratch.get() + place[ADDRESS] : pointer<float>(place[ADDRESS]);
                *places[p] = loop_place{base, place[TIME], place[TILE], place[ROW]};
            }
            op.panels = starts_[i];
            if (op.code == LOOP_QUANTIZED) {  // in place of the strides of a matrix: its type, and the scale of its inputs
                op.matrix = cr_packed_matrix(pointer<const void>(from[MATRIX]), op.width, op.depth);
                op.type = static_cast<unsigned>(from[MATRIX + 1]);
                auto bits = static_cast<int32_t>(from[MATRIX + 2]);
                std::memcpy(&op.scale, &bits, sizeof bits);
                op.quantized = made.quantized.get();
                op.kernels = kernels_;
            }
            if (op.code == LOOP_SUM) {
                op.sums = made.sums.get() + at;
                op.total = made.totals.get() + at;
                at += op.width;
            }
            made.ops.push_back(op);
        }
        return made;
    }

    Table table_;
    size_t scratch_;
    loop_run *run_;
    const cr_kernels *kernels_;
    Array<float> panels_;
    std::vector<const float *> starts_;
};

} // namespace

NB_MODULE(_loop, module) {
    module.def(
        "run",
        [](Table table, size_t scratch, size_t steps, size_t rows, bool backwards, size_t threads, bool exact,
           const std::string &isa) {
            nb::gil_scoped_release released;
            Loop(table, scratch, exact, isa).run(steps, rows, backwards, threads);
        },
        nb::arg("table"), nb::arg("scratch"), nb::arg("steps"), nb::arg("rows"), nb::arg("backwards"),
        nb::arg("threads"), nb::arg("exact"), nb::arg("isa"));
    nb::list names;
#define LOOP_NAME(NAME, operands, value) names.append(#NAME);
    LOOP_FUNCTIONS(LOOP_NAME)
#undef LOOP_NAME
    names.append("LINEAR");
    names.append("QUANTIZED");
    names.append("SPREAD");
    names.append("TOTAL");
    names.append("SUM");
    module.attr("NAMES") = nb::tuple(names);
    module.attr("TILE") = static_cast<int>(LOOP_TILE);
}
