// Quantization of weights to int8 and int4 for runtime/rounding.py, which says by what rule; and, for training with it,
// fake quantization and products as the engine makes them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "cr_packed.h"
#include "cr_subnormal.h"
#include "parallel.h"
#include "rounding.h"

namespace nb = nanobind;

void define_quantization(nb::module_ &module);

namespace {

template <class T> using Array = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T> using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

size_t groups_of(size_t columns) { return (columns + CR_GROUP - 1) / CR_GROUP; }

void quantize_rows(Array<const double> values, Array<int8_t> entries, Vector<float> scale) {
    for (size_t r = 0; r < values.shape(0); r++)
        round_row(values.data() + r * values.shape(1), values.shape(1), entries.data() + r * values.shape(1), scale.data() + r);
}

void quantize_groups(Array<const double> values, double top, Vector<const double> clips, Array<int8_t> entries,
                  Vector<float> scale, Array<uint8_t> group_scale) {
    size_t n = values.shape(1), groups = groups_of(n);
    if (clips.shape(0) > MOST_SCALES) throw nb::value_error("too many scales");
    for (size_t r = 0; r < values.shape(0); r++)
        round_groups_of_row(values.data() + r * n, n, top, clips.data(), clips.shape(0), entries.data() + r * n,
                            scale.data() + r, group_scale.data() + r * groups);
}

// Where the bytes of four (int8) or eight (int4) columns of a row stand in a block of panels.
struct Lines {
    unsigned char *block;
    size_t size, rows, columns;

    unsigned char *i8(size_t row, size_t column) const {
        return block + ((column / 4 * size + row / CR_LANES) * CR_LANES + row % CR_LANES) * 4;
    }
    unsigned char *group(size_t number) const { return block + number * (CR_GROUP / 8 * size + 1) * 64; }
    unsigned char *i4(size_t row, size_t column) const {
        return group(column / CR_GROUP) +
               ((column % CR_GROUP / 8 * size + row / CR_LANES) * CR_LANES + row % CR_LANES) * 4;
    }
    unsigned char *scales(size_t number) const {
        size_t left = std::min<size_t>(columns - number * CR_GROUP, CR_GROUP);
        return group(number) + (left + 7) / 8 * size * 64;
    }
};

void put_i8(const Lines &lines, size_t row, const int8_t *entries) {
    for (size_t c = 0; c < lines.columns; c += 4)
        std::memcpy(lines.i8(row, c), entries + c, std::min<size_t>(lines.columns - c, 4));
}

void put_i4(const Lines &lines, size_t row, const int8_t *entries, const uint8_t *group_scale) {
    size_t c = 0;
    for (; c + 8 <= lines.columns; c += 8) {
        unsigned char *to = lines.i4(row, c);
        for (size_t i = 0; i < 4; i++) to[i] = static_cast<unsigned char>((entries[c + i] + 8) | (entries[c + 4 + i] + 8) << 4);
    }
    if (c < lines.columns) {
        unsigned char *to = lines.i4(row, c);
        for (size_t i = 0; i < 4; i++) {
            int low = c + i < lines.columns ? entries[c + i] + 8 : 8, high = c + 4 + i < lines.columns ? entries[c + 4 + i] + 8 : 8;
            to[i] = static_cast<unsigned char>(low | high << 4);
        }
    }
    for (size_t g = 0; g < groups_of(lines.columns); g++) lines.scales(g)[row] = group_scale[g];
}

// The matrix as it is multiplied with: its numbers in `dense`, and in `memory` as cr_packed.h says.
void quantize_matrix(Array<const float> values, bool int4, double top, Vector<const double> clips, Array<float> dense,
                  Array<uint8_t> memory) {
    size_t rows = values.shape(0), columns = values.shape(1), groups = groups_of(columns);
    unsigned type = int4 ? CR_MATRIX_I4 : CR_MATRIX_I8;
    if (memory.size() != cr_packed_bytes(type, rows, columns) || clips.shape(0) > MOST_SCALES) throw nb::value_error("memory of another size, or too many scales");
    nb::gil_scoped_release released;
    unsigned char *at = memory.data(), *block = at + 2 * cr_packed_head(rows);
    std::memset(at, 0, memory.size());
    auto *scales = reinterpret_cast<float *>(at);
    auto *sums = reinterpret_cast<int32_t *>(at + cr_packed_head(rows));
    std::vector<int8_t> entries(columns);
    std::vector<uint8_t> group_scale(groups);
    std::vector<double> numbers;
    size_t panels = cr_packed_rows(rows) / CR_LANES;
    for (size_t panel = 0; panel < panels; panel += CR_PACKED_BLOCK) {
        Lines lines{block, std::min<size_t>(panels - panel, CR_PACKED_BLOCK), rows, columns};
        for (size_t i = 0; i < lines.size * CR_LANES; i++) {
            size_t row = panel * CR_LANES + i;
            if (row >= rows) {
                std::fill(entries.begin(), entries.end(), int8_t{0});
                std::fill(group_scale.begin(), group_scale.end(), uint8_t{0});
                if (int4) put_i4(lines, i, entries.data(), group_scale.data());
                continue;
            }
            const float *from = values.data() + row * columns;
            float *to = dense.data() + row * columns;
            if (!is_finite(from, columns)) {  // as the sum of its products would be
                scales[row] = NAN;
                std::fill_n(to, columns, NAN);
                continue;
            }
            if (int4) {
                round_groups_of_row(from, columns, top, clips.data(), clips.shape(0), entries.data(), scales + row,
                                    group_scale.data());
                put_i4(lines, i, entries.data(), group_scale.data());
                for (size_t g = 0; g < groups; g++) {
                    int multiple = group_scale[g];
                    for (size_t c = g * CR_GROUP; c < std::min(columns, (g + 1) * CR_GROUP); c++)
                        to[c] = static_cast<float>(entries[c] * multiple) * scales[row];
                }
            } else {
                round_row(from, columns, entries.data(), scales + row);
                put_i8(lines, i, entries.data());
                for (size_t c = 0; c < columns; c++) {
                    to[c] = static_cast<float>(entries[c]) * scales[row];
                    sums[row] += entries[c];
                }
            }
        }
        block += int4 ? (lines.size * ((columns + 7) / 8) + groups) * 64 : lines.size * ((columns + 3) / 4) * 64;
    }
}

const cr_kernels *kernels_named(const std::string &isa) {
    const cr_kernels *kernels = cr_find_kernels(isa.empty() ? nullptr : isa.c_str());
    if (!kernels) throw nb::value_error("CRNN_ISA: not usable on this processor");
    return kernels;
}

struct Release {
    void operator()(unsigned char *memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

// `task(first, rows, memory)` for up to eight rows at a time, with memory for their quantized numbers, by several threads.
template <class Task> void by_tiles(size_t rows, size_t columns, size_t threads, const Task &task) {
    constexpr size_t TILE = 8;
    size_t tiles = (rows + TILE - 1) / TILE, workers = std::max<size_t>(1, std::min(threads, tiles));
    in_parallel(workers, [&](size_t worker) {
        size_t bytes = TILE * CR_QUANTIZED_BYTES(columns);
        std::unique_ptr<unsigned char, Release> memory(
            static_cast<unsigned char *>(::operator new(bytes, std::align_val_t(64))));
        uint64_t before = cr_flush_subnormals();
        for (size_t tile = worker * tiles / workers; tile < (worker + 1) * tiles / workers; tile++)
            task(tile * TILE, std::min(rows - tile * TILE, TILE), memory.get());
        cr_restore_subnormals(before);
    });
}

void quantized_linear(Array<const float> x, Array<const uint8_t> memory, bool int4, float scale, Array<float> y,
                     size_t threads, const std::string &isa) {
    size_t rows = x.shape(0), columns = x.shape(1), width = y.shape(1);
    unsigned type = int4 ? CR_MATRIX_I4 : CR_MATRIX_I8;
    if (memory.size() != cr_packed_bytes(type, width, columns) || y.shape(0) != rows)
        throw nb::value_error("arrays of other sizes");
    const cr_kernels *kernels = kernels_named(isa);
    nb::gil_scoped_release released;
    cr_matrix matrix = cr_packed_matrix(memory.data(), width, columns);
    size_t stride = CR_QUANTIZED_BYTES(columns);
    by_tiles(rows, columns, threads, [&](size_t first, size_t count, unsigned char *quantized) {
        for (size_t r = 0; r < count; r++)
            kernels->quantize(quantized + r * stride, x.data() + (first + r) * columns, scale, columns);
        kernels->affine[type]({y.data() + first * width, 4 * width}, &matrix, {quantized, stride}, {nullptr, 0}, count);
    });
}

void fake_quant(Array<const float> x, float scale, Array<float> y, size_t threads, const std::string &isa) {
    size_t rows = x.shape(0), columns = x.shape(1);
    if (y.shape(0) != rows || y.shape(1) != columns) throw nb::value_error("arrays of other sizes");
    const cr_kernels *kernels = kernels_named(isa);
    nb::gil_scoped_release released;
    size_t stride = CR_QUANTIZED_BYTES(columns);
    by_tiles(rows, columns, threads, [&](size_t first, size_t count, unsigned char *quantized) {
        for (size_t r = 0; r < count; r++) {
            unsigned char *at = quantized + r * stride;
            float step;
            kernels->quantize(at, x.data() + (first + r) * columns, scale, columns);
            std::memcpy(&step, at, sizeof step);
            kernels->row_i8(y.data() + (first + r) * columns, reinterpret_cast<const int8_t *>(at + 64), step, columns);
        }
    });
}

}  // namespace

void define_quantization(nb::module_ &module) {
    module.def("quantize_rows", &quantize_rows);
    module.def("quantize_groups", &quantize_groups);
    module.def("quantize_matrix", &quantize_matrix);
    module.def("packed_bytes", [](size_t rows, size_t columns, bool int4) {
        return cr_packed_bytes(int4 ? CR_MATRIX_I4 : CR_MATRIX_I8, rows, columns);
    });
    module.def("quantized_linear", &quantized_linear);
    module.def("fake_quant", &fake_quant);
}
