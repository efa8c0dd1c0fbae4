"""Indices as runs that may repeat: packing, what GATHER makes of them on every instruction set, damaged ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, ModelFileError
from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from compactrnn.runtime import layout as lay
from compactrnn.runtime.file import read, write
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.runs import BLOCK, REPEAT, RUN, index_form, pack_repeats, pack_runs, unpack_repeats, unpack_runs
from test_runtime_file import changed, repair

PART = st.tuples(st.integers(0, 100), st.integers(-40_000, 40_000), st.integers(1, 40))


@given(st.lists(st.one_of(st.integers(1, 40).map(lambda n: np.repeat(-1, n)), PART), min_size=1, max_size=8))
def test_an_index_comes_back_from_its_runs(parts):
    pieces = [p if isinstance(p, np.ndarray) else np.abs(p[0] + p[1] * np.arange(p[2])) for p in parts]
    index = np.concatenate(pieces).astype(np.int32)
    assert unpack_runs(pack_runs(index)).tolist() == index.tolist()
    assert unpack_repeats(pack_repeats(index)).tolist() == index.tolist()


REPEATED = st.tuples(st.lists(st.integers(-1, 90), min_size=1, max_size=9), st.integers(2, 9), st.integers(0, 2**32))


@given(st.lists(st.one_of(st.lists(st.integers(-1, 90), min_size=1, max_size=9), REPEATED), min_size=1, max_size=4))
def test_an_index_comes_back_from_its_repetitions(parts):
    pieces = []
    for part in parts:
        block, times, seed = part if isinstance(part, tuple) else (part, 1, 0)
        shift = np.random.default_rng(seed).integers(0, 12, len(block)) * (np.array(block) >= 0)
        pieces.append((np.array(block) + shift * np.arange(times)[:, None]).ravel())
    index = np.concatenate(pieces).astype(np.int32)
    assert unpack_repeats(pack_repeats(index)).tolist() == index.tolist()


SHUFFLED = np.arange(528).reshape(2, 8, 33).transpose(2, 1, 0).ravel()  # channels of two groups in turn, 33 times
WINDOWS = np.concatenate([np.repeat(-1, 16), (np.arange(33)[:, None] + 33 * np.arange(8)).ravel(), np.repeat(-1, 8)])
CACHE = np.concatenate(
    [np.r_[120 * c : 120 * c + 70, 2000 + c : 2000 + c + 528 : 16] for c in range(16)]
)  # oldest, newest


@pytest.mark.parametrize(("index", "records"), [(SHUFFLED, 9), (WINDOWS, 6), (CACHE, 3)])
def test_what_a_channel_shuffle_a_convolution_and_a_cache_take_is_a_few_records(index, records):
    form, stored = index_form(index)
    assert form == "repeats" and len(stored) <= records, stored.tolist()
    assert unpack_repeats(stored).tolist() == index.tolist()


def test_long_runs_are_parted():
    assert pack_runs(np.arange(70_000)).tolist() == [(0, 1, 65535), (65535, 1, 4465)]
    assert pack_runs(np.repeat(-1, 65_536)).tolist() == [(-1, 0, 65535), (-1, 0, 1)]
    assert pack_runs(np.array([0, 32_767, 65_534, 0])).tolist() == [(0, 32_767, 3), (0, 0, 1)]


def gather(index, k, written=None):
    """A program that gathers from k inputs, or from a buffer of which only `written` places are."""
    index = np.asarray(index, np.int32)
    buffers = [Buffer(k, "input"), Buffer(len(index)), Buffer(k)]
    ops = [] if written is None else [Op(Code.UNARY, Ref(2, p), 1, a=Ref(0, p), fn=Unary.COPY) for p in written]
    ops.append(Op(Code.GATHER, Ref(1), len(index), k, a=Ref(0 if written is None else 2), tensor=0))
    ports = [Input("x", 0, (k,))], [Output("y", Ref(1), (len(index),))]
    return Program(buffers, [Tensor(index)], [Segment("forward", tuple(ops))], *ports)


def stored_type(data):
    return lay.Type(int(read_tensor(data)["type"]))


def read_tensor(data):
    buffers = int(np.frombuffer(data, lay.HEADER, 1)[0]["buffers"])
    return np.frombuffer(data, lay.TENSOR, 1, 64 + lay.round_line(buffers * lay.BUFFER.itemsize))[0]


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 2**32))
def test_gathering_takes_what_the_index_says(k, count, seed):
    rng = np.random.default_rng(seed)
    parts = [
        np.clip(rng.integers(k) + rng.integers(-3, 4) * np.arange(rng.integers(1, 30)), -1, k - 1) for _ in range(count)
    ]
    shift = rng.integers(-1, 2, 5)
    parts.append(np.clip(rng.integers(0, k, 5) + shift * np.arange(rng.integers(1, 9))[:, None], 0, k - 1).ravel())
    index = np.concatenate([*parts, np.arange(k)])
    data, xs = write(gather(index, k)), rng.normal(size=(2, k)).astype(np.float32)
    assert read(data).tensors[0].values.tolist() == index.tolist()
    for isa in _native.isas():
        assert np.array_equal(Engine(data, isa=isa).run(xs), np.where(index < 0, 0, xs[:, index]))


def test_the_smallest_form_is_stored():
    indices = np.arange(64), np.random.default_rng(0).permutation(64), SHUFFLED
    types = [stored_type(write(gather(index, int(index.max()) + 1))) for index in indices]
    assert types == [lay.Type.RUNS, lay.Type.INDEX, lay.Type.REPEATS]


def test_places_between_those_of_a_run_need_not_be_written():
    write(gather([*range(0, 20, 2), *range(0, 20, 2)], 20, written=range(0, 20, 2)))
    for index in ([*range(0, 20, 2), *range(19, 9, -1)], [*range(0, 20, 2), *range(0, 18, 3)]):
        with pytest.raises(ValueError, match="nothing has written"):
            write(gather(index, 20, written=range(0, 20, 2)))


def test_places_between_those_that_repeat_need_not_be_written():
    index = (np.array([0, 30, 6]) + np.array([4, 4, 4]) * np.arange(5)[:, None]).ravel()
    k, written = int(index.max()) + 1, sorted({*index.tolist()})
    assert stored_type(write(gather(index, k, written=written))) == lay.Type.REPEATS
    for missing in (0, 6, 16, 30, 46):
        with pytest.raises(ValueError, match="nothing has written"):
            write(gather(index, k, written=[place for place in written if place != missing]))


OUT_OF_RANGE, CONTRADICT = "out of range", "contradict"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ((-2, 0, 8), OUT_OF_RANGE),
        ((-1, 1, 8), OUT_OF_RANGE),
        ((0, 1, 0), OUT_OF_RANGE),
        ((0, -1, 8), OUT_OF_RANGE),
        ((33, 1, 8), OUT_OF_RANGE),
        ((5, 5, 8), OUT_OF_RANGE),
        ((2**31 - 1, 32767, 8), OUT_OF_RANGE),
        ((2**31 - 1, -32768, 8), OUT_OF_RANGE),
        ((0, 1, 7), CONTRADICT),
        ((0, 1, 40), CONTRADICT),
        ((0, 0, 65535), CONTRADICT),
        ((32, 1, 8), None),
        ((39, -5, 8), None),
        ((7, 0, 8), None),
    ],
)
def test_a_damaged_run_is_refused(run, message):
    data = bytearray(write(gather([*range(8), *range(20, 12, -1)], 40)))
    place = int(read_tensor(bytes(data))["place"])
    data[place : place + 8] = np.array([run], RUN).tobytes()
    if message is None:
        Engine(repair(data))
        return
    with pytest.raises(ModelFileError, match=message):
        Engine(repair(data))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rows", 1, "not where"),
        ("rows", 0, "limits"),
        ("columns", 2, CONTRADICT),
        ("type", lay.Type.INDEX, "not where"),
        ("type", lay.Type.TABLE_I8, "not where|contradict"),
        ("scale", 64, "not where"),
    ],
)
def test_a_damaged_record_is_refused(field, value, message):
    data = write(gather([*range(8), *range(20, 12, -1)], 40))
    with pytest.raises(ModelFileError, match=message):
        Engine(changed(data, "tensors", 0, field, value))


REPETITIONS = [0, 9, 8, 1, 8, 6, 2, 7, 4, 3, 6, 2, 4, 5, 0]  # five times three runs of one position


@pytest.mark.parametrize(
    ("row", "record", "message"),
    [
        (0, (0, 3, 0), OUT_OF_RANGE),
        (0, (4, 3, 0), CONTRADICT),
        (0, (6, 3, 0), OUT_OF_RANGE),
        (0, (2**32 - 1, 3, 0), OUT_OF_RANGE),
        (0, (5, 0, 0), OUT_OF_RANGE),
        (0, (5, 2, 0), "not where"),  # the last run is no head
        (0, (5, 4, 0), OUT_OF_RANGE),
        (0, (5, 2**32 - 1, 0), OUT_OF_RANGE),
        (0, (5, 3, 1), "not where"),
        (0, (1, 3, 0), OUT_OF_RANGE),
        (1, (-2, 0, 0, 1), OUT_OF_RANGE),
        (1, (-1, 1, 0, 1), OUT_OF_RANGE),
        (1, (-1, 0, 1, 1), OUT_OF_RANGE),
        (1, (0, 2**31 - 1, 0, 1), OUT_OF_RANGE),
        (1, (0, -(2**31), 0, 1), OUT_OF_RANGE),
        (1, (6, 1, 0, 1), OUT_OF_RANGE),
        (1, (3, -1, 0, 1), OUT_OF_RANGE),
        (1, (0, 1, 0, 0), OUT_OF_RANGE),
        (1, (0, 1, 1, 2), CONTRADICT),
        (1, (0, 1, 0, 65535), CONTRADICT),
        (1, (4, -1, 0, 1), None),
        (1, (-1, 0, 0, 1), None),
    ],
)
def test_a_damaged_repetition_is_refused(row, record, message):
    data = bytearray(write(gather(REPETITIONS, 10)))
    tensor = read_tensor(bytes(data))
    assert tensor["type"] == lay.Type.REPEATS and tensor["rows"] == 4
    place = int(tensor["place"]) + row * REPEAT.itemsize
    data[place : place + 12] = np.array([record], BLOCK if row == 0 else REPEAT).tobytes()
    if message is None:
        Engine(repair(data)).run(np.zeros((1, 10), np.float32))
        return
    with pytest.raises(ModelFileError, match=message):
        Engine(repair(data))


def test_every_damage_of_a_repetition_is_refused_or_runs():
    data, xs = write(gather(REPETITIONS, 10)), np.ones((1, 10), np.float32)
    tensor = read_tensor(data)
    place, random, refused = int(tensor["place"]), np.random.default_rng(0), 0
    for _ in range(600):
        damaged = bytearray(data)
        damaged[place + int(random.integers(4 * REPEAT.itemsize))] = int(random.integers(256))
        try:
            y = np.asarray(Engine(repair(damaged)).run(xs))
        except ModelFileError:
            refused += 1
        else:
            assert y.shape == (1, 15) and set(y.ravel().tolist()) <= {0.0, 1.0}
    assert 300 < refused < 600
