"""Matrices of single entries in programs, files and engines."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, ModelFileError
from compactrnn.report.bench.roofline import weight_bytes
from compactrnn.runtime import layout as lay
from compactrnn.runtime.entries import ENTRIES
from compactrnn.runtime.file import read, write
from compactrnn.runtime.hoist import hoist
from compactrnn.runtime.inventory import inventory, stored_types
from compactrnn.runtime.program import Buffer, Code, Op, Ref, Segment, State, Tensor
from compactrnn.runtime.quantize import quantize, quantize_measured
from compactrnn.runtime.rounding import quantize_rows
from compactrnn.runtime.sparse import SPARSE
from sparse_programs import layer
from test_runtime_file import changed, repair
from test_runtime_sparse import affine, results


def entries(rng, rows, columns, keep, whole=False):
    values = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < keep)
    tensor = quantize_rows(values) if whole else Tensor(values.astype(np.float32))
    return replace(tensor, form=ENTRIES)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 150),
    st.integers(1, 90),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_products_are_those_of_the_plain_float32_matrix(n, k, keep, whole, biased, seed):
    """Bit for bit: of int8 entries as float32 numbers, each rounded once."""
    rng = np.random.default_rng(seed)
    tensor = entries(rng, n, k, keep, whole)
    program = affine(tensor, rng.normal(size=n).astype(np.float32) if biased else None)
    xs = rng.normal(size=(9, k)).astype(np.float32)
    scale = np.ones(n, np.float32) if tensor.scale is None else tensor.scale
    numbers = tensor.values.astype(np.float32) * scale[:, None]
    wanted = Engine(write(replace(program, tensors=[Tensor(numbers)]))).run(xs)
    for each in (program, hoist(program, smallest=1)):
        assert all(np.array_equal(y, wanted) for y in results(each, xs))
    data = write(program)
    again = read(data)
    assert write(again) == data and again.tensors[0].form == ENTRIES
    assert again.macs_per_step() == Engine(data).macs_per_step == np.count_nonzero(tensor.values)


def test_a_sum_may_go_on_in_its_place():
    """As a second product on top of the first does."""
    rng = np.random.default_rng(0)
    tensors = [entries(rng, 40, 30, 0.2) for _ in range(2)]
    program = affine(tensors[0])
    (first,) = program.ops
    second = replace(first, b=first.dst, tensor=1)
    segments = [replace(program.segments[0], ops=(first, second))]
    program = replace(program, tensors=tensors, segments=segments)
    xs = rng.normal(size=(9, 30)).astype(np.float32)
    for y in results(program, xs):
        np.testing.assert_allclose(y, xs @ (tensors[0].values + tensors[1].values).T, atol=1e-5)


def test_what_is_not_read_does_not_count():
    values = np.zeros((3, 4), np.float32)
    values[0, 1], values[1, 2] = 1, 1
    xs = np.zeros((1, 4), np.float32)
    xs[0, 1], xs[0, 3] = np.nan, np.inf
    for tensor in (Tensor(values), quantize_rows(values)):
        for y in results(affine(replace(tensor, form=ENTRIES)), xs):
            assert np.isnan(y[0, 0]) and not y[0, 1:].any()


def test_files_are_as_small_as_they_say():
    for whole in (False, True):
        program = affine(entries(np.random.default_rng(0), 1024, 512, 0.01, whole))
        data = write(program)
        (row,) = inventory(program)
        count = np.count_nonzero(program.tensors[0].values)
        assert row["stored as"] == ("unstructured int8" if whole else "unstructured float32")
        assert row["bytes"] == 4 * 513 + (3 * count + 4096 if whole else 6 * count) < len(data) < row["bytes"] + 1024
        assert row["MACs"] == row["parameters"] == count
        assert weight_bytes(data) == row["bytes"] - (4096 if whole else 0)


@pytest.mark.parametrize("weights", ["float32", "int8", "int4", "auto"])
def test_they_are_quantized_by_row(weights):
    program = affine(entries(np.random.default_rng(0), 60, 40, 0.1))
    xs = np.random.default_rng(1).normal(size=(9, 40)).astype(np.float32)
    measured = quantize_measured(program, weights, calibration=[xs])
    kind = "float32" if weights == "float32" else "int8"
    assert stored_types(measured.program) == {"fc": f"unstructured {kind}"}
    assert ("no int4" in measured.reasons.get("fc", "")) == (weights == "int4")
    assert (measured.error > 0) == (kind == "int8") and measured.error < 0.01
    assert write(measured.program) == write(hoist(quantize(program, weights)))


def test_a_state_that_no_product_clips_may_be_set_to_any_numbers():
    """The inputs of single entries are not quantized, those of stored lines are."""
    program = affine(entries(np.random.default_rng(0), 16, 16, 0.3, whole=True), p0=1 / 127)
    (op,) = program.ops
    copy = Op(Code.UNARY, Ref(2), 16, a=Ref(1))
    buffers = [*program.buffers, Buffer(16, "state")]
    segments = [Segment("forward", (replace(op, a=Ref(2)), copy))]
    program = replace(program, buffers=buffers, segments=segments, states=[State("h", 2, (16,), bounded=True)])
    for form, bounded in ((ENTRIES, False), (SPARSE, True)):
        again = read(write(replace(program, tensors=[replace(program.tensors[0], form=form)])))
        assert again.states[0].bounded == bounded == bool(again.ops[0].p0)


def whole_file():
    """Of 20 rows and 3 columns, int8: entries in rows 0 and 3 of column 0, 17 of column 2; where its parts are."""
    values = np.zeros((20, 3), np.int8)
    values[0, 0], values[3, 0], values[17, 2] = 1, 2, 3
    data = write(affine(Tensor(values, np.ones(20, np.float32), form=ENTRIES)))
    place = int(np.frombuffer(data, lay.TENSOR, 1, 64 + 2 * 32)[0]["place"])
    return data, {part: place + 64 * i for i, part in enumerate(("starts", "rows", "values", "scales"))}


DAMAGE = [
    ("starts", 0, "<u4", 1, "out of range"),
    ("starts", 4, "<u4", 4, "out of range"),
    ("starts", 4, "<u4", 0xFFFFFFFF, "out of range"),
    ("starts", 12, "<u4", 1, "out of range"),
    ("starts", 12, "<u4", 0xFFFFFFFF, "out of range"),
    ("starts", 16, "<u4", 1, "not where"),
    ("rows", 0, "<u2", 3, "out of range"),
    ("rows", 2, "<u2", 0, "out of range"),
    ("rows", 4, "<u2", 20, "out of range"),
    ("rows", 6, "<u2", 1, "not where"),
    ("values", 0, "i1", -128, "out of range"),
    ("values", 3, "i1", 1, "not where"),
    ("scales", 0, "<f4", 0, "out of range"),
    ("scales", 76, "<f4", np.inf, "out of range"),
]


@pytest.mark.parametrize(("part", "at", "dtype", "value", "message"), DAMAGE)
def test_damaged_parts_are_refused_by_name(part, at, dtype, value, message):
    data, places = whole_file()
    assert np.isfinite(Engine(data).run(np.ones((1, 3)))).all()
    damaged, number = bytearray(data), np.array(value, dtype).tobytes()
    damaged[places[part] + at : places[part] + at + len(number)] = number
    with pytest.raises(ModelFileError, match=message):
        Engine(repair(damaged))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("type", lay.Type.SPARSE_I8, "limits"),
        ("rows", 0, "limits"),
        ("rows", 17, "out of range"),
        ("rows", 65537, "limits"),
        ("columns", 2, "not where|out of range"),
        ("columns", 65537, "limits"),
        ("block", 4, "limits"),
        ("place", 0, "not where"),
        ("scale", 0, "not where"),
    ],
)
def test_a_damaged_record_is_refused_by_name(field, value, message):
    with pytest.raises(ModelFileError, match=message):
        Engine(changed(whole_file()[0], "tensors", 0, field, value))


@pytest.mark.parametrize("code", [Code.LSTM, Code.GRU])
def test_units_do_not_take_them(code):
    program = layer(code, 16, 16)
    tensors = [replace(tensor, form=ENTRIES) for tensor in program.tensors]
    assert Engine(write(replace(program, tensors=[tensors[0], program.tensors[1]]))).macs_per_step > 0
    with pytest.raises(ValueError, match="contradict"):
        write(replace(program, tensors=tensors))


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(ValueError, match="at most 65536, got 65537"):
        write(affine(Tensor(np.ones((65537, 1), np.float32), form=ENTRIES)))
    int4 = Tensor(np.ones((3, 5), np.int8), np.ones(3, np.float32), np.ones((3, 1), np.uint8), form=ENTRIES)
    with pytest.raises(ValueError, match="unstructured matrix: expected float32 or int8, got int4"):
        write(affine(int4))
