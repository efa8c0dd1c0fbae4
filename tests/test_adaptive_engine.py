"""Clusters of an adaptive softmax that are computed when they are asked for."""

from copy import copy as copy_of

import numpy as np
import pytest
import torch

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime import _native
from compactrnn.runtime.adaptive_parts import split
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Code, Op, Ref
from compactrnn.runtime.quantize import quantize
from test_adaptive_softmax import Model, tokens
from test_runtime_reference import one_op


@pytest.fixture(scope="module")
def programs():
    torch.manual_seed(0)
    program = lower(Model(bias=True), tokens())
    return {weights: quantize(program, weights) for weights in ("float32", "int8", "int4")}


def full_order(values):
    return np.lexsort((np.arange(len(values)), -values, ~np.isnan(values)))


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_every_answer_is_that_of_the_whole_computation(programs, weights, isa):
    """To the bit, at every step of a sequence, in any order of the questions."""
    rng, data = np.random.default_rng(0), write(programs[weights])
    whole, engine = cr.Engine(data, isa=isa).stream(), cr.AdaptiveEngine(data, isa=isa)
    stream, saved = engine.stream(), 0
    for token in rng.integers(0, 100, 40).tolist():
        wanted, step = whole.step(token), stream.step(token)
        assert step.opened == () and step.macs == engine.macs_per_step
        target, k = int(rng.integers(100)), int(rng.integers(1, 8))
        assert step.log_prob(target) == wanted[target]
        assert step.opened == (() if target < 10 else (0,) if target < 40 else (1,))
        order = full_order(wanted)[:k]
        values, classes = stream.copy() and step.top_k(k)
        assert classes.tolist() == order.tolist() and np.array_equal(values, wanted[order])
        saved += len(step.opened) < 2
        assert np.array_equal(step.log_probs(), wanted) and step.macs == cr.Engine(data).macs_per_step
        values, classes = step.top_k(100)
        assert np.array_equal(classes, full_order(wanted))
    assert saved > 5


def test_top_k_opens_no_cluster_that_cannot_have_one_of_them(programs):
    engine = cr.AdaptiveEngine(write(programs["float32"]))
    stream, counts = engine.stream(), []
    for token in range(60):
        step = stream.step(token)
        head, kth = step._given[0], step.top_k(3)[0][-1]
        counts.append(len(step.opened))
        for i in range(2):
            if i not in step.opened:
                assert head[10 + i] < kth
            else:
                assert (step._cluster(i) <= head[10 + i]).all()
    assert set(counts) >= {1, 2} or set(counts) >= {0, 1}


def test_a_bound_is_never_exceeded():
    """No class is more likely than its cluster, whatever the sizes of the sums before the softmax."""
    rng = np.random.default_rng(0)
    for scale in (1e-30, 1e-3, 1.0, 80.0, 1e6):
        xs = np.float32(scale) * rng.normal(size=(300, 33)).astype(np.float32)
        for n in (1, 2, 33):
            data = write(one_op(Op(Code.LOG_SOFTMAX, Ref(1), n, n, a=Ref(0)), n))
            for isa in _native.isas():
                assert (cr.Engine(data, isa=isa).run(xs[:, :n]) <= 0).all()


def test_the_state_is_that_of_the_head(programs):
    engine = cr.AdaptiveEngine(write(programs["int8"]))
    assert engine.classes == 100 and engine.cutoffs == (10, 40) and len(engine.parts) == 3
    stream = engine.stream()
    first = stream.step(3)
    copy = copy_of(stream)
    later = [s.step(5).log_probs() for s in (stream, copy)]
    assert np.array_equal(*later)
    assert np.array_equal(first.log_probs(), engine.stream().step(3).log_probs()), "it stays valid"
    assert not np.array_equal(stream.step(3).log_probs(), first.log_probs())
    stream.reset()
    assert np.array_equal(stream.step(3).log_probs(), first.log_probs())
    (name,) = [state.name for state in stream.head.states]
    copy.reset(**{name: stream.head.get_state(name)})
    assert np.array_equal(copy.step(7).log_probs(), stream.step(7).log_probs())


def test_the_products_are_those_of_the_parts(programs):
    for program in programs.values():
        engine, whole = cr.AdaptiveEngine(write(program)), cr.Engine(write(program))
        assert engine.macs_per_step + sum(engine.cluster_macs) == whole.macs_per_step
        assert engine.cluster_macs == (48 * 24 + 24 * 30, 48 * 12 + 12 * 60)
        names = [{op.name for op in part.ops if op.tensor is not None} for part in split(program).clusters]
        assert names == [{f"adaptive.tail.{i}.{j}" for j in (0, 1)} for i in (0, 1)]


def test_nan_counts_as_the_largest(programs):
    data = write(programs["float32"])
    whole, stream = cr.Engine(data).stream(), cr.AdaptiveEngine(data).stream()
    (name,) = [state.name for state in whole.states]
    bad = np.full(48, np.nan, np.float32)
    for each in (whole, stream.head):
        each.set_state(name, bad)
    wanted, step = whole.step(3), stream.step(3)
    assert np.isnan(wanted).all() and np.isnan(step.log_prob(70))
    values, classes = step.top_k(12)
    assert classes.tolist() == list(range(12)) and np.isnan(values).all()


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda step: step.log_prob(100), ValueError, "target: expected an int from 0 to 99, got 100"),
        (lambda step: step.log_prob(-1), ValueError, "target: expected an int from 0 to 99, got -1"),
        (lambda step: step.log_prob(1.0), TypeError, "target: expected an int, got float"),
        (lambda step: step.log_prob(True), TypeError, "target: expected an int, got a bool"),
        (lambda step: step.top_k(0), ValueError, "k: expected an int from 1 to 100, got 0"),
        (lambda step: step.top_k(101), ValueError, "k: expected an int from 1 to 100, got 101"),
    ],
)
def test_what_is_out_of_range_is_refused(programs, ask, error, message):
    step = cr.AdaptiveEngine(write(programs["float32"])).stream().step(0)
    with pytest.raises(error, match=message):
        ask(step)
    assert step.opened == ()


@pytest.mark.parametrize("form", ["last step", "most likely", "top 5"])
def test_other_models_are_refused(form):
    """The last step alone can be given at every step, too."""
    data = write(lower(Model(form), tokens()))
    if form == "last step":
        assert cr.AdaptiveEngine(data).classes == 100
        return
    with pytest.raises(cr.UnsupportedModelError, match="log_prob of an nn"):
        cr.AdaptiveEngine(data)


def test_a_plain_model_and_a_file_of_another_kind_are_refused():
    with pytest.raises(cr.UnsupportedModelError, match="got none among y"):
        cr.AdaptiveEngine(write(one_op(Op(Code.SOFTMAX, Ref(1), 4, 4, a=Ref(0)), 4)))
    with pytest.raises(cr.ModelFileError, match="not a compactrnn model file"):
        cr.AdaptiveEngine(b"something else" * 20)
