"""Products of a matrix with all vectors of one step, on every instruction set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine
from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from compactrnn.runtime.file import write
from compactrnn.runtime.inventory import inventory
from compactrnn.runtime.program import Buffer, Code, Input, Matmul, Op, Output, Program, Ref, Segment, Tensor
from compactrnn.runtime.quantize import quantize
from compactrnn.runtime.rounding import quantize_groups, quantize_rows
from compactrnn.runtime.toeplitz import ToeplitzBlocks

NAN, INF = float("nan"), float("inf")


def product(tensor, side, count, bias=None, p0=0.0, in_place=False, step=None):
    """A program of one product with `count` vectors; the result is written over the bias or elsewhere.

    Windows begin `step` numbers after each other.
    """
    rows, columns = tensor.shape
    n, k = rows * count, columns + (count - 1) * (columns if step is None else step)
    buffers = [Buffer(k, "input"), Buffer(n), Buffer(n)]
    if bias is not None:
        buffers.append(Buffer(n, "constant", bias))
    place = {} if bias is None else {"b": Ref(1) if in_place else Ref(3)}
    ops = [Op(Code.MATMUL, Ref(1), n, k, a=Ref(0), tensor=0, fn=side, p0=p0, name="fc", **place)]
    if in_place:
        ops.insert(0, Op(Code.UNARY, Ref(1), n, a=Ref(3)))
    return Program(
        buffers, [tensor], [Segment("forward", tuple(ops))], [Input("x", 0, (k,))], [Output("y", Ref(1), (n,))]
    )


def every_isa(data, xs):
    """The outputs, which are the same bits on every instruction set, in runs and in steps."""
    results = set()
    for isa in _native.isas():
        engine = Engine(data, isa=isa)
        y, stream = np.asarray(engine.run(xs)), engine.stream()
        assert np.stack([stream.step(x) for x in xs]).tobytes() == y.tobytes()
        results.add(y.tobytes())
    assert len(results) == 1
    return y


def expected(tensor, side, x, bias, p0):
    """By the law of numbers: int8 sums exact, one chain for each float32 number, each operation rounded once."""
    f, (rows, columns) = np.float32, tensor.shape
    vectors = (lambda a: a.reshape(columns, -1).T) if side == Matmul.LEFT else (lambda a: a.reshape(-1, columns))
    if side == Matmul.WINDOWS:
        count = len(bias) // rows
        step = (len(x) - columns) // max(count - 1, 1)
        vectors = lambda a: np.stack([a[i * step : i * step + columns] for i in range(count)])  # noqa: E731
    start = bias.reshape(rows, -1).T if side == Matmul.LEFT else bias.reshape(-1, rows)
    if tensor.scale is None:
        y = start
        for w, xj in zip(tensor.values.T, vectors(x).T, strict=True):
            y = y + w * xj[:, None]
    else:
        scale = f(p0) if p0 else np.abs(x).max() / f(127)
        q = np.zeros(x.shape) if scale < f(1e-30) / f(127) else np.rint(np.clip(x * (f(1) / scale), f(-127), f(127)))
        total = vectors(q.astype(np.int64)) @ tensor.values.astype(np.int64).T
        y = start + total.astype(f) * (tensor.scale * scale)
    return (y.T if side == Matmul.LEFT else y).ravel()


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 4),
    st.sampled_from(Matmul),
    st.sampled_from([8, 32]),
    st.sampled_from([0.0, 1 / 127, 0.01]),
    st.booleans(),
    st.integers(0, 80),
    st.integers(0, 2**32),
)
def test_products_are_those_of_the_law_of_numbers(rows, columns, count, block, side, bits, p0, in_place, step, seed):
    rng = np.random.default_rng(seed)
    if bits == 8:
        values, scale = rng.integers(-127, 128, (rows, columns)).astype(np.int8), rng.uniform(1e-4, 0.1, rows)
        tensor = Tensor(values, scale.astype(np.float32), block=block)
    else:
        tensor, p0 = Tensor(rng.uniform(-1, 1, (rows, columns)).astype(np.float32), block=block), 0.0
    bias = rng.uniform(-1, 1, rows * count).astype(np.float32)
    step = step if side == Matmul.WINDOWS else columns
    xs = rng.uniform(-2, 2, (3, columns + (count - 1) * step)).astype(np.float32)
    xs[1] *= 1e-35 if bits == 8 else 1
    got = every_isa(write(product(tensor, side, count, bias, p0, in_place, step)), xs)
    assert got.tobytes() == np.stack([expected(tensor, side, x, bias, p0) for x in xs]).tobytes()
    plain = every_isa(write(product(tensor, side, count, p0=p0, step=step)), xs)
    zero = np.zeros_like(bias)
    assert np.array_equal(plain, np.stack([expected(tensor, side, x, zero, p0) for x in xs]))


@pytest.mark.parametrize("side", Matmul)
def test_sums_at_their_largest(side):
    k = 65536
    tensor = Tensor(np.full((1, k), 127, np.int8), np.ones(1, np.float32))
    for sign in (1, -1):
        got = every_isa(write(product(tensor, side, 2, p0=1.0)), np.full((1, 2 * k), sign * 1e9, np.float32))
        assert (got == np.float32(sign * 127 * 127 * k)).all()


@pytest.mark.parametrize("side", Matmul)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("p0", [0.0, 1 / 127])
def test_what_is_not_finite_is_never_lost(side, value, p0):
    rng = np.random.default_rng(0)
    whole, plain = (f(rng.uniform(-1, 1, (19, 7)).astype(np.float32)) for f in (quantize_rows, Tensor))
    xs = rng.uniform(-1, 1, (2, 7 * 18)).astype(np.float32)
    at = 5 * 18 + 3 if side == Matmul.LEFT else 3 * 7 + 5  # entry 5 of vector 3
    xs[1, at] = value
    assert np.isnan(every_isa(write(product(whole, side, 18, p0=p0)), xs)[1]).all()
    found = every_isa(write(product(plain, side, 18)), xs)
    hit = ~np.isfinite(found[1].reshape((19, 18) if side == Matmul.LEFT else (18, 19)))
    assert (hit[:, 3] if side == Matmul.LEFT else hit[3]).all() and hit.sum() == 19 and np.isfinite(found[0]).all()


@pytest.mark.parametrize(
    ("n", "k", "fn"),
    [
        (19 * 4, 7 * 3, 0),
        (19 * 3, 7 * 3 + 1, 0),
        (19 * 3 + 1, 7 * 3, 1),
        (19 * 3, 0, 0),
        (57, 21, 3),
        (57, 6, 2),
        (57, 10, 2),
        (58, 9, 2),
        (19, 8, 2),
        (57, 103, 2),
    ],
)
def test_sizes_that_contradict_the_matrix_are_refused(n, k, fn):
    tensor = Tensor(np.ones((19, 7), np.float32))
    good = product(tensor, Matmul.LEFT, 3)
    bad = good.map_ops(lambda op: Op(Code.MATMUL, op.dst, n, k, a=op.a, tensor=0, fn=fn))
    good.buffers[0] = bad.buffers[0] = Buffer(100, "input")
    bad.buffers[1] = Buffer(100)
    with pytest.raises(ValueError, match=r"contradict|unknown|outside"):
        write(bad)


@pytest.mark.parametrize(
    "tensor",
    [quantize_groups(np.ones((16, 8))), Tensor(np.ones((2, 1, 1, 8), np.float32), form=ToeplitzBlocks(rows=8))],
)
def test_matrices_of_other_types_are_refused(tensor):
    with pytest.raises(ValueError, match="contradict"):
        write(product(tensor, Matmul.RIGHT, 2))


def test_its_matrices_are_never_int4_and_its_macs_are_counted():
    rng = np.random.default_rng(0)
    program = product(Tensor(rng.uniform(-1, 1, (20, 6))), Matmul.LEFT, 5)
    assert program.macs_per_step() == 20 * 6 * 5
    for weights, kind in {"float32": "float32", "int8": "int8", "int4": "int8", "auto": "int8"}.items():
        stored = quantize(program, weights)
        (row,) = inventory(stored)
        assert (row["stored as"], row["shape"], row["parameters"], row["MACs"]) == (kind, "20 x 6", 120, 600)
        assert Engine(write(stored)).macs_per_step == 600
