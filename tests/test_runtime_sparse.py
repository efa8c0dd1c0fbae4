"""Sparse matrices in programs, files and engines."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, ModelFileError
from compactrnn.report.bench.roofline import weight_bytes
from compactrnn.runtime import _native
from compactrnn.runtime import layout as lay
from compactrnn.runtime.file import read, write
from compactrnn.runtime.hoist import hoist
from compactrnn.runtime.inventory import inventory, stored_types
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor
from compactrnn.runtime.quantize import quantize, quantize_measured
from compactrnn.runtime.rounding import quantize_rows
from compactrnn.runtime.sparse import SPARSE, pack, unpack
from sparse_programs import layer, plain, sparse
from test_runtime_file import changed, repair
from test_runtime_reference import Reference, awkward_rows, one_op, whole_product, whole_total


def affine(tensor, bias=None, p0=0.0):
    n, k = tensor.shape
    constants = [] if bias is None else [bias]
    op = Op(Code.AFFINE, Ref(1), n, k, a=Ref(0), b=None if bias is None else Ref(2), tensor=0, p0=p0, name="fc")
    return one_op(op, k, [tensor], constants)


def results(program, xs):
    """Of a whole run, on every instruction set, and of a stream step by step."""
    data = write(program)
    found = [Engine(data, isa=isa).run(xs) for isa in _native.isas()]
    stream = Engine(data).stream()
    return [*found, np.stack([stream.step(x) for x in xs])]


SIZES = (st.integers(1, 150), st.integers(1, 90))
KEPT = st.sampled_from([0.0, 0.02, 0.3, 1.0])


@settings(deadline=None, max_examples=60)
@given(*SIZES, KEPT, st.booleans(), st.integers(1, 4), st.integers(0, 2**32))
def test_products_are_those_of_the_plain_matrix(n, k, keep, whole, block, seed):
    """Bit for bit: one more product with zero changes nothing."""
    rng = np.random.default_rng(seed)
    tensor = sparse(rng, n, k, keep, whole, block)
    program = affine(tensor, rng.normal(size=n).astype(np.float32))
    xs = rng.normal(size=(9, k)).astype(np.float32)
    wanted = Engine(write(plain(program))).run(xs)
    for each in (program, hoist(program, smallest=1)):
        assert all(np.array_equal(y, wanted) for y in results(each, xs))
    again = read(write(program))
    assert write(again) == write(program) and again.tensors[0].form == SPARSE
    assert again.macs_per_step() == program.macs_per_step() == Engine(write(program)).macs_per_step


@settings(deadline=None, max_examples=60)
@given(*SIZES, KEPT, st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([0.0, 1 / 127, 0.01]))
def test_int8_products_are_exact(n, k, keep, block, seed, p0):
    rng = np.random.default_rng(seed)
    tensor = sparse(rng, n, k, keep, True, block)
    bias = rng.uniform(-1, 1, n).astype(np.float32)
    rows = awkward_rows(rng, k)
    wanted = np.stack([whole_product(x, whole_total(tensor), tensor.scale, bias, p0) for x in rows])
    assert all(y.tobytes() == wanted.tobytes() for y in results(affine(tensor, bias, p0), rows))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("n", [16, 37, 130])
@pytest.mark.parametrize("code", [Code.LSTM, Code.GRU])
def test_units_are_those_of_the_plain_matrices(code, n, whole):
    program = layer(code, n, 29, whole=whole)
    xs = np.random.default_rng(1).normal(size=(21, 29)).astype(np.float32)
    wanted = Engine(write(plain(program))).run(xs)
    assert all(np.array_equal(y, wanted) for y in results(program, xs))
    (reference,) = Reference(program).run(xs, 21)
    np.testing.assert_allclose(wanted, reference, atol=0.1 if whole else 1e-5)


def test_lines_are_those_that_are_not_zero():
    values = np.zeros((40, 9), np.float32)
    values[3, 8], values[20, 0], values[31, 0], values[17, 5] = 1, 2, 3, 4
    for kind, wanted in ((np.float32, ([0, 1, 3, 3], [8, 0, 5])), (np.int8, ([0, 1, 3, 3], [2, 0, 1]))):
        stored = pack(values.astype(kind))
        assert (stored.starts.tolist(), stored.numbers.tolist()) == wanted
        np.testing.assert_array_equal(unpack(stored, 40, 9), values)
    assert SPARSE.numbers(values) == 1 + 3 + 3  # rows of zeros count as padding
    assert SPARSE.numbers(values.astype(np.int8)) == 1 + 3 * 4 + 3 * 4


def test_what_is_not_read_does_not_count():
    """A NaN reaches the rows whose panel reads it, in float32; in int8 there is one scale for all."""
    values = np.zeros((32, 8), np.float32)
    values[:16, 2] = 1
    values[16:, 3] = 1
    xs = np.zeros((2, 8), np.float32)
    xs[0, 2], xs[1, 7] = np.nan, np.inf
    for y in results(affine(Tensor(values, form=SPARSE)), xs):
        assert np.isnan(y[0, :16]).all() and not y[0, 16:].any() and not y[1].any()
    for y in results(affine(replace(quantize_rows(values), form=SPARSE)), xs):
        assert np.isnan(y).all()


def test_int8_sums_at_their_largest():
    k = 65536
    tensor = Tensor(np.full((1, k), 127, np.int8), np.ones(1, np.float32), form=SPARSE)
    engine = Engine(write(affine(tensor, p0=1.0)))
    for sign in (1, -1):
        assert engine.run(np.full((1, k), sign * 1e9, np.float32))[0, 0] == np.float32(sign * 127 * 127 * k)


def test_files_are_as_small_as_they_say():
    for whole in (False, True):
        program = layer(Code.LSTM, 256, 256, keep=0.25, whole=whole)
        data, dense = write(program), write(plain(program))
        rows = inventory(program)
        name = "sparse int8" if whole else "sparse float32"
        assert [row["stored as"] for row in rows] == [name] * 2
        assert 0.95 * len(data) < sum(row["bytes"] for row in rows) < len(data) < 0.32 * len(dense)
        assert sum(row["MACs"] for row in rows) == program.macs_per_step() < 0.3 * plain(program).macs_per_step()
        assert [row["parameters"] for row in rows] == [row["MACs"] for row in rows]
        line = 66 * sum(len(pack(t.values).numbers) for t in program.tensors)
        assert weight_bytes(data) == line


@pytest.mark.parametrize("weights", ["float32", "int8", "int4", "auto"])
def test_they_are_quantized_by_row(weights):
    program = layer(Code.LSTM, 37, 20)
    xs = np.random.default_rng(1).normal(size=(9, 20)).astype(np.float32)
    stored = quantize(program, weights)
    kind = "float32" if weights == "float32" else "int8"
    names = ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    assert stored_types(stored) == dict.fromkeys(names, f"sparse {kind}")
    wanted = Engine(write(quantize(plain(program), kind))).run(xs)
    assert np.array_equal(Engine(write(stored)).run(xs), wanted)
    measured = quantize_measured(program, {names[0]: weights, "*": weights}, calibration=[xs])
    assert all(kind.startswith("sparse ") for kind in stored_types(measured.program).values())
    no_int4 = {name for name, reason in measured.reasons.items() if "no int4" in reason}
    assert no_int4 == (set(names) if weights == "int4" else set())


def test_a_matrix_whose_columns_are_scaled_stays_sparse():
    """Inputs of very different sizes: the remedy keeps the zeros where they are."""
    rng = np.random.default_rng(0)
    tensor = sparse(rng, 64, 32, keep=0.5)
    tensor.values[:, 16:] *= 1e-3
    xs = rng.normal(size=(50, 32)).astype(np.float32)
    xs[:, 16:] *= 1000
    measured = quantize_measured(affine(tensor), "int8", calibration=[xs])
    assert "columns scaled" in measured.reasons["fc"] and stored_types(measured.program) == {"fc": "sparse int8"}
    assert measured.program.macs_per_step() == affine(tensor).macs_per_step()
    wanted = xs @ tensor.dense().T
    got = Engine(write(measured.program)).run(xs)
    assert np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("fold", [True, "auto"])
def test_a_product_with_a_token_table_may_be_folded(fold):
    """Always if that is asked for, else where the file gets smaller, which it does not by filling in the zeros."""
    rng = np.random.default_rng(0)
    table = Tensor(rng.normal(size=(40, 48)).astype(np.float32))
    program = affine(sparse(rng, 64, 48, keep=0.1))
    embed = Op(Code.EMBED, Ref(0), 48, a=Ref(2), tensor=1, name="embedding")
    program = replace(
        program,
        buffers=[Buffer(48), Buffer(64), Buffer(1, "input")],
        tensors=[*program.tensors, table],
        segments=[Segment("forward", (embed, *program.ops))],
        inputs=[Input("token", 2, (), 40)],
    )
    wanted = Engine(write(program)).run(np.arange(40))
    folded = quantize(program, "float32", fold=fold)
    np.testing.assert_allclose(Engine(write(folded)).run(np.arange(40)), wanted, atol=1e-6)
    assert ("fc" in stored_types(folded)) == (fold == "auto")


def whole_file():
    """An int8 matrix of 20 rows and 10 columns: 2 panels of 2 and 1 lines; where its parts are."""
    values = np.zeros((20, 10), np.int8)
    values[0, 0], values[3, 9], values[17, 5] = 1, 2, 3
    data = write(affine(Tensor(values, np.ones(20, np.float32), form=SPARSE)))
    place = int(np.frombuffer(data, lay.TENSOR, 1, 64 + 2 * 32)[0]["place"])
    return data, {
        "starts": place,
        "numbers": place + 64,
        "lines": place + 128,
        "scales": place + 320,
        "sums": place + 448,
    }


DAMAGE = [
    ("starts", 0, "<u4", 1, "out of range"),
    ("starts", 4, "<u4", 4, "out of range"),
    ("starts", 4, "<u4", 0xFFFFFFFF, "out of range"),
    ("starts", 8, "<u4", 1, "out of range"),
    ("starts", 8, "<u4", 5, "out of range|not where|shorter"),
    ("starts", 8, "<u4", 0xFFFFFFFF, "out of range"),
    ("starts", 12, "<u4", 1, "not where"),
    ("numbers", 0, "<u2", 2, "out of range"),
    ("numbers", 0, "<u2", 3, "out of range"),
    ("numbers", 2, "<u2", 3, "out of range"),
    ("numbers", 2, "<u2", 0, "out of range"),
    ("numbers", 4, "<u2", 0xFFFF, "out of range"),
    ("numbers", 6, "<u2", 1, "not where"),
    ("lines", 64 + 2, "i1", 1, "not where"),  # column 10
    ("lines", 128 + 16, "i1", 1, "not where"),  # row 20
    ("lines", 0, "i1", -128, "out of range"),
    ("lines", 0, "i1", 2, "out of range"),  # another sum
    ("scales", 0, "<f4", 0, "out of range"),
    ("scales", 76, "<f4", np.nan, "out of range"),
    ("sums", 0, "<i4", 7, "out of range"),
]


@pytest.mark.parametrize(("part", "at", "dtype", "value", "message"), DAMAGE)
def test_damaged_parts_are_refused_by_name(part, at, dtype, value, message):
    data, places = whole_file()
    assert np.isfinite(Engine(data).run(np.ones((1, 10)))).all()
    damaged, number = bytearray(data), np.array(value, dtype).tobytes()
    damaged[places[part] + at : places[part] + at + len(number)] = number
    with pytest.raises(ModelFileError, match=message):
        Engine(repair(damaged))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("type", lay.Type.MATRIX_I8, "not where"),
        ("type", lay.Type.SPARSE_F32, "not where|out of range"),
        ("type", len(lay.Type), "unknown"),
        ("rows", 0, "limits"),
        ("rows", 33, "out of range|not where"),
        ("rows", 19, "not where"),
        ("columns", 4, "out of range"),
        ("columns", 9, "not where"),
        ("columns", 65537, "limits"),
        ("block", 0, "limits"),
        ("block", 5, "limits"),
        ("block", 1, None),
        ("place", 0, "not where"),
        ("scale", 0, "not where"),
    ],
)
def test_a_damaged_record_is_refused_by_name(field, value, message):
    data = changed(whole_file()[0], "tensors", 0, field, value)
    if message is None:
        assert np.isfinite(Engine(data).run(np.ones((1, 10)))).all()
        return
    with pytest.raises(ModelFileError, match=message):
        Engine(data)


def test_the_blocks_of_units_must_be_theirs():
    data = write(layer(Code.LSTM, 16, 16))
    with pytest.raises(ModelFileError, match="contradict"):
        Engine(changed(data, "tensors", 1, "block", 3))
    with pytest.raises(ModelFileError, match="out of range"):
        Engine(changed(data, "ops", 1, "p0", 0.5))


def test_what_cannot_be_stored_is_refused():
    rng = np.random.default_rng(0)
    int4 = Tensor(np.ones((3, 5), np.int8), np.ones(3, np.float32), np.ones((3, 1), np.uint8), form=SPARSE)
    with pytest.raises(ValueError, match="sparse matrix: expected float32 or int8, got int4"):
        write(affine(int4))
    with pytest.raises(ValueError, match="scale of a quantized tensor"):
        write(affine(replace(sparse(rng, 5, 5, whole=True), scale=None)))
    table = sparse(rng, 3, 3)
    op = Op(Code.EMBED, Ref(1), 3, a=Ref(0), tensor=0)
    program = Program([Buffer(1, "input"), Buffer(3)], [table], [Segment("forward", (op,))])
    program = replace(program, inputs=[Input("x", 0, (), 3)], outputs=[Output("y", Ref(1), (3,))])
    with pytest.raises(ValueError, match=r"tensor of EMBED: expected a table .*, got sparse"):
        write(program)
