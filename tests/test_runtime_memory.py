"""Memory limits, arrays of any alignment and stride, and no reads before the first write."""

import numpy as np
import pytest

from compactrnn import Engine, ModelFileError
from compactrnn.runtime.file import write
from compactrnn.runtime.program import (
    Binary,
    Buffer,
    Code,
    Input,
    Op,
    Output,
    Program,
    Ref,
    Segment,
    Tensor,
    Unary,
)
from test_runtime_file import changed

WIDE = 1 << 20


def copy(dst, n, a):
    return Op(Code.UNARY, dst, n, a=a, fn=Unary.COPY)


def adder(several=False):
    """The state adds up rows of 3 numbers; with `several`, of a table by token too."""
    buffers = [Buffer(3, "input"), Buffer(3, "state")]
    ops = (Op(Code.BINARY, Ref(1), 3, 3, a=Ref(1), b=Ref(0), fn=Binary.ADD),)
    inputs, outputs = [Input("x", 0, (3,))], [Output("y", Ref(1), (3,))]
    if not several:
        return Engine(write(Program(buffers, [], [Segment("forward", ops)], inputs, outputs)))
    table = Tensor(np.arange(12, dtype=np.float32).reshape(4, 3))
    buffers += [Buffer(1, "input"), Buffer(3)]
    ops += (Op(Code.EMBED, Ref(3), 3, a=Ref(2), tensor=0),)
    inputs.append(Input("token", 2, (), 4))
    outputs.append(Output("row", Ref(3), (3,)))
    return Engine(write(Program(buffers, [table], [Segment("forward", ops)], inputs, outputs)))


def unaligned(values):
    """The same numbers, at addresses that are no multiples of 4."""
    values = np.asarray(values)
    array = np.frombuffer(b"\0" + values.tobytes(), values.dtype, offset=1).reshape(values.shape)
    assert not array.flags.aligned
    return array


def record_field(values):
    """The same rows, as a field of packed records."""
    records = np.zeros(len(values), [("tag", "u1"), ("values", values.dtype, values.shape[1:])])
    records["values"] = values
    return records["values"]


@pytest.mark.parametrize(
    "lay",
    [
        unaligned,
        record_field,
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.float64),
        lambda x: x.tolist(),
    ],
)
def test_inputs_may_lie_anywhere(lay):
    xs = np.random.default_rng(0).integers(-9, 9, (5, 3)).astype(np.float32)
    engine, given, wanted = adder(), lay(xs), np.cumsum(xs, axis=0)
    np.testing.assert_array_equal(engine.run(given), wanted)
    np.testing.assert_array_equal(engine.stream().run(given), wanted)
    stream, into = engine.stream(), engine.stream()
    for x, y in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(stream.step(x), y)
        out = np.zeros(3, np.float32)
        assert into.step(x, out=out) is out
        np.testing.assert_array_equal(out, y)


def test_tokens_may_lie_anywhere_beside_numbers():
    engine, xs, tokens = adder(several=True), np.ones((4, 3), np.float32), np.array([3, 1, 0, 2])
    wanted = [np.cumsum(xs, axis=0), np.arange(12).reshape(4, 3)[tokens]]
    for given in (tokens, unaligned(tokens), unaligned(tokens.astype(np.int32)), tokens.tolist()):
        for got in (engine.run((xs, given)), engine.stream().run((unaligned(xs), given))):
            np.testing.assert_array_equal(got, wanted)
        stream = engine.stream()
        rows = [stream.step((unaligned(x), token)) for x, token in zip(xs, given, strict=True)]
        np.testing.assert_array_equal(np.stack(rows, axis=1), wanted)


def test_outputs_must_be_plain_memory():
    stream = adder().stream()
    for wrong in (unaligned(np.zeros(3, np.float32)), np.zeros(6, np.float32)[::2]):
        with pytest.raises(ValueError, match="not aligned, writable and in one piece"):
            stream.step(np.ones(3, np.float32), out=wrong)
    np.testing.assert_array_equal(stream.step(np.zeros(3, np.float32)), np.zeros(3))  # nothing was run


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_outputs_may_not_overlap(shift):
    engine, x, xs = adder(several=True), np.ones(3, np.float32), np.ones((2, 3), np.float32)
    memory = np.zeros(60, np.float32)
    row, other = memory[:3], memory[shift : shift + 3]
    rows, others = memory[:6].reshape(2, 3), memory[shift : shift + 6].reshape(2, 3)
    stream = engine.stream()
    with pytest.raises(ValueError, match="memory of another output"):
        stream.step((x, 1), out=(row, other))
    with pytest.raises(ValueError, match="memory of another output"):
        stream.step((x.tolist(), 1), out=(row, other))
    for run in (stream.run, engine.run):
        with pytest.raises(ValueError, match="memory of another output"):
            run((xs, [1, 2]), out=(rows, others))
    assert not memory.any() and not np.frombuffer(stream.state_bytes()[8:], np.float32).any()
    for given in ((memory[:3], 1), (memory[:3][None], [1])):
        with pytest.raises(ValueError, match="memory of the input"):
            (stream.step if given[0].ndim == 1 else stream.run)(given, out=(given[0], np.zeros_like(given[0])))
    y, z = stream.step((x, 1), out=(memory[:3], memory[3:6]))
    assert y.tolist() == [1, 1, 1] and z.tolist() == [3, 4, 5]


def greedy(sequences):
    """Of some 200 bytes for each of so many sequences, which ask for 4 MB a step."""
    buffers = [Buffer(1, "input"), Buffer(WIDE, "state"), Buffer(1)] + [Buffer(WIDE, "sequence")] * sequences
    segments = [Segment("forward", tuple(copy(Ref(3 + i), WIDE, Ref(1)) for i in range(sequences)))]
    segments.append(Segment("once", (copy(Ref(2), 1, Ref(3)),)))
    return write(Program(buffers, [], segments, [Input("x", 0, (1,))], [Output("y", Ref(2), (1,), final=True)]))


def test_what_a_run_takes_is_known_and_limited_before_it_takes_it():
    data = greedy(60)
    assert len(data) < 10_000
    engine = Engine(data)
    for steps in (1, 7, 1000):
        assert engine.workspace_bytes(steps) == engine.stream_bytes + 60 * 4 * WIDE * steps + 4
    with pytest.raises(ValueError, match=r"run of 8 steps: expected at most memory_limit=.*, got \d+ bytes .*"):
        engine.run(np.zeros((8, 1), np.float32))
    xs = np.zeros((2, 1), np.float32)
    need = Engine(greedy(1)).workspace_bytes(2)
    assert Engine(greedy(1), memory_limit=need).run(xs).tolist() == [0]
    with pytest.raises(ValueError, match=f"got {need} bytes"):
        Engine(greedy(1), memory_limit=need - 1).run(xs)
    assert Engine(greedy(1), memory_limit=None).run(xs).tolist() == [0]
    assert Engine(greedy(1), memory_limit=need - 4).run(xs, out=np.zeros(1, np.float32)).tolist() == [0]
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="memory_limit"):
            Engine(data, memory_limit=wrong)
        with pytest.raises(ValueError, match="steps"):
            engine.workspace_bytes(wrong)


def test_what_a_stream_takes_is_known_and_limited_before_it_takes_it():
    buffers = [Buffer(1, "input"), Buffer(WIDE, "state")]
    ops = (Op(Code.DELAY, Ref(1), 1, WIDE, a=Ref(0)),)
    data = write(Program(buffers, [], [Segment("forward", ops)], [Input("x", 0, (1,))], [Output("y", Ref(1), (1000,))]))
    size = Engine(data).stream_bytes
    assert 4 * WIDE < size < 4 * WIDE + 1000
    with pytest.raises(ValueError, match=rf"stream: .*got {size} bytes of memory to take"):
        Engine(data, memory_limit=size - 1).stream()
    stream = Engine(data, memory_limit=size).stream()
    with pytest.raises(ValueError, match=r"run of 1100 steps: .*got 4400000 bytes"):
        stream.run(np.zeros((1100, 1), np.float32))
    assert stream.run(np.ones((3, 1), np.float32)).shape == (3, 1000)
    out = np.zeros((1100, 1000), np.float32)
    assert stream.run(np.zeros((1100, 1), np.float32), out=out) is out


def two_segments(first, second, kinds, output=None):
    """Two forward segments over buffers of 4 numbers: the input at 0, `kinds` from 1 on."""
    buffers = [Buffer(4, "input")] + [Buffer(4, kind) for kind in kinds]
    segments = [Segment("forward", tuple(first)), Segment("forward", tuple(second))]
    return Program(buffers, [], segments, [Input("x", 0, (4,))], [output or Output("y", Ref(2), (4,))])


X = Ref(0)
UNWRITTEN = r"reads numbers that nothing has written before \((operation|output) 0\)"
LATER = "reads what a later segment makes"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        # scratch of the step before, whole or in part, directly or by way of an output
        (two_segments([copy(Ref(2), 4, Ref(1)), copy(Ref(1), 4, X)], [], ["scratch"] * 2), UNWRITTEN),
        (two_segments([copy(Ref(1), 3, X), copy(Ref(2), 4, Ref(1))], [], ["scratch"] * 2), r"\(operation 1\)"),
        (two_segments([copy(Ref(1), 4, Ref(1)), copy(Ref(2), 4, X)], [], ["scratch"] * 2), UNWRITTEN),
        (two_segments([copy(Ref(2, 1), 3, X)], [], ["scratch"] * 2), UNWRITTEN),
        (two_segments([copy(Ref(1), 4, X)], [], ["scratch"] * 2), UNWRITTEN),
        (two_segments([copy(Ref(1), 4, X)], [copy(Ref(2), 4, X)], ["scratch"] * 2, Output("y", Ref(3), (4,))), "exist"),
        # a sequence before its segment, before it is written within it, and one that is written in part
        (two_segments([copy(Ref(2), 4, Ref(1))], [copy(Ref(1), 4, X)], ["sequence", "scratch"]), LATER),
        (two_segments([copy(Ref(2), 4, Ref(1)), copy(Ref(1), 4, X)], [], ["sequence", "scratch"]), UNWRITTEN),
        (two_segments([copy(Ref(1), 2, X)], [copy(Ref(2), 4, Ref(1))], ["sequence", "scratch"]), r"\(operation 1\)"),
        # a state that a later segment makes
        (two_segments([copy(Ref(2), 4, Ref(1))], [copy(Ref(1), 4, X)], ["state", "scratch"]), "must not"),
        # fine: pieces in any order, a state before it is written in the step, a scratch of an earlier segment
        (two_segments([copy(Ref(1, 2), 2, X), copy(Ref(1), 2, X), copy(Ref(2), 4, Ref(1))], [], ["scratch"] * 2), None),
        (two_segments([copy(Ref(1), 3, X), copy(Ref(1, 2), 2, X), copy(Ref(2), 4, Ref(1))], [], ["scratch"] * 2), None),
        (two_segments([copy(Ref(2), 4, Ref(1)), copy(Ref(1), 4, X)], [], ["state", "scratch"]), None),
        (two_segments([copy(Ref(1), 4, X)], [copy(Ref(2), 4, Ref(1))], ["scratch"] * 2), None),
        (two_segments([copy(Ref(1), 4, X)], [copy(Ref(2), 4, Ref(1))], ["sequence", "scratch"]), None),
    ],
)
def test_nothing_is_read_before_it_is_written(program, message):
    if message is None:
        assert Engine(write(program)).run(np.ones((2, 4), np.float32)).shape == (2, 4)
        return
    with pytest.raises((ValueError, IndexError), match=message):
        write(program)


def gather(index):
    ops = (
        copy(Ref(1), 1, Ref(0)),
        copy(Ref(1, 3), 1, Ref(0, 1)),
        Op(Code.GATHER, Ref(2), len(index), 4, a=Ref(1), tensor=0),
    )
    buffers = [Buffer(4, "input"), Buffer(4), Buffer(len(index))]
    tensor = Tensor(np.array(index, np.int32))
    return write(
        Program(
            buffers, [tensor], [Segment("forward", ops)], [Input("x", 0, (4,))], [Output("y", Ref(2), (len(index),))]
        )
    )


def test_a_selection_reads_only_what_it_selects():
    xs = np.array([[5, 6, 7, 8]], np.float32)
    assert Engine(gather([3, -1, 0, 3])).run(xs)[0].tolist() == [6, 0, 5, 6]
    assert Engine(gather([-1])).run(xs)[0].tolist() == [0]
    for index in ([0, 1], [2], [3, 2, 0]):
        with pytest.raises(ValueError, match=r"nothing has written before \(operation 2\)"):
            gather(index)


def test_a_program_that_takes_long_to_verify_is_refused():
    n, count = 1 << 16, 10_000  # each of many selections has an index of its own size to check
    ops = [Op(Code.GATHER, Ref(1), n, 1, a=Ref(0), tensor=0)] * count
    program = Program(
        [Buffer(1, "input"), Buffer(n)],
        [Tensor(np.random.default_rng(0).integers(-1, 1, n).astype(np.int32))],  # nothing that repeats
        [Segment("forward", tuple(ops))],
        [Input("x", 0, (1,))],
        [Output("y", Ref(1), (1,))],
    )
    with pytest.raises(ValueError, match="limits"):
        write(program)


def test_a_file_that_reads_ahead_is_refused_by_the_engine():
    """Also by the loader."""
    good = two_segments([copy(Ref(1), 4, X), copy(Ref(2), 4, Ref(1))], [], ["state", "scratch"])
    data = write(good)

    with pytest.raises(ModelFileError, match="nothing has written"):
        Engine(changed(data, "ops", 1, "a.buffer", 2))
