"""Single operations at the edges, on every instruction set: NaN, infinities, subnormals, delays."""

import numpy as np
import pytest
import torch

from compactrnn import Engine
from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from compactrnn.runtime.file import write
from compactrnn.runtime.program import (
    Binary,
    Buffer,
    Code,
    Input,
    Op,
    Output,
    Program,
    Reduce,
    Ref,
    Segment,
    Tensor,
    Top,
    Unary,
)
from compactrnn.runtime.rounding import quantize_groups, quantize_rows

NAN, INF = float("nan"), float("inf")
EDGES = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 3e38, 0.5], np.float32)


def program(ops, width, outputs, buffers=(), tensors=()):
    """Input x at buffer 0, `buffers` from 1 on; `outputs` are places and widths."""
    ports = [Output(f"y{i}", ref, (n,)) for i, (ref, n) in enumerate(outputs)]
    return write(
        Program(
            [Buffer(width, "input"), *buffers],
            list(tensors),
            [Segment("forward", tuple(ops))],
            [Input("x", 0, (width,))],
            ports,
        )
    )


def every_isa(data, xs):
    """The outputs of a sequence, which are the same bits on every instruction set, in runs and in steps."""
    results = {}
    for isa in _native.isas():
        engine = Engine(data, isa=isa)
        y, stream = np.asarray(engine.run(xs)), engine.stream()
        assert np.stack([stream.step(x) for x in xs]).tobytes() == y.tobytes()
        results[isa] = y
    assert len({y.tobytes() for y in results.values()}) == 1
    return results["scalar"]


@pytest.mark.parametrize(
    ("fn", "torch_fn"),
    [
        (Binary.EQUAL, torch.eq),
        (Binary.NOT_EQUAL, torch.ne),
        (Binary.LESS, torch.lt),
        (Binary.LESS_EQUAL, torch.le),
        (Binary.MAX, torch.maximum),
        (Binary.MIN, torch.minimum),
    ],
)
@pytest.mark.parametrize("k", [1, 81])
def test_comparisons_mean_what_they_mean_in_torch(fn, torch_fn, k):
    left, right = (np.ravel(x) for x in np.meshgrid(EDGES, EDGES))
    for b in right if k == 1 else [right]:
        constant = np.atleast_1d(b)
        op = Op(Code.BINARY, Ref(1), 81, k, a=Ref(0), b=Ref(2), fn=fn)
        data = program([op], 81, [(Ref(1), 81)], [Buffer(81), Buffer(k, "constant", constant)])
        wanted = torch_fn(torch.tensor(left), torch.tensor(constant)).float().numpy()
        np.testing.assert_array_equal(every_isa(data, left[None])[0], wanted)


def test_select_takes_one_number_and_ignores_the_other():
    condition, a, b = (np.ravel(x) for x in np.meshgrid(EDGES, EDGES, EDGES))
    n = len(a)
    ops = [
        Op(Code.SELECT, Ref(1), n, a=Ref(0, n), b=Ref(0, 2 * n), c=Ref(0)),
        Op(Code.UNARY, Ref(2), n, a=Ref(0), fn=Unary.COPY),
        Op(Code.SELECT, Ref(2), n, a=Ref(0, n), b=Ref(0, 2 * n), c=Ref(2)),  # in the place of an operand
    ]
    data = program(ops, 3 * n, [(Ref(1), n)], [Buffer(n), Buffer(n)])
    wanted = torch.where(torch.tensor(condition) != 0, torch.tensor(a), torch.tensor(b)).numpy()
    got = every_isa(data, np.concatenate([condition, a, b])[None])[0]
    np.testing.assert_array_equal(got, wanted)
    assert (np.signbit(got) == np.signbit(wanted))[~np.isnan(wanted)].all()
    data = program(ops, 3 * n, [(Ref(2), n)], [Buffer(n), Buffer(n)])
    np.testing.assert_array_equal(every_isa(data, np.concatenate([condition, a, b])[None])[0], wanted)


@pytest.mark.parametrize(("width", "steps"), [(1, 1), (1, 5), (3, 4), (17, 60)])
@pytest.mark.parametrize("start", [False, True])
def test_a_delay_line_holds_the_last_rows(width, steps, start):
    rng, k = np.random.default_rng(0), width * steps
    init = rng.uniform(-1, 1, k).astype(np.float32) if start else None
    xs = rng.uniform(-1, 1, (2 * steps + 3, width)).astype(np.float32)
    op = Op(Code.DELAY, Ref(1), width, k, a=Ref(0))
    got = every_isa(program([op], width, [(Ref(1), k)], [Buffer(k, "state", init)]), xs)
    before = np.zeros((steps, width), np.float32) if init is None else init.reshape(steps, width)
    rows = np.concatenate([before[::-1], xs])
    for t, y in enumerate(got):
        np.testing.assert_array_equal(y.reshape(steps, width), rows[t + 1 : t + 1 + steps][::-1])


def test_a_convolution_over_a_delay_line_is_two_operations():
    torch.manual_seed(0)
    layer, taps = torch.nn.Conv1d(4, 8, 60), 60
    matrix = layer.weight.detach().flip(2).permute(0, 2, 1).reshape(8, -1).numpy()  # tap d of channel c at d * 4 + c
    ops = [
        Op(Code.DELAY, Ref(1), 4, 4 * taps, a=Ref(0)),
        Op(Code.AFFINE, Ref(2), 8, 4 * taps, a=Ref(1), b=Ref(3), tensor=0),
    ]
    buffers = [Buffer(4 * taps, "state"), Buffer(8), Buffer(8, "constant", layer.bias.detach().numpy())]
    data = program(ops, 4, [(Ref(2), 8)], buffers, [Tensor(np.ascontiguousarray(matrix))])
    xs = torch.randn(100, 4)
    padded = torch.nn.functional.pad(xs.T, (taps - 1, 0))
    np.testing.assert_allclose(every_isa(data, xs.numpy()), layer(padded).T.detach(), atol=1e-5)


@pytest.mark.parametrize("quantize", [quantize_rows, quantize_groups])
@pytest.mark.parametrize("p0", [0.0, 1 / 127])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at", [0, 15, 16, 69])
def test_what_is_not_finite_is_never_lost_in_a_product(quantize, p0, value, at):
    tensor = quantize(np.random.default_rng(0).uniform(-1, 1, (37, 70)))
    op = Op(Code.AFFINE, Ref(1), 37, 70, a=Ref(0), tensor=0, p0=p0)
    data = program([op], 70, [(Ref(1), 37)], [Buffer(37)], [tensor])
    xs = np.random.default_rng(1).uniform(-1, 1, (11, 70)).astype(np.float32)
    clean = every_isa(data, xs)
    xs[[2, 7], at] = value
    got = every_isa(data, xs)
    assert np.isnan(got[[2, 7]]).all()
    others = [t for t in range(11) if t not in (2, 7)]
    assert got[others].tobytes() == clean[others].tobytes()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op(Code.DELAY, Ref(1), 2, 8, a=Ref(0)), "must not"),  # scratch is no delay line
        (Op(Code.DELAY, Ref(2), 3, 8, a=Ref(0)), "contradict"),
        (Op(Code.DELAY, Ref(2), 2, 10, a=Ref(0)), "outside its buffer"),
        (Op(Code.DELAY, Ref(2), 2, 0, a=Ref(0)), "contradict"),
        (Op(Code.DELAY, Ref(2), 2, 8, a=Ref(2, 6)), "overlap"),
        (Op(Code.SELECT, Ref(1), 4, a=Ref(0), b=Ref(0, 4)), "expected a place of n numbers"),
        (Op(Code.SELECT, Ref(1), 4, a=Ref(0), b=Ref(0, 5), c=Ref(0)), "outside its buffer"),
        (Op(Code.SELECT, Ref(2), 4, a=Ref(0), b=Ref(0, 4), c=Ref(2, 1)), "overlap"),
    ],
)
def test_selects_and_delays_that_make_no_sense_are_refused(op, message):
    with pytest.raises(ValueError, match=message):
        program([op], 8, [(Ref(2), 8)], [Buffer(8), Buffer(8, "state")])


SUBNORMAL = np.array([1e-40, -1e-40, 1e-45, 0.0, -0.0, 1e-38, -1e-38, 1.2e-38, 1.0, -1.0, NAN, INF], np.float32)
FLUSHED = np.where(np.abs(SUBNORMAL) < np.float32(1.17549435e-38), np.copysign(np.float32(0), SUBNORMAL), SUBNORMAL)


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        (Op(Code.BINARY, Ref(1), 12, 12, a=Ref(0), b=Ref(2), fn=Binary.MAX), np.maximum(FLUSHED, 0)),
        (Op(Code.BINARY, Ref(1), 12, 12, a=Ref(0), b=Ref(2), fn=Binary.MIN), np.minimum(FLUSHED, 0)),
        (Op(Code.BINARY, Ref(1), 12, 12, a=Ref(2), b=Ref(0), fn=Binary.MAX), np.maximum(FLUSHED, 0)),
        (Op(Code.UNARY, Ref(1), 12, a=Ref(0), fn=Unary.CLAMP, p0=-1.0, p1=1.0), np.clip(FLUSHED, -1, 1)),
        (Op(Code.UNARY, Ref(1), 12, a=Ref(0), fn=Unary.CLAMP, p0=0.0, p1=INF), np.maximum(FLUSHED, 0)),
        (Op(Code.REDUCE, Ref(1), 12, 1, a=Ref(0), fn=Reduce.MAX), FLUSHED),
        (Op(Code.REDUCE, Ref(1), 12, 1, a=Ref(0), fn=Reduce.MIN), FLUSHED),
        (Op(Code.REDUCE, Ref(1), 2, 5, a=Ref(0), fn=Reduce.MAX), [0, 1]),
        (Op(Code.REDUCE, Ref(1), 2, 3, a=Ref(0), fn=Reduce.MIN), [0, 0]),
        (Op(Code.REDUCE, Ref(1), 1, 5, a=Ref(0), fn=Reduce.ARGMAX), [0]),
        (Op(Code.TOP, Ref(1), 3, 5, a=Ref(0), fn=Top.POSITIONS), [0, 1, 2]),
        (Op(Code.BINARY, Ref(1), 12, 12, a=Ref(0), b=Ref(2), fn=Binary.EQUAL), FLUSHED == 0),
        (Op(Code.BINARY, Ref(1), 12, 12, a=Ref(2), b=Ref(0), fn=Binary.LESS), FLUSHED > 0),
        (Op(Code.BINARY, Ref(1), 12, 12, a=Ref(0), b=Ref(2), fn=Binary.ADD), FLUSHED),
    ],
)
def test_subnormals_are_zeros_on_every_instruction_set(op, wanted):
    data = program([op], 12, [(Ref(1), op.n)], [Buffer(op.n), Buffer(12, "constant", np.zeros(12, np.float32))])
    np.testing.assert_array_equal(every_isa(data, SUBNORMAL[None])[0], np.asarray(wanted, np.float32))


def top(x, n):
    order = sorted(range(len(x)), key=lambda i: (not np.isnan(x[i]), 0 if np.isnan(x[i]) else -x[i], i))
    return np.array(order[:n])


@pytest.mark.parametrize("k", [1, 2, 3, 7, 64, 300])
def test_the_largest_come_in_order_with_the_first_of_equal_ones_first(k):
    rng = np.random.default_rng(k)
    xs = [np.arange(k), -np.arange(k), np.zeros(k), rng.integers(0, 4, k), rng.uniform(-1, 1, k)]
    xs.append(np.where(rng.random(k) < 0.3, rng.choice([NAN, INF, -INF, 0.0, -0.0], k), rng.integers(-2, 3, k)))
    xs = np.stack(xs).astype(np.float32)
    for n in sorted({1, 2, 5, k // 2, k - 1, k} & set(range(1, k + 1))):
        ops = [Op(Code.TOP, Ref(1 + fn), n, k, a=Ref(0), fn=fn) for fn in Top]
        engine = Engine(program(ops, k, [(Ref(1 + fn), n) for fn in Top], [Buffer(n), Buffer(n)]))
        values, positions = engine.run(xs)
        np.testing.assert_array_equal(positions, np.stack([top(x, n) for x in xs]))
        np.testing.assert_array_equal(values, np.stack([x[top(x, n)] for x in xs]))


def test_all_of_a_million_are_sorted_in_seconds():
    log2 = 20  # ascending numbers, the worst case of an insertion: 2^40 comparisons, which would take minutes
    ops = [Op(Code.UNARY, Ref(1), 1, a=Ref(0), fn=Unary.COPY)]
    for i in range(log2):
        ops.append(Op(Code.UNARY, Ref(1, 1 << i), 1 << i, a=Ref(1), fn=Unary.SCALE_SHIFT, p0=1.0, p1=float(1 << i)))
    ops.append(Op(Code.TOP, Ref(2), 1 << log2, 1 << log2, a=Ref(1), fn=Top.POSITIONS))
    data = program(ops, 1, [(Ref(2, 0), 1000)], [Buffer(1 << log2), Buffer(1 << log2)])
    got = Engine(data).stream().step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(got, np.arange((1 << log2) - 1, (1 << log2) - 1001, -1))
