// The Python face of the core: a Model (a verified file) and a Stream (a block of memory). Values are checked for size
// here, for meaning in runtime/engine.py, which is the only caller.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cr.h"
#include "cr_kernels.h"

namespace nb = nanobind;

void describe_format(nb::module_ &module);  // describe.cpp
void define_quantization(nb::module_ &module);  // quantization.cpp

namespace {

struct Release {
    void operator()(unsigned char *memory) const { ::operator delete(memory, std::align_val_t(CR_LINE)); }
};
using Memory = std::unique_ptr<unsigned char, Release>;

Memory allocate(size_t bytes) {
    return Memory(static_cast<unsigned char *>(::operator new(bytes ? bytes : 1, std::align_val_t(CR_LINE))));
}

// Ask for large pages: reading 36 MB of weights goes a quarter faster (docs/performance.md).
void prefer_large_pages(unsigned char *memory, size_t bytes) {
#if defined(__linux__)
    constexpr uintptr_t page = 4096;
    auto first = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
    auto end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
    if (end > first && end - first >= (2u << 20)) madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

// A C-contiguous view of an object's memory; empty where it has none.
class View {
public:
    View(nb::handle object, int flags) {
        held_ = PyObject_GetBuffer(object.ptr(), &buffer_, flags | PyBUF_C_CONTIGUOUS) == 0;
        if (!held_) PyErr_Clear();
    }
    View(View &&other) noexcept : buffer_(other.buffer_), held_(other.held_) { other.held_ = false; }
    View(const View &) = delete;
    ~View() {
        if (held_) PyBuffer_Release(&buffer_);
    }
    explicit operator bool() const { return held_; }
    void *data() const { return buffer_.buf; }
    size_t bytes() const { return static_cast<size_t>(buffer_.len); }

    // Whether it is one row of the port's shape, of float32.
    bool fits(const cr_port &port) const { return fits(port, 0, "f"); }

    // Whether it is some rows, of float32 or of int32 tokens, and then how many.
    bool fits_rows(const cr_port &port, Py_ssize_t &steps) const {
        if (!fits(port, 1, port.vocabulary ? "i" : "f")) return false;
        steps = buffer_.shape[0];
        return true;
    }

private:
    bool fits(const cr_port &port, int leading, const char *format) const {
        if (!held_ || reinterpret_cast<uintptr_t>(buffer_.buf) % 4) return false;
        if (buffer_.itemsize != 4 || !buffer_.format || std::strcmp(buffer_.format, format) != 0) return false;
        if (buffer_.ndim != leading + static_cast<int>(port.rank)) return false;
        for (uint32_t i = 0; i < port.rank; i++)
            if (buffer_.shape[leading + static_cast<int>(i)] != static_cast<Py_ssize_t>(port.shape[i])) return false;
        return true;
    }

    Py_buffer buffer_{};
    bool held_ = false;
};

struct Model {
    Memory file;
    Memory expanded;
    cr_model model{};
    nb::object empty;   // numpy.empty
    nb::object float32;
    std::vector<nb::tuple> output_shapes;
    bool slow = false;  // a step takes longer than giving other threads their turn

    Model(nb::handle data, const std::optional<std::string> &isa) {
        View view(data, PyBUF_SIMPLE);
        if (!view) throw nb::type_error("data: wanted bytes");
        // A copy: what has been verified must not change any more.
        file = allocate(view.bytes());
        prefer_large_pages(file.get(), view.bytes());
        std::memcpy(file.get(), view.data(), view.bytes());
        int code = cr_open(&model, file.get(), view.bytes(), isa ? isa->c_str() : nullptr);
        if (code) throw nb::value_error((cr_error(code) + fault()).c_str());
        nb::module_ numpy = nb::module_::import_("numpy");
        empty = numpy.attr("empty");
        float32 = numpy.attr("dtype")("float32");
        for (uint32_t i = 0; i < model.header->output_count; i++) {
            nb::list shape;
            for (uint32_t j = 0; j < model.outputs[i].rank; j++) shape.append(model.outputs[i].shape[j]);
            output_shapes.push_back(nb::tuple(shape));
        }
        slow = cr_step_work(&model) > 320000;
    }

    // Before any stream: the Toeplitz-like matrices.
    void expand() {
        size_t bytes = cr_expanded_size(&model);
        if (!bytes || expanded) return;
        expanded = allocate(bytes);
        prefer_large_pages(expanded.get(), bytes);
        nb::gil_scoped_release release;
        cr_expand(&model, expanded.get());
    }

private:
    // Which operation or output an error is about.
    std::string fault() const {
        if (model.fault == CR_NONE) return "";
        uint32_t count = model.header->op_count;
        return model.fault < count ? " (operation " + std::to_string(model.fault) + ")"
                                   : " (output " + std::to_string(model.fault - count) + ")";
    }
};

// One user at a time: the interpreter lock is not held while a sequence runs.
class Turn {
public:
    explicit Turn(std::atomic_flag &busy) : busy_(busy) {
        if (busy_.test_and_set()) throw std::runtime_error("this stream is in use by another thread");
    }
    ~Turn() { busy_.clear(); }

private:
    std::atomic_flag &busy_;
};

// The caller's arrays: `steps` rows for each port.
struct Arrays {
    std::vector<View> views;
    std::vector<const void *> from;
    std::vector<float *> to;

    Arrays(const cr_model &model, const nb::list &inputs, const nb::list &outputs, size_t steps, bool whole) {
        const cr_header &header = *model.header;
        if (nb::len(inputs) != header.input_count || nb::len(outputs) != header.output_count)
            throw nb::value_error("a wrong number of arrays");
        views.reserve(header.input_count + header.output_count);
        for (uint32_t i = 0; i < header.input_count; i++) {
            views.emplace_back(inputs[i], PyBUF_SIMPLE);
            from.push_back(data_of(views.back(), model.inputs[i], steps));
        }
        for (uint32_t i = 0; i < header.output_count; i++) {
            views.emplace_back(outputs[i], PyBUF_WRITABLE);
            size_t rows = whole ? cr_output_rows(&model, i, steps) : steps;
            to.push_back(static_cast<float *>(data_of(views.back(), model.outputs[i], rows)));
        }
    }

private:
    static void *data_of(const View &view, const cr_port &port, size_t steps) {
        size_t row = 4 * cr_port_width(&port);
        if (!view || view.bytes() % row || view.bytes() / row != steps)
            throw nb::value_error("an array of a wrong size");
        if (reinterpret_cast<uintptr_t>(view.data()) % 4) throw nb::value_error("an array that is not aligned");
        return view.data();
    }
};

class Stream {
public:
    explicit Stream(nb::object owner)
        : owner_(owner), model_(nb::cast<Model *>(owner)), block_(allocate(cr_block_size(core()))) {
        cr_reset(core(), block_.get());
        arrays_.views.reserve(core()->header->input_count + core()->header->output_count);
        arrays_.results.reserve(core()->header->output_count);
    }

    // One step, or None where an input or output is not in the plain form (a float32 array of the very shape, an int).
    nb::object step(nb::handle x, nb::handle out) {
        Turn turn(busy_);
        const cr_header &header = *core()->header;
        const void *inputs[CR_MAX_PORTS];
        float *outputs[CR_MAX_PORTS];
        int32_t tokens[CR_MAX_PORTS];
        Cleared at_end(arrays_);
        std::vector<View> &views = arrays_.views;
        bool several = header.input_count != 1;
        if (several && (!PyTuple_Check(x.ptr()) || nb::len(x) != header.input_count)) return nb::none();
        for (uint32_t i = 0; i < header.input_count; i++) {
            nb::object item = several ? nb::object(x[i]) : nb::borrow(x);
            if (core()->inputs[i].vocabulary) {
                if (!PyLong_Check(item.ptr()) || PyBool_Check(item.ptr())) return nb::none();
                int overflow = 0;
                long token = PyLong_AsLongAndOverflow(item.ptr(), &overflow);
                long vocabulary = core()->inputs[i].vocabulary;
                if (overflow || token < 0 || token >= vocabulary) return nb::none();
                tokens[i] = static_cast<int32_t>(token);
                inputs[i] = &tokens[i];
            } else {
                views.emplace_back(item, PyBUF_FORMAT);
                if (!views.back().fits(core()->inputs[i])) return nb::none();
                inputs[i] = views.back().data();
            }
        }
        std::vector<nb::object> &results = arrays_.results;
        bool given = !out.is_none(), tuple = given && header.output_count != 1;
        if (tuple && (!PyTuple_Check(out.ptr()) || nb::len(out) != header.output_count)) return nb::none();
        for (uint32_t i = 0; i < header.output_count; i++) {
            results.push_back(tuple   ? nb::object(out[i])
                              : given ? nb::borrow(out)
                                      : model_->empty(model_->output_shapes[i], model_->float32));
            views.emplace_back(results[i], PyBUF_WRITABLE | (given ? PyBUF_FORMAT : 0));
            if (given && (!views.back().fits(core()->outputs[i]) || overlaps(views))) return nb::none();
            outputs[i] = static_cast<float *>(views.back().data());
        }
        std::optional<nb::gil_scoped_release> release;
        if (model_->slow) release.emplace();
        int code = cr_step(core(), block_.get(), inputs, outputs);
        release.reset();
        if (code) throw nb::value_error(cr_error(code));
        if (header.output_count == 1) return results[0];
        nb::list all;
        for (nb::object &result : results) all.append(result);
        return nb::tuple(all);
    }

    // Some steps of a model with one input and one output, or None where the input is not in the plain form (a float32
    // or int32 array of the very shape), has more than `most` of them, or the model has more inputs or outputs.
    nb::object run_plain(nb::handle x, size_t most) {
        Turn turn(busy_);
        const cr_header &header = *core()->header;
        if (header.input_count != 1 || header.output_count != 1) return nb::none();
        View rows(x, PyBUF_FORMAT);
        Py_ssize_t steps = 0;
        if (!rows.fits_rows(core()->inputs[0], steps) || static_cast<size_t>(steps) > most) return nb::none();
        nb::object result = model_->empty(nb::make_tuple(steps) + model_->output_shapes[0], model_->float32);
        View written(result, PyBUF_WRITABLE);
        const void *input = rows.data();
        auto *output = static_cast<float *>(written.data());
        int code;
        {
            nb::gil_scoped_release release;
            code = cr_run(core(), block_.get(), &input, &output, static_cast<size_t>(steps));
        }
        return code ? nb::none() : result;  // a token that there is not: runtime/engine.py says so
    }

    // `steps` rows of every input to as many rows of every output, or, with `whole`, a sequence from the start.
    void run(nb::list inputs, nb::list outputs, size_t steps, bool whole) {
        Turn turn(busy_);
        Arrays arrays(*core(), inputs, outputs, steps, whole);
        int code;
        {
            nb::gil_scoped_release release;
            if (whole) {
                size_t bytes = cr_workspace_size(core(), steps);
                if (bytes == SIZE_MAX) throw std::bad_alloc();
                Memory workspace = allocate(bytes);
                code = cr_run_sequence(core(), block_.get(), workspace.get(), arrays.from.data(), arrays.to.data(), steps);
            } else {
                code = cr_run(core(), block_.get(), arrays.from.data(), arrays.to.data(), steps);
            }
        }
        if (code) throw nb::value_error(cr_error(code));
    }

    // Seconds that `calls` calls of cr_run with `steps` steps each take, without Python.
    double time(nb::list inputs, nb::list outputs, size_t steps, size_t calls) {
        Turn turn(busy_);
        Arrays arrays(*core(), inputs, outputs, steps, false);
        nb::gil_scoped_release release;
        auto start = std::chrono::steady_clock::now();
        int code = CR_OK;
        for (size_t i = 0; i < calls && !code; i++)
            code = cr_run(core(), block_.get(), arrays.from.data(), arrays.to.data(), steps);
        std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        if (code) throw std::invalid_argument(cr_error(code));
        return taken.count();
    }

    void reset() {
        Turn turn(busy_);
        cr_reset(core(), block_.get());
    }

    // The numbers of one state buffer.
    nb::object read_state(uint32_t buffer) {
        Turn turn(busy_);
        const float *from = state_of(buffer);
        nb::object result = model_->empty(nb::make_tuple(core()->buffers[buffer].width), model_->float32);
        View written(result, PyBUF_WRITABLE);
        std::memcpy(written.data(), from, written.bytes());
        return result;
    }

    void write_state(uint32_t buffer, nb::handle array) {
        Turn turn(busy_);
        float *to = state_of(buffer);
        View given(array, PyBUF_SIMPLE);
        if (!given || given.bytes() != 4 * size_t{core()->buffers[buffer].width})
            throw nb::value_error("an array of a wrong size");
        std::memcpy(to, given.data(), given.bytes());
    }

    nb::bytes state() {
        Turn turn(busy_);
        return nb::bytes(reinterpret_cast<const char *>(block_.get()), cr_state_size(core()));
    }

    void set_state(nb::bytes state) {
        Turn turn(busy_);
        if (state.size() != cr_state_size(core())) throw nb::value_error("a state of another size");
        std::memcpy(block_.get(), state.c_str(), state.size());
    }

private:
    // The arrays of one step, in memory that stays: allocating it takes a tenth of the step of a small model.
    struct StepArrays {
        std::vector<View> views;
        std::vector<nb::object> results;
    };
    struct Cleared {
        explicit Cleared(StepArrays &arrays) : arrays_(arrays) {}
        ~Cleared() {
            arrays_.views.clear();
            arrays_.results.clear();
        }
        StepArrays &arrays_;
    };

    const cr_model *core() const { return &model_->model; }

    float *state_of(uint32_t buffer) {
        float *state = cr_state(core(), block_.get(), buffer);
        if (!state) throw nb::value_error("not a state");
        return state;
    }

    // Whether the last view shares memory with one before it: an input, or another output.
    static bool overlaps(const std::vector<View> &views) {
        auto start = [](const View &view) { return reinterpret_cast<uintptr_t>(view.data()); };
        const View &last = views.back();
        for (size_t i = 0; i + 1 < views.size(); i++)
            if (start(views[i]) < start(last) + last.bytes() && start(last) < start(views[i]) + views[i].bytes()) return true;
        return false;
    }

    nb::object owner_;
    Model *model_;
    Memory block_;
    StepArrays arrays_;
    std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

// Bytes per second at which kernels of that name read `bytes` bytes of memory again and again.
double read_rate(const std::string &isa, size_t bytes, size_t repeats) {
    const cr_kernels *kernels = cr_find_kernels(isa.c_str());
    if (!kernels) throw nb::value_error(cr_error(CR_ERROR_ISA));
    bytes = (bytes + 255) / 256 * 256;
    Memory memory = allocate(bytes);
    prefer_large_pages(memory.get(), bytes);
    std::memset(memory.get(), 1, bytes);
    nb::gil_scoped_release release;
    uint32_t sink = kernels->read(memory.get(), bytes);
    auto start = std::chrono::steady_clock::now();
    for (size_t i = 0; i < repeats; i++) sink += kernels->read(memory.get(), bytes);
    std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    memory.get()[0] = static_cast<unsigned char>(sink);  // so that nothing is left out
    return static_cast<double>(bytes) * static_cast<double>(repeats) / taken.count();
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "The native core; see runtime/engine.py.";
    nb::class_<Model>(module, "Model")
        .def(nb::init<nb::handle, const std::optional<std::string> &>(), nb::arg("data"), nb::arg("isa") = nb::none())
        .def_prop_ro("isa", [](const Model &self) { return std::string(cr_isa(&self.model)); })
        .def_prop_ro("offline", [](const Model &self) { return cr_is_offline(&self.model) != 0; })
        .def_prop_ro("least_steps", [](const Model &self) { return self.model.least_steps; })
        .def_prop_ro("most_steps", [](const Model &self) { return self.model.most_steps; })
        .def_prop_ro("state_bytes", [](const Model &self) { return cr_state_size(&self.model); })
        .def_prop_ro("expanded_bytes", [](const Model &self) { return cr_expanded_size(&self.model); })
        .def("expand", &Model::expand)
        .def_prop_ro("block_bytes", [](const Model &self) { return cr_block_size(&self.model); })
        .def("workspace_bytes", [](const Model &self, size_t steps) { return cr_workspace_size(&self.model, steps); });
    nb::class_<Stream>(module, "Stream")
        .def(nb::init<nb::object>())
        .def("step", &Stream::step, nb::arg("x").none(), nb::arg("out").none())
        .def("run_plain", &Stream::run_plain, nb::arg("x").none(), nb::arg("most"))
        .def("run", &Stream::run)
        .def("time", &Stream::time)
        .def("reset", &Stream::reset)
        .def("read_state", &Stream::read_state)
        .def("write_state", &Stream::write_state)
        .def("state", &Stream::state)
        .def("set_state", &Stream::set_state);
    module.def("has_isa", [](const std::string &name) { return cr_find_kernels(name.c_str()) != nullptr; });
    module.def("isas", [] {
        std::vector<std::string> names;
        for (size_t i = 0; cr_isa_name(i); i++) names.emplace_back(cr_isa_name(i));
        return names;
    });
    module.def("read_rate", &read_rate);
    describe_format(module);
    define_quantization(module);
}
