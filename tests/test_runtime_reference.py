"""The native core against an independent implementation of each operation in numpy, float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine
from compactrnn.runtime import _native
from compactrnn.runtime.dead_code import writes
from compactrnn.runtime.file import write
from compactrnn.runtime.gates import gate_rows, gate_units, padded
from compactrnn.runtime.hoist import hoist
from compactrnn.runtime.program import (
    GATES,
    Attend,
    Binary,
    Buffer,
    Code,
    Input,
    Matmul,
    Op,
    Output,
    Over,
    Program,
    Reduce,
    Ref,
    Segment,
    Tensor,
    Top,
    Unary,
)
from compactrnn.runtime.quantize import quantize
from compactrnn.testing import RuntimeContract
from compactrnn.testing.programs import random_input, random_program


def isas():
    return _native.isas()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x, epsilon):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)


UNARY = {
    Unary.COPY: lambda x, p, q: x,
    Unary.SCALE_SHIFT: lambda x, p, q: p * x + q,
    Unary.ABS: lambda x, p, q: np.abs(x),
    Unary.CLAMP: lambda x, p, q: np.clip(x, p, q),
    Unary.RECIPROCAL: lambda x, p, q: 1 / x,
    Unary.SQRT: lambda x, p, q: np.sqrt(x),
    Unary.EXP: lambda x, p, q: np.exp(x),
    Unary.LOG: lambda x, p, q: np.log(x),
    Unary.ERF: lambda x, p, q: np.vectorize(math.erf)(x),
    Unary.TANH: lambda x, p, q: np.tanh(x),
    Unary.SIGMOID: lambda x, p, q: sigmoid(x),
    Unary.SIN: lambda x, p, q: np.sin(x),
    Unary.COS: lambda x, p, q: np.cos(x),
    Unary.LEAKY_RELU: lambda x, p, q: np.where(x > 0, x, p * x),
}
BINARY = [np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum]
BINARY += [np.equal, np.not_equal, np.less, np.less_equal]
REDUCE = [np.sum, np.max, np.min, np.argmax]


def top(x, n):
    """Positions of the n largest of x, NaN before all, the first of equal ones first."""
    return np.lexsort((-np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf), ~np.isnan(x)))[:n]


class Reference:
    """A program, one time step at a time, in float64."""

    def __init__(self, program: Program):
        self.program = program
        self.values = [np.zeros(b.width) if b.init is None else b.init.astype(np.float64) for b in program.buffers]
        self.rows = {i: {} for i, b in enumerate(program.buffers) if b.kind == "sequence"}

    def run(self, xs, steps):
        each = xs if isinstance(xs, tuple) else (xs,)
        collected = [[None] * steps for _ in self.program.outputs]
        segments = self.program.segments
        writer = {ref.buffer: s for s, segment in enumerate(segments) for op in segment.ops for ref, _ in writes(op)}
        for s, segment in enumerate(segments):
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
                    if writer.get(output.ref.buffer, s) != s:
                        continue
                    width = int(np.prod(output.shape))
                    collected[i][t] = self.values[output.ref.buffer][output.ref.offset :][:width].copy()
        return [
            rows[-1] if output.final else np.stack(rows)
            for rows, output in zip(collected, self.program.outputs, strict=True)
        ]

    def read(self, ref, width):
        return self.values[ref.buffer][ref.offset : ref.offset + width].copy()

    def gates(self, op, rows):
        return gate_units(rows, GATES[op.code], op.n).reshape(GATES[op.code], op.n)

    def apply(self, op: Op, t: int, steps: int):
        n, k = op.n, op.k or op.n
        tensor = self.program.tensors[op.tensor] if op.tensor is not None else None
        if op.code == Code.EMBED:
            table = tensor.dense()
            y = table[int(np.clip(self.read(op.a, 1)[0], 0, len(table) - 1))]
        elif op.code in (Code.AFFINE, Code.DELTA):
            y = tensor.dense() @ self.read(op.a, k)
            y = y + (self.read(op.b, n) if op.b else 0)
        elif op.code == Code.MATMUL:
            matrix, x = tensor.dense(), self.read(op.a, k)
            columns = matrix.shape[1]
            if op.fn == Matmul.WINDOWS:
                count = n // len(matrix)
                step = (k - columns) // max(count - 1, 1)
                x = np.concatenate([x[i * step : i * step + columns] for i in range(count)])
            y = matrix @ x.reshape(columns, -1) if op.fn == Matmul.LEFT else x.reshape(-1, columns) @ matrix.T
            y = y.ravel() + (self.read(op.b, n) if op.b else 0)
        elif op.code == Code.DEPTHWISE:
            taps, x = tensor.values.astype(np.float64), self.read(op.a, k)
            step = (k - n) // max(len(taps) - 1, 1)
            products = (np.tile(tap, n // len(tap)) * x[i * step : i * step + n] for i, tap in enumerate(taps))
            y = sum(products) + (self.read(op.b, n) if op.b else 0)
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
            i, f, g, o = self.gates(op, self.read(op.a, 4 * padded(n)) + tensor.dense() @ self.read(op.c, k))
            cell = sigmoid(f) * self.read(op.b, n) + sigmoid(i) * np.tanh(g)
            self.values[op.b.buffer][op.b.offset : op.b.offset + n] = cell
            y = sigmoid(o) * np.tanh(cell)
        elif op.code == Code.GRU:
            (xr, xz, xn), (hr, hz, hn) = (
                self.gates(op, x) for x in (self.read(op.a, 3 * padded(n)), tensor.dense() @ self.read(op.c, k))
            )
            hn = hn + (self.read(op.b, n) if op.b else 0)
            update = sigmoid(xz + hz)
            y = (1 - update) * np.tanh(xn + sigmoid(xr + hr) * hn) + update * self.read(op.d, n)
        elif op.code in (Code.LSTM_OVER, Code.GRU_OVER, Code.GRU_EACH):
            y = self.over_rows(op, tensor)
        elif op.code == Code.LSTM_CELL:
            i, f, g, o = self.read(op.a, 4 * n).reshape(4, n)
            cell = sigmoid(f) * self.read(op.b, n) + sigmoid(i) * np.tanh(g)
            self.values[op.b.buffer][op.b.offset : op.b.offset + n] = cell
            y = sigmoid(o) * np.tanh(cell)
        elif op.code == Code.GRU_CELL:
            (xr, xz, xn), (hr, hz, hn) = self.read(op.a, 3 * n).reshape(3, n), self.read(op.c, 3 * n).reshape(3, n)
            update = sigmoid(xz + hz)
            y = (1 - update) * np.tanh(xn + sigmoid(xr + hr) * hn) + update * self.read(op.d, n)
        elif op.code == Code.TOP:
            x = self.read(op.a, k)
            y = top(x, n) if op.fn == Top.POSITIONS else x[top(x, n)]
        elif op.code == Code.SELECT:
            y = np.where(self.read(op.c, n) != 0, self.read(op.a, n), self.read(op.b, n))
        elif op.code == Code.DELAY:
            y = np.concatenate([self.read(op.a, n), self.read(op.dst, k - n)])
        elif op.code == Code.FLIP:
            y = self.rows[op.a.buffer][steps - 1 - t][op.a.offset : op.a.offset + n]
        elif op.code == Code.ATTEND:
            count = t + 1 if op.fn == Attend.CAUSAL else steps
            keys, values = (
                np.stack([self.rows[ref.buffer][s][ref.offset : ref.offset + width] for s in range(count)])
                for ref, width in ((op.b, k), (op.c, n))
            )
            y = softmax(op.p0 * keys @ self.read(op.a, k)) @ values
        self.values[op.dst.buffer][op.dst.offset : op.dst.offset + len(y)] = y

    def over_rows(self, op: Op, tensor: Tensor) -> np.ndarray:
        """A cell for each row of gates, k units."""
        k, count, wide = op.k, op.n // op.k, GATES[op.code] * padded(op.k)
        one, found = replace(op, n=k), np.zeros((count, k))
        h = self.read(op.c, k)
        for row in range(count)[:: -1 if op.code != Code.GRU_EACH and op.fn == Over.BACKWARD else 1]:
            if op.code == Code.GRU_EACH:
                h = self.read(Ref(op.c.buffer, op.c.offset + row * k), k)
            from_x = self.read(Ref(op.a.buffer, op.a.offset + row * wide), wide)
            from_h = tensor.dense() @ h
            if op.code == Code.LSTM_OVER:
                i, f, g, o = self.gates(one, from_x + from_h)
                cell = sigmoid(f) * self.read(op.b, k) + sigmoid(i) * np.tanh(g)
                self.values[op.b.buffer][op.b.offset : op.b.offset + k] = cell
                h = sigmoid(o) * np.tanh(cell)
            else:
                (xr, xz, xn), (hr, hz, hn) = self.gates(one, from_x), self.gates(one, from_h)
                hn = hn + (self.read(op.b, k) if op.b else 0)
                update = sigmoid(xz + hz)
                h = (1 - update) * np.tanh(xn + sigmoid(xr + hr) * hn) + update * h
            found[row] = h
        return found.ravel()


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
    ops = [op for seed in range(200) for op in random_program(seed, 12, offline=seed % 2 == 0).ops]
    assert {op.code for op in ops} == set(Code)
    assert {op.fn for op in ops if op.code == Code.UNARY} == set(Unary)
    for code, functions in ((Code.BINARY, Binary), (Code.REDUCE, Reduce), (Code.TOP, Top), (Code.MATMUL, Matmul)):
        assert {op.fn for op in ops if op.code == code} == set(functions)
    blocks = {p.tensors[o.tensor].block for p in map(random_program, range(60)) for o in p.ops if o.code == Code.AFFINE}
    assert blocks == {1, 2, 3, 4}


PROGRAMS = [random_program(seed, 10, seed % 3 == 0, largest=(24, 90)[seed % 2]) for seed in range(12)]
PROGRAMS += [quantize(program, weights) for weights in ("int8", "int4") for program in PROGRAMS]
PROGRAMS += [hoist(program, smallest=1) for program in PROGRAMS[1::3]]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
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
        (Unary.SIN, -1e5, 1e5, 1.2e-7, 0),
        (Unary.COS, -1e5, 1e5, 1.2e-7, 0),
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
        Unary.SIN: [nan, nan, nan, 0, 0, nan, nan, 0],
        Unary.COS: [nan, nan, nan, 1, 1, nan, nan, 1],
    }
    for fn, wanted in expected.items():
        np.testing.assert_allclose(unary(fn, x), wanted, rtol=1e-6, atol=1e-6, err_msg=fn.name)
    assert np.isnan(unary(Unary.CLAMP, [nan], 0.0, 1.0)[0])
    assert np.isnan(unary(Unary.LEAKY_RELU, [nan], 0.1)[0])
    leaky = unary(Unary.LEAKY_RELU, [inf, -inf, 0.0, -0.0, 2.0, -2.0, 1e-40, -1e-40], -0.5)
    assert leaky.tolist() == [inf, inf, 0, 0, 2, 1, 0, 0] and np.signbit(leaky).tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert unary(Unary.SIGMOID, np.linspace(-50, 50, 999)).min() >= 0


def test_a_not_a_number_is_never_lost_in_a_maximum():
    x = np.zeros((1, 37), np.float32)
    x[0, 20] = np.nan
    for code, fn in ((Code.REDUCE, 1), (Code.REDUCE, 2), (Code.REDUCE, 0)):
        assert np.isnan(Engine(write(one_op(Op(code, Ref(1), 1, 37, a=Ref(0), fn=fn), 37))).run(x)).all()
    assert np.isnan(Engine(write(one_op(Op(Code.SOFTMAX, Ref(1), 37, 37, a=Ref(0)), 37))).run(x)).all()


def whole_product(x, total, scale, init, p0):
    """The number law of a whole-number matrix, in numpy: `total(q)` exact, each float operation rounded once."""
    f = np.float32
    if not np.isfinite(x).all():
        return np.full(len(init), np.nan, f)
    x_scale = f(p0) if p0 else np.max(np.abs(x)) / f(127)
    if x_scale < f(1e-30) / f(127):
        x_scale, inverse = f(0), f(0)
    else:
        inverse = f(1) / x_scale
    with np.errstate(over="ignore", invalid="ignore"):
        q = np.rint(np.clip(x * inverse, f(-127), f(127))).astype(np.int64)
        return init + total(q).astype(f) * (scale * x_scale)


def whole_total(tensor):
    """The exact sum of products of a row: int8, or int4 with its group scales."""
    whole = tensor.values.astype(np.int64)
    if tensor.group_scale is not None:
        whole = whole * np.repeat(tensor.group_scale.astype(np.int64), 64, axis=1)[:, : whole.shape[1]]
    return lambda q: whole @ q


def whole_matrix(rng, n, k, bits, block=4):
    scale = rng.uniform(1e-4, 1e-1, n).astype(np.float32)
    if bits == 8:
        return Tensor(rng.integers(-127, 128, (n, k)).astype(np.int8), scale, block=block)
    groups = -(-k // 64)
    group_scale = rng.integers(0, min(255, 33026 // groups) + 1, (n, groups)).astype(np.uint8)
    return Tensor(rng.integers(-8, 8, (n, k)).astype(np.int8), scale, group_scale, block)


def awkward_rows(rng, k):
    rows = [rng.uniform(-2, 2, k), rng.choice([-1.0, 1.0], k), np.zeros(k), rng.uniform(-1, 1, k) * 1e-35]
    for strange in ([1e38, -3e38], [np.nan], [np.inf, -np.inf], [np.nan, np.inf, -np.inf, 1e38]):
        rows.append(np.where(rng.random(k) < 0.2, rng.choice(strange, k), rng.uniform(-1, 1, k)))
    return np.stack(rows).astype(np.float32)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 150),
    st.integers(1, 200),
    st.sampled_from([4, 8]),
    st.integers(1, 4),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 1 / 127, 0.01]),
)
def test_whole_number_products_are_exact(n, k, bits, block, seed, p0):
    rng = np.random.default_rng(seed)
    tensor = whole_matrix(rng, n, k, bits, block)
    bias = rng.uniform(-1, 1, n).astype(np.float32)
    op = Op(Code.AFFINE, Ref(1), n, k, a=Ref(0), b=Ref(2), tensor=0, p0=p0)
    data, rows = write(one_op(op, k, [tensor], [bias])), awkward_rows(rng, k)
    wanted = [whole_product(x, whole_total(tensor), tensor.scale, bias, p0) for x in rows]
    for isa in isas():
        stream = Engine(data, isa=isa).stream()
        for x, y in zip(rows, wanted, strict=True):
            assert stream.step(x).tobytes() == y.tobytes()
        assert stream.run(rows).tobytes() == np.stack(wanted).tobytes()


def test_int8_sums_at_their_largest():
    k = 65536
    matrix = np.full((1, k), 127, np.int8)
    scale = np.ones(1, np.float32)
    op = Op(Code.AFFINE, Ref(1), 1, k, a=Ref(0), tensor=0, p0=1.0)
    engine = Engine(write(one_op(op, k, [Tensor(matrix, scale)])))
    for sign in (1, -1):
        assert engine.run(np.full((1, k), sign * 1e9, np.float32))[0, 0] == np.float32(sign * 127 * 127 * k)


@pytest.mark.parametrize(
    ("k", "value", "group_scale"), [(65536, -8, 32), (65536, 7, 32), (8256, -8, 255), (64, -8, 255)]
)
def test_int4_sums_at_their_largest(k, value, group_scale):
    values = np.full((1, k), value, np.int8)
    tensor = Tensor(values, np.ones(1, np.float32), np.full((1, -(-k // 64)), group_scale, np.uint8))
    op = Op(Code.AFFINE, Ref(1), 1, k, a=Ref(0), tensor=0, p0=1.0)
    data = write(one_op(op, k, [tensor]))
    for isa in isas():
        for sign in (1, -1):
            total = np.float32(sign * value * group_scale * 127 * k)
            assert Engine(data, isa=isa).run(np.full((1, k), sign * 1e9, np.float32))[0, 0] == total


def recurrent(code, n, tensor, width, p0=0.0, bias=None):
    """Gates and the vector c are inputs, so that a step shows the operation alone; the state starts as all 0.5."""
    gates = GATES[code] * padded(n)
    start = np.full(n, 0.5, np.float32)
    buffers = [Buffer(gates, "input"), Buffer(width, "input"), Buffer(n, "state", start), Buffer(n)]
    extra = {"b": Ref(2)} if code == Code.LSTM else {"d": Ref(2)}
    if bias is not None:
        buffers.append(Buffer(n, "constant", bias))
        extra["b"] = Ref(4)
    ops = (Op(code, Ref(3), n, width, a=Ref(0), c=Ref(1), tensor=0, p0=p0, **extra),)
    inputs = [Input("a", 0, (gates,)), Input("c", 1, (width,))]
    return Program(buffers, [tensor], [Segment("forward", ops)], inputs, [Output("y", Ref(3), (n,))])


def chain(init, tensor, x, p0):
    """`init` + tensor x by the number law."""
    if tensor.scale is not None:
        return whole_product(x, whole_total(tensor), tensor.scale, init, p0)
    y = init.astype(np.float32)
    for j in range(len(x)):
        y = y + tensor.values[:, j] * x[j]
    return y


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([Code.LSTM, Code.GRU]),
    st.integers(1, 40),
    st.integers(1, 100),
    st.sampled_from([4, 8, 32]),
    st.booleans(),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 1 / 127]),
)
def test_recurrent_products_keep_the_number_law(code, n, k, bits, biased, seed, p0):
    """The gates that the operation computes itself are those that a chain of its own gives it, bit for bit."""
    rng, count = np.random.default_rng(seed), GATES[code]
    rows = count * padded(n)
    tensor = Tensor(rng.uniform(-1, 1, (rows, k)).astype(np.float32), block=count)
    if bits < 32:
        tensor = whole_matrix(rng, rows, k, bits, count)
    a, x = rng.uniform(-1, 1, rows).astype(np.float32), rng.uniform(-1, 1, k).astype(np.float32)
    bias = rng.uniform(-1, 1, n).astype(np.float32) if biased and code == Code.GRU else None
    data = write(recurrent(code, n, tensor, k, p0, bias))
    if code == Code.LSTM:
        gates, after = chain(a, tensor, x, p0), None
    else:  # the candidate's own chain starts at its bias; the gates for r and z at a
        own = np.zeros(3 * n, np.float32) if bias is None else np.concatenate([np.zeros(2 * n, np.float32), bias])
        places = gate_rows(np.repeat([1, 1, 0], n), 3).astype(bool)
        sums = chain(np.where(places, a, gate_rows(own, 3)), tensor, x, p0)
        gates, after = np.where(places, sums, a), gate_units(sums, 3, n)[2 * n :]
    nothing = Tensor(np.zeros((rows, 1), np.float32), block=count)
    plain = write(recurrent(code, n, nothing, 1, 0.0, after))
    wanted = Engine(plain, isa="scalar").run((gates[None], np.zeros((1, 1), np.float32)))
    for isa in isas():
        assert Engine(data, isa=isa).run((a[None], x[None])).tobytes() == wanted.tobytes()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.integers(0, 2**32), st.booleans())
def test_unit_operations_give_the_bits_of_the_fused_kernels(n, seed, strange):
    rng = np.random.default_rng(seed)
    for fused, code in ((Code.LSTM, Code.LSTM_CELL), (Code.GRU, Code.GRU_CELL)):
        count = GATES[fused]
        a = rng.uniform(-8, 8, (count, n)).astype(np.float32)
        if strange:
            a = np.where(rng.random(a.shape) < 0.1, rng.choice(np.float32([np.nan, np.inf, -np.inf, 1e38]), a.shape), a)
        bias, start = rng.uniform(-1, 1, n).astype(np.float32), np.full(n, 0.5, np.float32)
        nothing = Tensor(np.zeros((count * padded(n), 1), np.float32), block=count)
        data = write(recurrent(fused, n, nothing, 1, 0.0, bias if code == Code.GRU_CELL else None))
        rows = gate_rows(a.reshape(-1), count)
        buffers = [Buffer(count * n, "input"), Buffer(n), Buffer(n, "state", start)]
        operands: dict = {"b": Ref(2)}
        if code == Code.GRU_CELL:
            own = np.concatenate([np.zeros(2 * n, np.float32), bias])
            buffers.append(Buffer(3 * n, "constant", own))
            operands = {"c": Ref(3), "d": Ref(2)}
        segment = Segment("forward", (Op(code, Ref(1), n, a=Ref(0), **operands),))
        apart = write(Program(buffers, [], [segment], [Input("a", 0, (count * n,))], [Output("y", Ref(1), (n,))]))
        for isa in isas():
            expected = Engine(data, isa=isa).run((rows[None], np.zeros((1, 1), np.float32)))
            got = Engine(apart, isa=isa).run(a.reshape(1, -1))
            assert got.tobytes() == expected.tobytes(), (code.name, isa)


def test_the_largest_are_found_in_order():
    nan, inf = np.nan, np.inf
    rows = [[1, 3, 3, 2, 0], [-inf, inf, nan, nan, inf], [0.0, -0.0, 0.0, -1, 0.0], [-inf] * 5]
    for row in rows:
        x = np.array([row], np.float32)
        order = top(x[0], 5)
        for isa in isas():
            for n in (1, 3, 5):
                program = one_op(Op(Code.TOP, Ref(1), n, 5, a=Ref(0), fn=Top.POSITIONS), 5)
                assert Engine(write(program), isa=isa).run(x)[0].tolist() == order[:n].tolist()
                program = one_op(Op(Code.TOP, Ref(1), n, 5, a=Ref(0), fn=Top.VALUES), 5)
                assert np.array_equal(Engine(write(program), isa=isa).run(x)[0], x[0][order[:n]], equal_nan=True)
            program = one_op(Op(Code.REDUCE, Ref(1), 1, 5, a=Ref(0), fn=Reduce.ARGMAX), 5)
            assert Engine(write(program), isa=isa).run(x)[0, 0] == order[0]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100, 1000])
def test_largest_of_many(n):
    rng = np.random.default_rng(n)
    x = rng.integers(0, 20, (1, 1000)).astype(np.float32)
    program = one_op(Op(Code.TOP, Ref(1), n, 1000, a=Ref(0), fn=Top.POSITIONS), 1000)
    best = one_op(Op(Code.REDUCE, Ref(1), 10, 100, a=Ref(0), fn=Reduce.ARGMAX), 1000)
    for isa in isas():
        assert Engine(write(program), isa=isa).run(x)[0].tolist() == top(x[0], n).tolist()
        assert Engine(write(best), isa=isa).run(x)[0].tolist() == x.reshape(10, 100).argmax(1).tolist()


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from([6, 12, 20]), st.sampled_from([1, 30, 300]), st.booleans())
def test_hoisting_changes_no_bit(seed, operations, smallest, offline):
    program = random_program(seed, operations, offline)
    split = hoist(program, smallest)
    xs = random_input(program, 6, seed)
    assert split.offline == offline and len(split.ops) == len(program.ops)
    for y, z in zip(*(outputs(Engine(write(p)).run(xs)) for p in (program, split)), strict=True):
        assert y.tobytes() == z.tobytes()
    if not offline:
        stream = Engine(write(split)).stream()
        steps = [outputs(stream.step(xs[t] if len(split.inputs) == 1 else tuple(x[t] for x in xs))) for t in range(6)]
        for y, *rows in zip(outputs(Engine(write(program)).stream().run(xs)), *steps, strict=True):
            assert y.tobytes() == np.stack(rows).tobytes()


def outputs(y):
    return y if isinstance(y, tuple) else (y,)


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
