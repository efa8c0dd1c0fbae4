"""Products by what has changed: the same numbers, however long the stream."""

from dataclasses import replace

import numpy as np
import pytest

from compactrnn import Engine
from compactrnn.runtime import _native
from compactrnn.runtime.delta import skip_unchanged
from compactrnn.runtime.file import read, write
from compactrnn.runtime.gates import padded
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.rounding import quantize_rows


def product(values, code=Code.DELTA, bias=True, p0=1 / 127, block=4, **fields):
    """b + W a, W in int8 if its values are."""
    n, k = values.shape
    tensor = Tensor(values, block=block) if values.dtype == np.float32 else quantize_rows(values)
    rng = np.random.default_rng(7)
    buffers = [
        Buffer(k, "input"),
        Buffer(n),
        Buffer(n, "constant", rng.normal(size=n)),
        Buffer(k + padded(n) + 1, "state"),
    ]
    op = Op(code, Ref(1), n, k, a=Ref(0), b=Ref(2) if bias else None, tensor=0, p0=p0, name="fc")
    op = replace(op, **{"c": Ref(3), **fields}) if code == Code.DELTA else op
    inputs, outputs = [Input("x", 0, (k,))], [Output("y", Ref(1), (n,))]
    return Program(buffers, [tensor], [Segment("forward", (op,))], inputs, outputs)


def matrix(n, k, dtype=np.float32):
    return (np.random.default_rng(n + k).uniform(-1, 1, (n, k)) / np.sqrt(k)).astype(dtype)


def changes(steps, k, share, seed=0):
    """Rows of numbers from -1 to 1, of which a share changes from step to step."""
    rng = np.random.default_rng(seed)
    sent, new = rng.random((steps, k)) < share, rng.uniform(-1, 1, (steps, k)).astype(np.float32)
    last = np.maximum.accumulate(np.where(sent, np.arange(steps)[:, None], 0))
    return np.take_along_axis(new, last, 0)


SIZES = [(1, 1, 4), (16, 7, 1), (17, 70, 2), (65, 33, 3), (150, 130, 4), (300, 64, 4)]


@pytest.mark.parametrize(("n", "k", "block"), SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_float32_products_are_near_the_dense_ones(n, k, block, bias):
    xs, values = changes(200, k, 0.2), matrix(n, k)
    programs = [product(values, code, bias, block=block) for code in (Code.DELTA, Code.AFFINE)]
    found, dense = (Engine(write(p)).run(xs) for p in programs)
    np.testing.assert_allclose(found, dense, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("n", "k", "block"), SIZES)
@pytest.mark.parametrize("isa", _native.isas())
def test_int8_products_are_the_dense_ones(n, k, block, isa):
    xs, values = changes(200, k, 0.2), matrix(n, k, np.float64)
    found, dense = (Engine(write(product(values, code)), isa=isa).run(xs) for code in (Code.DELTA, Code.AFFINE))
    assert np.array_equal(found, dense)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_instruction_sets_and_single_steps_give_the_same_bits(dtype):
    xs, blob = changes(300, 70, 0.3), write(product(matrix(150, 70, dtype)))
    runs = [Engine(blob, isa=isa).run(xs) for isa in _native.isas()]
    stream = Engine(blob).stream()
    runs.append(np.stack([stream.step(x) for x in xs]))
    assert all(np.array_equal(run, runs[0]) for run in runs)


def test_all_instruction_sets_give_the_same_bits_from_any_initial_memory():
    """A file may have -128 there, which no quantized number is."""
    program = product(matrix(150, 70, np.float64))
    memory = program.buffers[3]
    lowest = np.full(memory.width, 0x80808080, np.uint32).view(np.float32)
    lowest[-1] = 0
    program.buffers[3] = replace(memory, init=lowest)
    xs, blob = np.abs(changes(50, 70, 0.3)), write(program)
    runs = [Engine(blob, isa=isa).run(xs) for isa in _native.isas()]
    assert all(np.array_equal(run, runs[0]) for run in runs)


def test_nothing_else_may_write_to_the_memory():
    """A NaN there would be read as bytes, and only that it is one is the same everywhere."""
    program = product(matrix(20, 9, np.float64))
    (segment,) = program.segments
    copy = Op(Code.UNARY, Ref(3), 9, 0, a=Ref(0), fn=Unary.COPY)
    for ops in ((copy, *segment.ops), (*segment.ops, copy), (*segment.ops, *segment.ops)):
        with pytest.raises(ValueError, match="overlap"):
            write(replace(program, segments=[replace(segment, ops=ops)]))


def test_there_is_no_drift():
    """After 200,000 steps the error is that of the first steps: none that is larger than rounding of 64 steps makes."""
    values, stream = matrix(48, 40), Engine(write(product(matrix(48, 40)))).stream()
    worst = []
    for part in range(20):
        xs = changes(10_000, 40, 0.25, seed=part)
        exact = xs.astype(np.float64) @ values.T.astype(np.float64) + np.random.default_rng(7).normal(size=48)
        worst.append(np.abs(stream.run(xs) - exact).max())
    assert max(worst) < 2e-6 and max(worst[10:]) < 2 * max(worst[:10])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_passes(dtype):
    xs = changes(20, 70, 0.2)
    xs[5, 3], xs[7, 4], xs[9, 5], xs[10:12, 6] = np.nan, np.inf, -np.inf, np.inf
    values = matrix(40, 70, dtype)
    found, dense = (Engine(write(product(values, code))).run(xs) for code in (Code.DELTA, Code.AFFINE))
    np.testing.assert_allclose(found, dense, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_files_are_read_back(dtype):
    data = write(product(matrix(70, 9, dtype)))
    assert write(read(data)) == data


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (product(matrix(20, 9, np.float64), p0=0.0), "scale"),
        (product(matrix(20, 9), c=Ref(1)), "overlap|outside"),
        (product(matrix(20, 9), c=Ref(3, 1)), "outside"),
        (product(matrix(20, 9), c=Ref(0)), "outside|must not"),
        (product(matrix(20, 9), c=Ref(4)), "nothing has written"),
        (product(matrix(20, 9), n=19), "contradict"),
    ],
)
def test_wrong_operations_are_refused(program, reason):
    program.buffers.append(Buffer(9 + 32 + 1))
    with pytest.raises(ValueError, match=reason):
        write(program)


def delta_program(values, smallest=1, p0=1 / 127):
    """A product with what is kept while it is near what it was."""
    n, k = values.shape
    tensor = Tensor(values) if values.dtype == np.float32 else quantize_rows(values)
    buffers = [
        Buffer(k, "input"),
        Buffer(k, "state"),
        Buffer(k),
        Buffer(k),
        Buffer(n),
        Buffer(1, "constant", np.ones(1)),
    ]
    ops = (
        Op(Code.BINARY, Ref(2), k, 1, a=Ref(0), b=Ref(5), fn=8),
        Op(Code.SELECT, Ref(3), k, a=Ref(1), b=Ref(0), c=Ref(2)),
        Op(Code.AFFINE, Ref(4), n, k, a=Ref(3), tensor=0, p0=p0),
        Op(Code.UNARY, Ref(1), k, a=Ref(3), fn=Unary.COPY),
    )
    inputs, outputs = [Input("x", 0, (k,))], [Output("y", Ref(4), (n,))]
    return Program(buffers, [tensor], [Segment("forward", ops)], inputs, outputs)


def test_products_with_references_skip_what_is_unchanged():
    def codes(program, smallest=1):
        return [op.code for op in skip_unchanged(program, smallest).ops]

    whole = delta_program(matrix(20, 9, np.float64))
    assert codes(delta_program(matrix(20, 9)))[2] == codes(whole)[2] == Code.DELTA
    assert codes(whole, smallest=181)[2] == Code.AFFINE
    assert codes(delta_program(matrix(20, 9, np.float64), p0=0.0))[2] == Code.AFFINE
    unkept = replace(whole, segments=[Segment("forward", whole.segments[0].ops[:3])])
    assert codes(unkept)[2] == Code.AFFINE
    x = changes(50, 9, 0.4)
    assert np.array_equal(Engine(write(skip_unchanged(whole, 1))).run(x), Engine(write(whole)).run(x))
