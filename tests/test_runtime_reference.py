"""The native core against the meaning of each operation, written once more in numpy float64."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine
from compactrnn.runtime.file import write
from compactrnn.runtime.pack import quantize
from compactrnn.runtime.program import Binary, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.testing import RuntimeContract
from compactrnn.testing.programs import random_input, random_program


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x, epsilon):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)


UNARY = {
    Unary.COPY: lambda x, p, q: x,
    Unary.AFFINE: lambda x, p, q: p * x + q,
    Unary.ABS: lambda x, p, q: np.abs(x),
    Unary.CLAMP: lambda x, p, q: np.clip(x, p, q),
    Unary.RECIPROCAL: lambda x, p, q: 1 / x,
    Unary.SQRT: lambda x, p, q: np.sqrt(x),
    Unary.EXP: lambda x, p, q: np.exp(x),
    Unary.LOG: lambda x, p, q: np.log(x),
    Unary.ERF: lambda x, p, q: np.vectorize(math.erf)(x),
    Unary.TANH: lambda x, p, q: np.tanh(x),
    Unary.SIGMOID: lambda x, p, q: sigmoid(x),
}
BINARY = [np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum]
REDUCE = [np.sum, np.max, np.min]


class Reference:
    """A program, one time step at a time, in float64."""

    def __init__(self, program: Program):
        self.program = program
        self.values = [np.zeros(b.width) if b.init is None else b.init.astype(np.float64) for b in program.buffers]
        self.rows = {i: {} for i, b in enumerate(program.buffers) if b.kind == "sequence"}

    def run(self, xs, steps):
        each = xs if isinstance(xs, tuple) else (xs,)
        collected = [[None] * steps for _ in self.program.outputs]
        for segment in self.program.segments:
            for t in range(steps) if segment.kind == "forward" else (steps - 1,):
                for port, rows in zip(self.program.inputs, each, strict=True):
                    self.values[port.buffer] = np.ravel(rows[t]).astype(np.float64)
                for i, rows in self.rows.items():
                    if t in rows:
                        self.values[i] = rows[t].copy()
                for op in segment.ops:
                    self.apply(op, t, steps)
                for i in self.rows:
                    self.rows[i][t] = self.values[i].copy()
                for i, output in enumerate(self.program.outputs):
                    width = int(np.prod(output.shape))
                    collected[i][t] = self.values[output.ref.buffer][output.ref.offset :][:width].copy()
        return [
            rows[-1] if output.final else np.stack(rows)
            for rows, output in zip(collected, self.program.outputs, strict=True)
        ]

    def read(self, ref, width):
        return self.values[ref.buffer][ref.offset : ref.offset + width].copy()

    def apply(self, op: Op, t: int, steps: int):
        n, k = op.n, op.k or op.n
        tensor = self.program.tensors[op.tensor] if op.tensor is not None else None
        if op.code == Code.EMBED:
            y = tensor.values[int(self.read(op.a, 1)[0])]
        elif op.code == Code.AFFINE:
            y = tensor.values.astype(np.float64) @ self.read(op.a, k)
            y = y + (self.read(op.b, n) if op.b else 0)
        elif op.code == Code.GATHER:
            x = self.read(op.a, k)
            y = np.array([x[i] if i >= 0 else 0.0 for i in tensor.values])
        elif op.code == Code.UNARY:
            y = UNARY[Unary(op.fn)](self.read(op.a, n), op.p0, op.p1)
        elif op.code == Code.BINARY:
            y = BINARY[op.fn](self.read(op.a, n).reshape(-1, k), self.read(op.b, k)).ravel()
        elif op.code == Code.REDUCE:
            y = REDUCE[op.fn](self.read(op.a, n * k).reshape(n, k), axis=1)
        elif op.code == Code.SOFTMAX:
            y = softmax(self.read(op.a, n).reshape(-1, k)).ravel()
        elif op.code == Code.LOG_SOFTMAX:
            y = np.log(softmax(self.read(op.a, n).reshape(-1, k))).ravel()
        elif op.code == Code.LAYER_NORM:
            y = layer_norm(self.read(op.a, n).reshape(-1, k), op.p0).ravel()
        elif op.code == Code.LSTM:
            i, f, g, o = self.read(op.a, 4 * n).reshape(4, n)
            cell = sigmoid(f) * self.read(op.b, n) + sigmoid(i) * np.tanh(g)
            self.values[op.b.buffer][op.b.offset : op.b.offset + n] = cell
            y = sigmoid(o) * np.tanh(cell)
        elif op.code == Code.GRU:
            (xr, xz, xn), (hr, hz, hn) = self.read(op.a, 3 * n).reshape(3, n), self.read(op.b, 3 * n).reshape(3, n)
            update = sigmoid(xz + hz)
            y = (1 - update) * np.tanh(xn + sigmoid(xr + hr) * hn) + update * self.read(op.c, n)
        elif op.code == Code.FLIP:
            y = self.rows[op.a.buffer][steps - 1 - t][op.a.offset : op.a.offset + n]
        self.values[op.dst.buffer][op.dst.offset : op.dst.offset + n] = y


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([3, 8, 15]))
def test_random_programs_mean_what_they_say(seed, offline, operations):
    program = random_program(seed, operations, offline)
    xs = random_input(program, 5, seed)
    got = Engine(write(program)).run(xs)
    wanted = Reference(program).run(xs, 5)
    for y, z in zip(got if isinstance(got, tuple) else (got,), wanted, strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-4)


def test_random_programs_cover_every_operation():
    ops = [op for seed in range(60) for op in random_program(seed, 12, offline=seed % 2 == 0).ops]
    assert {op.code for op in ops} == set(Code)
    assert {op.fn for op in ops if op.code == Code.UNARY} == set(Unary)
    assert {op.fn for op in ops if op.code == Code.BINARY} == set(Binary)


PROGRAMS = [random_program(seed, 10, seed % 3 == 0) for seed in range(12)]
PROGRAMS += [quantize(program, "int8") for program in PROGRAMS]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(24))
class TestRandomPrograms(RuntimeContract):
    pass


def one_op(op, width, tensors=(), constants=()):
    """A program of one operation: input x at buffer 0, result at 1, constants from 2 on."""
    buffers = [Buffer(width, "input"), Buffer(op.n)] + [Buffer(len(c), "constant", c) for c in constants]
    return Program(
        buffers,
        list(tensors),
        [Segment("forward", (op,))],
        [Input("x", 0, (width,))],
        [Output("y", Ref(1), (op.n,))],
    )


def unary(fn, x, p0=0.0, p1=0.0):
    x = np.asarray(x, np.float32)
    return Engine(write(one_op(Op(Code.UNARY, Ref(1), len(x), a=Ref(0), fn=fn, p0=p0, p1=p1), len(x)))).run(x[None])[0]


@pytest.mark.parametrize(
    ("fn", "low", "high", "absolute", "relative"),
    [
        (Unary.TANH, -20, 20, 5e-7, 1),
        (Unary.SIGMOID, -30, 30, 3e-7, 1),
        (Unary.EXP, -86, 88.7, 0, 4e-7),
        (Unary.LOG, 1e-30, 1e30, 3e-7, 2e-7),
        (Unary.LOG, 0.5, 2, 3e-7, 0),
        (Unary.ERF, -6, 6, 1e-6, 0),
        (Unary.SQRT, 0, 1e6, 0, 1e-7),
        (Unary.RECIPROCAL, 1e-3, 1e3, 0, 1e-7),
    ],
)
def test_functions_are_accurate(fn, low, high, absolute, relative):
    x = np.linspace(low, high, 200_001).astype(np.float32)
    if fn == Unary.LOG and high > 1e9:
        x = np.geomspace(low, high, 200_001).astype(np.float32)
    wanted = UNARY[fn](x.astype(np.float64), 0, 0)
    assert np.all(np.abs(unary(fn, x) - wanted) <= absolute + relative * np.abs(wanted) * (relative < 1))


def test_functions_at_the_ends():
    nan, inf = np.nan, np.inf
    x = [nan, inf, -inf, 0.0, -0.0, 3e38, -3e38, 1e-45]
    expected = {
        Unary.EXP: [nan, inf, 0, 1, 1, inf, 0, 1],
        Unary.LOG: [nan, inf, nan, -inf, -inf, math.log(3e38), nan, -inf],
        Unary.TANH: [nan, 1, -1, 0, 0, 1, -1, 0],
        Unary.SIGMOID: [nan, 1, 0, 0.5, 0.5, 1, 0, 0.5],
        Unary.ERF: [nan, 1, -1, 0, 0, 1, -1, 0],
        Unary.ABS: [nan, inf, inf, 0, 0, 3e38, 3e38, 0],
        Unary.SQRT: [nan, inf, nan, 0, 0, math.sqrt(3e38), nan, 0],
    }
    for fn, wanted in expected.items():
        np.testing.assert_allclose(unary(fn, x), wanted, rtol=1e-6, atol=1e-6, err_msg=fn.name)
    assert np.isnan(unary(Unary.CLAMP, [nan], 0.0, 1.0)[0])
    assert unary(Unary.SIGMOID, np.linspace(-50, 50, 999)).min() >= 0


def test_a_not_a_number_is_never_lost_in_a_maximum():
    x = np.zeros((1, 37), np.float32)
    x[0, 20] = np.nan
    for code, fn in ((Code.REDUCE, 1), (Code.REDUCE, 2), (Code.REDUCE, 0)):
        assert np.isnan(Engine(write(one_op(Op(code, Ref(1), 1, 37, a=Ref(0), fn=fn), 37))).run(x)).all()
    assert np.isnan(Engine(write(one_op(Op(Code.SOFTMAX, Ref(1), 37, 37, a=Ref(0)), 37))).run(x)).all()


def int8_affine(x, matrix, scale, bias, p0):
    """The number law of an int8 matrix, in numpy: integers exact, each float operation rounded once."""
    f = np.float32
    if p0:
        x_scale = f(p0)
    else:
        x_scale = f(min(np.max(np.abs(x[~np.isnan(x)]), initial=0.0), np.finfo(f).max)) / f(127)
    if x_scale < f(1e-30) / f(127):
        x_scale, inverse = f(0), f(0)
    else:
        inverse = f(1) / x_scale
    with np.errstate(over="ignore", invalid="ignore"):
        q = np.rint(np.nan_to_num(np.clip(x * inverse, f(-127), f(127)), nan=0.0)).astype(np.int64)
        total = matrix.astype(np.int64) @ q
        return bias + total.astype(f) * (scale * x_scale)


@settings(deadline=None, max_examples=120)
@given(st.integers(1, 70), st.integers(1, 90), st.integers(0, 2**32), st.sampled_from([0.0, 1 / 127, 0.01]))
def test_int8_products_are_exact(n, k, seed, p0):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-127, 128, (n, k)).astype(np.int8)
    scale = rng.uniform(1e-4, 1e-1, n).astype(np.float32)
    bias = rng.uniform(-1, 1, n).astype(np.float32)
    op = Op(Code.AFFINE, Ref(1), n, k, a=Ref(0), b=Ref(2), tensor=0, p0=p0)
    stream = Engine(write(one_op(op, k, [Tensor(matrix, scale)], [bias]))).stream()
    rows = [rng.uniform(-2, 2, k), rng.choice([-1.0, 1.0], k), np.zeros(k), rng.uniform(-1, 1, k) * 1e-35]
    rows.append(np.where(rng.random(k) < 0.2, rng.choice([np.nan, np.inf, -np.inf, 1e38], k), rng.uniform(-1, 1, k)))
    for row in rows:
        x = row.astype(np.float32)
        assert stream.step(x).tobytes() == int8_affine(x, matrix, scale, bias, p0).tobytes()


def test_int8_sums_at_their_largest():
    k = 65536
    matrix = np.full((1, k), 127, np.int8)
    scale = np.ones(1, np.float32)
    op = Op(Code.AFFINE, Ref(1), 1, k, a=Ref(0), tensor=0, p0=1.0)
    engine = Engine(write(one_op(op, k, [Tensor(matrix, scale)])))
    for sign in (1, -1):
        assert engine.run(np.full((1, k), sign * 1e9, np.float32))[0, 0] == np.float32(sign * 127 * 127 * k)


def test_float32_products_are_one_chain_in_order():
    rng = np.random.default_rng(3)
    n, k = 37, 29
    matrix, bias = rng.uniform(-1, 1, (n, k)).astype(np.float32), rng.uniform(-1, 1, n).astype(np.float32)
    x = rng.uniform(-1, 1, k).astype(np.float32)
    op = Op(Code.AFFINE, Ref(1), n, k, a=Ref(0), b=Ref(2), tensor=0)
    wanted = bias.copy()
    for j in range(k):
        wanted = wanted + matrix[:, j] * x[j]
    assert Engine(write(one_op(op, k, [Tensor(matrix)], [bias]))).run(x[None])[0].tobytes() == wanted.tobytes()


def test_sums_keep_the_law_of_lanes():
    x = np.random.default_rng(4).uniform(-1, 1, 100).astype(np.float32)
    lanes = np.zeros(16, np.float32)
    for i in range(0, 112, 16):
        part = np.zeros(16, np.float32)
        part[: len(x[i : i + 16])] = x[i : i + 16]
        lanes = lanes + part
    for half in (8, 4, 2, 1):
        lanes = lanes[:half] + lanes[half:]
    got = Engine(write(one_op(Op(Code.REDUCE, Ref(1), 1, 100, a=Ref(0)), 100))).run(x[None])
    assert got[0, 0].tobytes() == lanes[0].tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_tables_are_exact(dtype):
    rng = np.random.default_rng(5)
    if dtype == np.float16:
        values = np.concatenate([np.arange(0, 0x7C00, 7), np.arange(0x8000, 0xFC00, 7)]).astype(np.uint16)
        values = values[: len(values) // 4 * 4].view(np.float16).reshape(-1, 4)
    else:
        values = (rng.uniform(-127, 127, (50, 4))).astype(dtype)
    scale = rng.uniform(0.01, 1, len(values)).astype(np.float32) if dtype == np.int8 else None
    program = Program(
        [Buffer(1, "input"), Buffer(4)],
        [Tensor(values, scale)],
        [Segment("forward", (Op(Code.EMBED, Ref(1), 4, a=Ref(0), tensor=0),))],
        [Input("token", 0, (), len(values))],
        [Output("y", Ref(1), (4,))],
    )
    wanted = values.astype(np.float32) * (1 if scale is None else scale[:, None])
    assert np.array_equal(Engine(write(program)).run(np.arange(len(values))), wanted)
