// What Python sees of the format: its constants, enumerations and operations, as the core knows them.
#include <nanobind/nanobind.h>

#include <initializer_list>
#include <utility>

#include "cr.h"

namespace nb = nanobind;

namespace {

using Names = std::initializer_list<std::pair<const char *, unsigned>>;

nb::dict numbers(Names names) {
    nb::dict found;
    for (auto [name, number] : names) found[name] = number;
    return found;
}

nb::object operand(const cr_operand &is) {
    if (!is.width) return nb::none();
    return nb::make_tuple(cr_width_text(is.width), (is.use & CR_IN_PLACE) != 0, (is.use & CR_OPTIONAL) != 0,
                          (is.use & CR_UPDATED) != 0, (is.use & CR_ALL_STEPS) != 0);
}

nb::dict operation(const cr_operation &is) {
    static const char *const rules[] = {"", "k", "k divides n", "n divides k", "n <= k"};
    static const char *const stores[] = {"", "matrix", "table", "index", "columns", "taps"};
    nb::dict found;
    found["operands"] = nb::make_tuple(operand(is.a), operand(is.b), operand(is.c), operand(is.d));
    found["k"] = rules[is.k];
    found["tensor"] = stores[is.tensor];
    found["gates"] = is.gates;
    found["rows"] = cr_width_text(is.rows);
    found["functions"] = is.functions;
    found["parameters"] = is.parameters;
    found["writes"] = is.writes_k ? "k" : "n";
    found["work"] = is.work ? cr_width_text(is.work) : "n";
    return found;
}

}  // namespace

void describe_format(nb::module_ &module) {
    module.attr("MAGIC") = nb::bytes(CR_MAGIC, 8);
    module.attr("MAX_VECTOR") = static_cast<double>(CR_MAX_VECTOR);
    module.attr("constants") = numbers({
        {"VERSION", CR_VERSION},
        {"LINE", CR_LINE},
        {"FEATURE_STEPS", CR_FEATURE_STEPS},
        {"LANES", CR_LANES},
        {"GROUP", CR_GROUP},
        {"NONE", CR_NONE},
        {"MAX_BLOCK_PANELS", CR_MAX_BLOCK_PANELS},
        {"MAX_BUFFERS", CR_MAX_BUFFERS},
        {"MAX_TENSORS", CR_MAX_TENSORS},
        {"MAX_OPS", CR_MAX_OPS},
        {"MAX_SEGMENTS", CR_MAX_SEGMENTS},
        {"MAX_PORTS", CR_MAX_PORTS},
        {"MAX_RANK", CR_MAX_RANK},
        {"MAX_WIDTH", CR_MAX_WIDTH},
        {"MAX_COLUMNS", CR_MAX_COLUMNS},
        {"MAX_ROWS", CR_MAX_ROWS},
        {"MAX_METADATA", CR_MAX_METADATA},
        {"MAX_GROUP_SCALES", CR_MAX_GROUP_SCALES},
    });
    nb::dict enums, operations;
    nb::list parameters;
#define NUMBER(prefix, name) {#name, CR_##prefix##name}
    enums["kind"] = numbers({NUMBER(, SCRATCH), NUMBER(, STATE), NUMBER(, CONSTANT), NUMBER(, INPUT), NUMBER(, SEQUENCE)});
    enums["segment"] = numbers({NUMBER(, FORWARD), NUMBER(, ONCE)});
    enums["type"] = numbers({NUMBER(, MATRIX_F32), NUMBER(, MATRIX_I8), NUMBER(, MATRIX_I4), NUMBER(, TABLE_F32),
                             NUMBER(, TABLE_F16), NUMBER(, TABLE_I8), NUMBER(, INDEX), NUMBER(, TOEPLITZ_F32),
                             NUMBER(, SPARSE_F32), NUMBER(, SPARSE_I8), NUMBER(, ENTRIES_F32), NUMBER(, ENTRIES_I8),
                             NUMBER(, COLUMNS_I8), NUMBER(, RUNS), NUMBER(, REPEATS)});
    static_assert(CR_KIND_COUNT == 5 && CR_SEGMENT_KIND_COUNT == 2 && CR_TYPE_COUNT == 15, "a name is missing above");  // as it would be in layout.py
#undef NUMBER
#define CODE(name, number, ...) {#name, number},
    enums["Code"] = numbers({CR_OPERATIONS(CODE)});
    enums["Unary"] = numbers({CR_UNARY_FUNCTIONS(CODE)});
    enums["Binary"] = numbers({CR_BINARY_FUNCTIONS(CODE)});
#undef CODE
#define CODE(name, number) {#name, number},
    enums["Reduce"] = numbers({CR_REDUCE_FUNCTIONS(CODE)});
    enums["Top"] = numbers({CR_TOP_FUNCTIONS(CODE)});
    enums["Matmul"] = numbers({CR_MATMUL_FUNCTIONS(CODE)});
    enums["Over"] = numbers({CR_OVER_FUNCTIONS(CODE)});
    enums["Attend"] = numbers({CR_ATTEND_FUNCTIONS(CODE)});
#undef CODE
    for (const cr_operation &is : cr_operations)
        if (is.name) operations[is.name] = operation(is);
    for (uint8_t count : cr_unary_parameters) parameters.append(count);
    module.attr("enums") = enums;
    module.attr("operations") = operations;
    module.attr("unary_parameters") = nb::tuple(parameters);
}
