"""Indices as runs of equal steps: packing, what GATHER makes of them on every instruction set, damaged ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, ModelFileError
from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from compactrnn.runtime import layout as lay
from compactrnn.runtime.file import read, write
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.runs import RUN, pack_runs, unpack_runs
from test_runtime_file import changed, repair

PART = st.tuples(st.integers(0, 100), st.integers(-40_000, 40_000), st.integers(1, 40))


@given(st.lists(st.one_of(st.integers(1, 40).map(lambda n: np.repeat(-1, n)), PART), min_size=1, max_size=8))
def test_an_index_comes_back_from_its_runs(parts):
    pieces = [p if isinstance(p, np.ndarray) else np.abs(p[0] + p[1] * np.arange(p[2])) for p in parts]
    index = np.concatenate(pieces).astype(np.int32)
    assert unpack_runs(pack_runs(index)).tolist() == index.tolist()


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
    index = np.concatenate([*parts, np.arange(k)])
    data, xs = write(gather(index, k)), rng.normal(size=(2, k)).astype(np.float32)
    assert read(data).tensors[0].values.tolist() == index.tolist()
    for isa in _native.isas():
        assert np.array_equal(Engine(data, isa=isa).run(xs), np.where(index < 0, 0, xs[:, index]))


def test_the_smaller_of_two_forms_is_stored():
    runs, single = (write(gather(index, 64)) for index in (np.arange(64), np.random.default_rng(0).permutation(64)))
    assert stored_type(runs) == lay.Type.RUNS and stored_type(single) == lay.Type.INDEX


def test_places_between_those_of_a_run_need_not_be_written():
    write(gather([*range(0, 20, 2), *range(0, 20, 2)], 20, written=range(0, 20, 2)))
    for index in ([*range(0, 20, 2), *range(19, 9, -1)], [*range(0, 20, 2), *range(0, 18, 3)]):
        with pytest.raises(ValueError, match="nothing has written"):
            write(gather(index, 20, written=range(0, 20, 2)))


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
