"""Toeplitz-like matrices in programs, files and engines."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, ModelFileError
from compactrnn.runtime import _native
from compactrnn.runtime import layout as lay
from compactrnn.runtime.file import read, write
from compactrnn.runtime.gates import gate_rows, padded
from compactrnn.runtime.inventory import inventory, stored_types
from compactrnn.runtime.program import GATES, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.quantize import quantize, quantize_measured
from compactrnn.runtime.toeplitz import ToeplitzBlocks
from test_runtime_file import changed, repair
from test_runtime_reference import Reference, one_op
from toeplitz_programs import lstm, toeplitz


def affine(tensor):
    n, k = tensor.shape
    return one_op(Op(Code.AFFINE, Ref(1), n, k, a=Ref(0), tensor=0, name="fc"), k, [tensor])


def shift(k, f):
    """Z_f: ones below the diagonal, f in the corner."""
    matrix = np.eye(k, k=-1)
    matrix[0, -1] += f
    return matrix


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_blocks_are_products_of_a_circulant_and_a_skew_circulant_matrix(k, rank):
    rank = min(k, rank)
    tensor = toeplitz(np.random.default_rng(k), k, k, rank=rank)
    matrix = np.zeros((k, k))
    for g, h in zip(*tensor.values[:, 0].astype(np.float64), strict=True):
        factors = [np.zeros((k, k)), np.zeros((k, k))]
        for factor, vector, f in zip(factors, (g, h), (1, -1), strict=True):
            for column in range(k):  # v, Z v, Z^2 v, ...
                factor[:, column] = np.linalg.matrix_power(shift(k, f), column) @ vector
        matrix += factors[0] @ factors[1]
    np.testing.assert_allclose(tensor.dense(), matrix, atol=1e-12)
    displaced = shift(k, 1) @ matrix - matrix @ shift(k, -1)
    assert np.linalg.matrix_rank(displaced, tol=1e-9) <= rank


def test_gates_are_blocks_below_each_other_cut_off_and_interleaved():
    tensor = toeplitz(np.random.default_rng(0), 7, 3, gates=2)
    whole = np.stack([Tensor(tensor.values[:, i : i + 1], form=ToeplitzBlocks(3)).dense() for i in range(6)])
    rows = whole.reshape(2, 9, 3)[:, :7].reshape(14, 3)
    np.testing.assert_array_equal(tensor.dense(), rows)
    other = replace(tensor, form=ToeplitzBlocks(14, 2, interleaved=True))
    assert tensor.shape == (14, 3) and other.shape == (32, 3)
    np.testing.assert_array_equal(other.dense(), gate_rows(rows, 2))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_the_core_multiplies_with_the_matrix(units, k, gates, rank, block, interleaved, seed):
    tensor = toeplitz(np.random.default_rng(seed), units, k, gates, min(rank, k), block, interleaved)
    data, wanted = write(affine(tensor)), tensor.dense()
    for isa in _native.isas():
        engine = Engine(data, isa=isa)
        matrix = engine.run(np.eye(k, dtype=np.float32)).T  # its columns, exactly
        np.testing.assert_allclose(matrix, wanted, rtol=1e-7, atol=1e-7 * np.abs(wanted).max())
    assert write(read(data)) == data
    assert read(data).tensors[0].form == tensor.form


POLYNOMIALS = [  # units, k, gates, rank, interleaved
    (512, 512, 4, 4, True),
    (500, 512, 5, 3, True),
    (1000, 1024, 3, 8, True),
    (512, 512, 3, 16, True),
    (1024, 1024, 1, 5, False),
    (1300, 512, 2, 1, False),
    (8195, 128, 1, 1, False),
    (700, 256, 7, 2, False),
    (600, 1024, 3, 2, False),
]


@pytest.mark.parametrize(("units", "k", "gates", "rank", "interleaved"), POLYNOMIALS)
def test_large_matrices_are_multiplied_by_polynomials(units, k, gates, rank, interleaved):
    rng = np.random.default_rng(units)
    tensor = toeplitz(rng, units, k, gates, rank, interleaved=interleaved)
    assert tensor.form.is_spectral(rank, k)
    program = affine(tensor)
    (op,) = program.ops
    bias = Buffer(op.n, "constant", rng.normal(size=op.n).astype(np.float32))
    biased = replace(program, buffers=[*program.buffers, bias], segments=[Segment("forward", (replace(op, b=Ref(2)),))])
    xs = rng.normal(size=(3, k)).astype(np.float32)
    product = fast_product(tensor, xs)
    for each, init in ((program, 0.0), (biased, bias.init)):
        data = write(each)
        assert write(read(data)) == data
        results = [Engine(data, isa=isa).run(xs) for isa in _native.isas()]
        np.testing.assert_allclose(results[0], product + init, atol=1e-6 * np.abs(product).max())
        stream = Engine(data).stream()
        results.append(np.stack([stream.step(x) for x in xs]))
        assert all(y.tobytes() == results[0].tobytes() for y in results)
    assert Engine(data).macs_per_step == program.macs_per_step() < units * gates * k
    assert Engine(data).expanded_bytes == tensor.form.expanded_bytes(tensor.values) + 16 * k


@pytest.mark.parametrize(
    ("units", "k", "gates", "rank"), [(380, 512, 4, 4), (520, 520, 4, 4), (512, 512, 4, 17), (511, 1024, 8, 1)]
)
def test_other_matrices_are_expanded(units, k, gates, rank):
    tensor = toeplitz(np.random.default_rng(0), units, k, gates, rank)
    engine = Engine(write(affine(tensor)))
    assert engine.macs_per_step == units * gates * k and engine.expanded_bytes >= 4 * units * gates * k
    xs = np.random.default_rng(1).normal(size=(1, k)).astype(np.float32)
    np.testing.assert_allclose(engine.run(xs), fast_product(tensor, xs), atol=1e-5)


def fast_product(tensor, xs):
    """The product with each row of `xs` in float64, by numpy's transforms."""
    form, k = tensor.form, xs.shape[1]
    first, second = tensor.values.astype(np.float64)
    turn = np.exp(1j * np.pi * np.arange(k) / k)
    inner = np.fft.ifft(np.fft.fft(turn * second) * np.fft.fft(turn * xs)[:, None, None]) * turn.conj()
    blocks = np.fft.ifft((np.fft.fft(first) * np.fft.fft(inner.real)).sum(axis=2)).real
    rows = blocks.reshape(len(xs), form.gates, -1)[:, :, : form.units].reshape(len(xs), -1)
    return gate_rows(rows.T, form.gates).T if form.interleaved else rows


def test_the_fast_product_is_that_of_the_matrix():
    tensor = toeplitz(np.random.default_rng(0), 30, 16, gates=3, interleaved=True)
    xs = np.random.default_rng(1).normal(size=(2, 16))
    np.testing.assert_allclose(fast_product(tensor, xs), xs @ tensor.dense().T, atol=1e-12)


@pytest.mark.parametrize(("n", "k"), [(2050, 256), (600, 1024)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("code", [Code.LSTM, Code.GRU])
def test_units_are_the_same_by_polynomials(code, biased, n, k):
    """As with the expanded matrix, for 5 steps."""
    gates, rng = GATES[code], np.random.default_rng(n)
    tensor = toeplitz(rng, n, k, gates, 1, block=gates, interleaved=True)
    rows = gates * padded(n)
    assert tensor.form.is_spectral(1, k)
    buffers = [
        Buffer(k, "input"),
        Buffer(rows, "constant", rng.normal(size=rows).astype(np.float32)),
        Buffer(n, "state"),
    ]
    buffers += [Buffer(n), Buffer(n, "constant", rng.normal(size=n).astype(np.float32))]
    extra = {"b": Ref(2)} if code == Code.LSTM else {"d": Ref(2), **({"b": Ref(4)} if biased else {})}
    ops = [Op(code, Ref(3), n, k, a=Ref(1), c=Ref(0), tensor=0, **extra)]
    if code == Code.GRU:
        ops.append(Op(Code.UNARY, Ref(2), n, a=Ref(3), fn=Unary.COPY))
    segments, outputs = [Segment("forward", tuple(ops))], [Output("y", Ref(3), (n,))]
    program = Program(buffers, [tensor], segments, [Input("x", 0, (k,))], outputs)
    plain = replace(program, tensors=[Tensor(tensor.dense().astype(np.float32), block=gates)])
    xs = rng.normal(size=(5, k)).astype(np.float32)
    results = [Engine(write(program), isa=isa).run(xs) for isa in _native.isas()]
    np.testing.assert_allclose(results[0], Engine(write(plain)).run(xs), atol=1e-5)
    assert all(y.tobytes() == results[0].tobytes() for y in results)
    stream = Engine(write(program)).stream()
    assert np.stack([stream.step(x) for x in xs]).tobytes() == results[0].tobytes()


def test_multiplications_by_polynomials_are_counted():
    """As in the loops of the core, one by one."""

    def split(half):
        return sum(4 * (half // 2) for level in range(half.bit_length() - 1))

    k, rank, gates = 512, 3, 4
    tensor = toeplitz(np.random.default_rng(0), k, k, gates, rank)
    halves = [2**i for i in range(1, 9)]  # of k and below: X^2 + 1, ..., X^256 + 1
    whole = sum(split(half // 2) for half in halves)
    pointwise = 4 * (k // 2) + 2 + sum(4 * (half // 2) for half in halves)
    wanted = split(k // 2) + gates * rank * (split(k // 2) + whole + pointwise) + gates * whole
    assert tensor.form.macs_of(rank, k) == wanted == affine(tensor).macs_per_step()


def test_not_a_number_is_not_lost_in_a_polynomial():
    tensor = toeplitz(np.random.default_rng(0), 1024, 1024, rank=2)
    xs = np.ones((4, 1024), np.float32)
    xs[1, 0], xs[2, -1], xs[3, 500] = np.nan, np.inf, -np.inf
    ys = Engine(write(affine(tensor))).run(xs)
    assert np.isfinite(ys[0]).all() and not np.isfinite(ys[1:]).any()


def test_entries_far_from_each_other_stay_accurate():
    rng = np.random.default_rng(0)
    tensor = toeplitz(rng, 500, 500, rank=5)
    tensor.values[0] *= 10.0 ** rng.uniform(-6, 6, tensor.values[0].shape)
    wanted = tensor.dense()
    got = Engine(write(affine(tensor))).run(np.eye(500, dtype=np.float32)).T
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-10 * np.abs(wanted).max())


def test_the_largest_vectors_give_finite_matrices():
    values = np.full((2, 1, 64, 64), 1e10, np.float32)
    form = ToeplitzBlocks(64)
    assert np.isfinite(Engine(write(affine(Tensor(values, form=form)))).run(np.eye(64, dtype=np.float32))).all()
    with pytest.raises(ValueError, match=r"expected numbers up to 1e\+10"):
        write(affine(Tensor(values * 2, form=form)))
    with pytest.raises(ValueError, match="got nan"):
        write(affine(Tensor(values * np.nan, form=form)))


@pytest.mark.parametrize("n", [16, 37, 256])
def test_an_lstm_is_small_and_the_same_on_every_instruction_set(n):
    program = lstm(n, 256, rank=4)
    data, plain = write(program), write(lstm(n, 256, rank=4, dense=True))
    xs = np.random.default_rng(1).normal(size=(9, 256)).astype(np.float32)
    (wanted,) = Reference(program).run(xs, 9)
    results = [Engine(data, isa=isa).run(xs) for isa in _native.isas()]
    np.testing.assert_allclose(results[0], wanted, atol=1e-5)
    assert all(y.tobytes() == results[0].tobytes() for y in results)
    np.testing.assert_allclose(results[0], Engine(plain).run(xs), atol=1e-6)
    stream = Engine(data).stream()
    assert np.stack([stream.step(x) for x in xs]).tobytes() == results[0].tobytes()
    if n == 256:
        assert len(data) < len(plain) / 25
    assert Engine(data).macs_per_step == Engine(plain).macs_per_step


def test_matrices_count_as_memory():
    data = write(lstm(256, 256, rank=1))
    engine = Engine(data)
    assert engine.expanded_bytes == 2 * 4 * 1024 * 256 + 16 * 256
    assert Engine(data, memory_limit=engine.expanded_bytes).expanded_bytes == engine.expanded_bytes
    for limit in (engine.expanded_bytes - 1, 1000):
        with pytest.raises(
            ValueError, match=f"matrices made on opening: expected .*, got {engine.expanded_bytes} bytes"
        ):
            Engine(data, memory_limit=limit)
    values = np.ones((2, 1, 1, 65535), np.float32)
    huge = write(affine(Tensor(values, form=ToeplitzBlocks(65535))))
    assert len(huge) < 1 << 20
    with pytest.raises(ValueError, match="matrices made on opening"):
        Engine(huge)
    assert Engine(write(lstm(256, 256, rank=1, dense=True))).expanded_bytes == 0


def test_nothing_runs_before_the_matrices_are_there():
    model = _native.Model(write(affine(toeplitz(np.random.default_rng(0), 3, 5))))
    xs, ys = np.ones((1, 5), np.float32), np.zeros((1, 3), np.float32)
    for whole in (False, True):
        with pytest.raises(ValueError, match="cr_expand"):
            _native.Stream(model).run([xs], [ys], 1, whole)
    assert not ys.any()


FORM = [
    ("rank", 0, "limits"),
    ("rank", 6, "limits"),
    ("rank", 3, "shorter"),
    ("gates", 0, "limits"),
    ("gates", 1, "contradict"),
    ("gates", 0xFFFFFFFF, "contradict"),
    ("units", 0, "limits"),
    ("units", 8, "contradict"),
    ("units", 0xFFFFFFFF, "contradict"),
    ("interleaved", 1, "contradict"),
    ("interleaved", 2, "limits"),
    ("reserved", 1, "not where"),
]
TENSOR = [
    ("type", lay.Type.MATRIX_F32, "not where"),
    ("type", len(lay.Type), "unknown"),
    ("rows", 15, "contradict"),
    ("rows", 0, "limits"),
    ("columns", 4, "not where"),
    ("columns", 65537, "limits"),
    ("block", 0, "limits"),
    ("block", 5, "limits"),
    ("block", 1, None),
    ("place", 0, "not where"),
    ("scale", 64, "not where"),
]


@pytest.mark.parametrize(("field", "value", "message"), FORM)
def test_a_damaged_form_is_refused_by_name(field, value, message):
    data = bytearray(write(affine(toeplitz(np.random.default_rng(0), 7, 5, gates=2))))
    place = int(np.frombuffer(data, lay.TENSOR, 1, 64 + 2 * 32)[0]["place"])
    form = np.frombuffer(data, lay.TOEPLITZ, 1, place).copy()
    form[field] = value
    data[place : place + 64] = form.tobytes()
    with pytest.raises(ModelFileError, match=message):
        Engine(repair(data))


@pytest.mark.parametrize(("field", "value", "message"), TENSOR)
def test_a_damaged_record_is_refused_by_name(field, value, message):
    data = changed(write(affine(toeplitz(np.random.default_rng(0), 7, 5, gates=2))), "tensors", 0, field, value)
    if message is None:
        assert np.isfinite(Engine(data).run(np.ones((1, 5)))).all()
        return
    with pytest.raises(ModelFileError, match=message):
        Engine(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -2e10])
@pytest.mark.parametrize("at", [0, -1])
def test_damaged_vectors_are_refused(value, at):
    tensor = toeplitz(np.random.default_rng(0), 8, 8, rank=1)
    data = bytearray(write(affine(tensor)))
    place = bytes(data).index(tensor.values.tobytes()) + (0 if at == 0 else tensor.values.nbytes - 4)
    data[place : place + 4] = np.float32(value).tobytes()
    with pytest.raises(ModelFileError, match="out of range"):
        Engine(repair(data))


def test_operations_take_what_fits_them():
    program = lstm(16, 16, rank=1)
    data = write(program)
    for op, field, value, message in [(1, "p0", 0.5, "out of range"), (0, "p0", 0.5, "out of range")]:
        with pytest.raises(ModelFileError, match=message):
            Engine(changed(data, "ops", op, field, value))
    with pytest.raises(ModelFileError, match="contradict"):
        Engine(changed(data, "tensors", 1, "block", 3))


def test_what_cannot_be_stored_is_refused():
    values = np.ones((2, 1, 2, 3), np.float32)
    for form, wrong in [
        (ToeplitzBlocks(3), values[:1]),
        (ToeplitzBlocks(3), values.astype(np.int8)),
        (ToeplitzBlocks(3), values[0]),
        (ToeplitzBlocks(4), values),
        (ToeplitzBlocks(3, gates=3), values),
        (ToeplitzBlocks(3), np.ones((2, 1, 4, 3), np.float32)),
    ]:
        with pytest.raises(ValueError, match="vectors of a Toeplitz-like matrix: expected"):
            write(affine(replace(Tensor(values, form=ToeplitzBlocks(3)), values=wrong, form=form)))
    with pytest.raises(ValueError, match="multiple of 2 gates"):
        ToeplitzBlocks(3, gates=2).dense(values)
    table = Tensor(values, form=ToeplitzBlocks(3))
    op = Op(Code.EMBED, Ref(1), 3, a=Ref(0), tensor=0)
    program = Program([Buffer(1, "input"), Buffer(3)], [table], [Segment("forward", (op,))])
    program = replace(program, inputs=[Input("x", 0, (), 3)], outputs=[Output("y", Ref(1), (3,))])
    with pytest.raises(ValueError, match="tensor of EMBED: expected a table"):
        write(program)


@pytest.mark.parametrize("weights", ["float32", "int8", "int4", "auto"])
def test_quantization_leaves_them_alone_and_says_so(weights):
    program = lstm(37, 20, rank=3)
    xs = np.random.default_rng(1).normal(size=(5, 20)).astype(np.float32)
    wanted = Engine(write(program)).run(xs)
    assert Engine(write(quantize(program, weights))).run(xs).tobytes() == wanted.tobytes()
    measured = quantize_measured(program, {"lstm.weight_ih_l0": weights, "*": weights}, calibration=[xs])
    assert stored_types(measured.program) == dict.fromkeys(
        ["lstm.weight_ih_l0", "lstm.weight_hh_l0"], "toeplitz float32"
    )
    assert set(measured.reasons) == (set() if weights == "float32" else set(stored_types(program)))
    assert measured.error == 0


def test_a_product_with_a_token_table_is_not_folded():
    table = Tensor(np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32))
    program = affine(toeplitz(np.random.default_rng(0), 7, 5))
    embed = Op(Code.EMBED, Ref(0), 5, a=Ref(2), tensor=1, name="embedding")
    program = replace(
        program,
        buffers=[Buffer(5), Buffer(7), Buffer(1, "input")],
        tensors=[*program.tensors, table],
        segments=[Segment("forward", (embed, *program.ops))],
        inputs=[Input("token", 2, (), 4)],
    )
    wanted = Engine(write(program)).run(np.arange(4))
    got = Engine(write(quantize(program, "float32", fold=True))).run(np.arange(4))
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    types = stored_types(quantize(program, "int8"))
    assert types == {"embedding": "int8", "fc": "toeplitz float32"}


def test_the_inventory_counts_what_is_stored():
    program = lstm(256, 256, rank=4)
    rows = inventory(program)
    assert [row["stored as"] for row in rows] == ["toeplitz float32"] * 2
    assert [row["parameters"] for row in rows] == [2 * 4 * 4 * 256] * 2
    assert [row["shape"] for row in rows] == ["1024 x 256"] * 2
    assert [row["MACs"] for row in rows] == [4 * 256 * 256] * 2
    size = len(write(program))
    assert 0.9 * size < sum(row["bytes"] for row in rows) < size
