"""ATTEND: the law of its numbers, the same bits from every instruction set, what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, UnsupportedModelError
from compactrnn.runtime import _native
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Attend, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Unary

F = np.float32


def attention(n, k, fn=Attend.ALL, scale=1.0, kept="sequence", result="sequence"):
    """Queries q, keys k and values v, inputs all three; the values are kept in a buffer of an earlier segment.

    Several steps at once attend where the result is kept of each step; else one after the other does.
    """
    buffers = [Buffer(k, "input"), Buffer(k, "input"), Buffer(n, "input"), Buffer(n, kept), Buffer(n, result)]
    ops = (Op(Code.UNARY, Ref(3), n, a=Ref(2), fn=Unary.COPY),)
    attend = Op(Code.ATTEND, Ref(4), n, k, a=Ref(0), b=Ref(1), c=Ref(3), fn=fn, p0=scale)
    segments = [Segment("forward", ops), Segment("forward", (attend,))]
    inputs = [Input(name, i, (width,)) for i, (name, width) in enumerate((("q", k), ("k", k), ("v", n)))]
    return Program(buffers, [], segments, inputs, [Output("y", Ref(4), (n,))])


def exp(x):
    """The core's own."""
    x = np.asarray(x, F).ravel()
    op = Op(Code.UNARY, Ref(1), len(x), a=Ref(0), fn=Unary.EXP)
    inputs, outputs = [Input("x", 0, (len(x),))], [Output("y", Ref(1), (len(x),))]
    program = Program([Buffer(len(x), "input"), Buffer(len(x))], [], [Segment("forward", (op,))], inputs, outputs)
    return Engine(write(program)).run(x[None])[0]


def dot(a, b):
    total = F(0)
    for x, y in zip(a, b, strict=True):
        total = total + x * y
    return total


def law(q, keys, values, scale):
    """One step's result, each operation of float32 rounded once, as `native/cr_kernels.h` says."""
    largest, total, y = F(-np.inf), F(0), np.zeros(values.shape[1], F)
    for first in range(0, len(keys), 16):
        scores = np.array([dot(q, key) * F(scale) for key in keys[first : first + 16]], F)
        before, largest = largest, max(largest, scores.max())
        shrunk, *weights = exp([before - largest, *(scores - largest)])
        total, y = total * shrunk, y * shrunk
        for weight, value in zip(weights, values[first : first + 16], strict=True):
            total, y = total + weight, y + weight * value
    return y / total


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 50),
    st.sampled_from(Attend),
    st.sampled_from([1.0, 0.25, -0.3, 30.0]),
    st.integers(0, 2**32),
)
def test_numbers_keep_the_law_on_every_instruction_set(n, k, steps, fn, scale, seed):
    rng = np.random.default_rng(seed)
    q, keys, values = (rng.normal(size=(steps, width)).astype(F) for width in (k, k, n))
    programs = [write(attention(n, k, fn, scale, result=result)) for result in ("sequence", "scratch")]
    until = [t + 1 if fn == Attend.CAUSAL else steps for t in range(steps)]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wanted = np.stack([law(q[t], keys[: until[t]], values[: until[t]], scale) for t in range(steps)])
    for isa in _native.isas():
        for data in programs:
            assert Engine(data, isa=isa).run((q, keys, values)).tobytes() == wanted.tobytes(), isa


@pytest.mark.parametrize("fn", Attend)
def test_it_is_a_softmax_over_the_steps(fn):
    rng = np.random.default_rng(0)
    q, keys, values = (rng.normal(size=(300, width)).astype(F) for width in (24, 24, 10))
    scores = 0.2 * q.astype(np.float64) @ keys.T
    if fn == Attend.CAUSAL:
        scores += np.where(np.tri(300), 0, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    wanted = weights @ values / weights.sum(1, keepdims=True)
    got = Engine(write(attention(10, 24, fn, 0.2))).run((q, keys, values))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_large_scores_neither_overflow_nor_vanish():
    rng = np.random.default_rng(1)
    q, keys, values = (rng.normal(size=(70, width)).astype(F) for width in (8, 8, 3))
    got = Engine(write(attention(3, 8, scale=1e7))).run((q, keys, values))
    np.testing.assert_array_equal(got, values[(q @ keys.T).argmax(1)])


def test_what_is_not_finite_shows_as_in_a_softmax():
    rng = np.random.default_rng(2)
    steps = 40
    q, keys, values = (rng.normal(size=(steps, 4)).astype(F) for _ in range(3))

    def run(fn=Attend.ALL):
        found = [Engine(write(attention(4, 4, fn)), isa=isa).run((q, keys, values)) for isa in _native.isas()]
        assert len({y.tobytes() for y in found}) == 1
        return found[0]

    q[3] = np.nan
    assert np.isnan(run()[3]).all() and np.isfinite(np.delete(run(), 3, 0)).all()
    q[3], values[30, 1] = 0, np.nan
    assert np.isnan(run()[:, 1]).all() and np.isfinite(run()[:, [0, 2, 3]]).all()
    causal = run(Attend.CAUSAL)
    assert np.isfinite(causal[:30]).all() and np.isnan(causal[30:, 1]).all()
    values[30, 1], keys[20] = 0, np.nan
    assert np.isnan(run()).all()
    q[:], keys[:] = 1, 0
    keys[:20] = -3e38  # scores of -infinity, more than a tile of them
    np.testing.assert_allclose(run(), np.tile(values[20:].mean(0), (steps, 1)), rtol=1e-5)
    assert np.isnan(run(Attend.CAUSAL)[:20]).all()  # as the softmax of -infinity alone


def test_one_step_alone_is_its_own_value():
    q, keys, values = (np.full((1, 3), x, F) for x in (2, -1, 5))
    assert Engine(write(attention(3, 3))).run((q, keys, values)).tolist() == [[5, 5, 5]]


def test_it_needs_whole_sequences():
    program = attention(3, 3)
    engine = Engine(write(program))
    assert program.offline and engine.offline
    with pytest.raises(UnsupportedModelError, match="whole sequences"):
        engine.stream()


@pytest.mark.parametrize("kept", ["scratch", "state"])
def test_what_it_reads_of_other_steps_must_be_there(kept):
    with pytest.raises(ValueError, match="reads what a later segment makes"):
        write(attention(3, 3, kept=kept))


def test_a_sequence_of_its_own_segment_is_not_there_yet():
    program = attention(3, 3)
    program.segments = [Segment("forward", tuple(program.ops))]
    with pytest.raises(ValueError, match="reads what a later segment makes"):
        write(program)


def test_tokens_are_no_keys():
    program = attention(1, 1)
    program.inputs[1] = Input("k", 1, (), 5)
    with pytest.raises(ValueError, match="reads what a later segment makes"):
        write(program)


def test_a_parameter_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="out of range"):
        write(attention(3, 3, scale=float("nan")))
