"""Engine and Stream: what they accept, what they refuse, and how little memory they need."""

import hashlib
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from compactrnn import Engine, UnsupportedModelError
from compactrnn.runtime import _native
from compactrnn.runtime.file import read, write
from compactrnn.runtime.gates import gate_rows
from compactrnn.runtime.program import GATES, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.quantize import quantize
from compactrnn.testing.programs import random_input, random_program


class Numbers:
    """Pseudo-random numbers that never change: a linear congruential generator."""

    def __init__(self, seed):
        self.state = seed

    def __call__(self, *shape):
        out = np.empty(int(np.prod(shape)))
        for i in range(out.size):
            self.state = (self.state * 1103515245 + 12345) % 2**31
            out[i] = self.state / 2**30 - 1
        return out.reshape(shape).astype(np.float32)


def two_layers(tokens: int = 0, width: int = 24, hidden: int = 20) -> Program:
    """[embedding ->] LSTM -> GRU -> linear -> log-softmax."""
    numbers = Numbers(7)
    buffers, tensors, ops = [], [], []

    def buffer(size, kind="scratch", init=None):
        buffers.append(Buffer(size, kind, init))
        return Ref(len(buffers) - 1)

    def affine(n, k, a, gates=1, p0=0.0):
        matrix, bias = numbers(gates * n, k) * np.float32(2 / np.sqrt(k)), numbers(gates * n)
        if gates > 1:
            matrix, bias = gate_rows(matrix, gates), gate_rows(bias, gates)
        tensors.append(Tensor(matrix))
        dst, init = buffer(len(bias)), buffer(len(bias), "constant", bias)
        ops.append(Op(Code.AFFINE, dst, len(bias), k, a=a, b=init, tensor=len(tensors) - 1, p0=p0))
        return dst

    def recurrent(code, n, k, a, c, **fields):
        gates = GATES[code]
        tensors.append(Tensor(gate_rows(numbers(gates * n, k) * np.float32(2 / np.sqrt(k)), gates), block=gates))
        dst = buffer(n)
        ops.append(Op(code, dst, n, k, a=a, c=c, tensor=len(tensors) - 1, **fields))
        ops.append(Op(Code.UNARY, c, n, a=dst, fn=Unary.COPY))
        return dst

    given = x = buffer(1 if tokens else width, "input")
    if tokens:
        tensors.append(Tensor(numbers(tokens, width)))
        x = buffer(width)
        ops.append(Op(Code.EMBED, x, width, a=given, tensor=0))
    h, c = buffer(hidden, "state"), buffer(hidden, "state")
    x = recurrent(Code.LSTM, hidden, hidden, affine(hidden, width, x, 4), h, b=c, p0=1 / 127)
    state, bias = buffer(hidden, "state", numbers(hidden)), buffer(hidden, "constant", numbers(hidden))
    x = recurrent(Code.GRU, hidden, hidden, affine(hidden, hidden, x, 3, 1 / 127), state, b=bias, d=state)
    y = affine(11, hidden, x)
    ops.append(Op(Code.LOG_SOFTMAX, y, 11, 11, a=y))
    port = Input("x", given.buffer, () if tokens else (width,), tokens)
    return Program(buffers, tensors, [Segment("forward", tuple(ops))], [port], [Output("y", y, (11,))])


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("weights", "tokens", "wanted"),
    [
        ("float32", 0, "75ff3332e63bfcc5"),
        ("int8", 0, "20f89ea9166c5c98"),
        ("int4", 0, "f43e1d8bbb1baae2"),
        ("int8", 13, "52bd394ff824f7ea"),
    ],
)
def test_golden_bits(weights, tokens, wanted):
    data = write(quantize(two_layers(tokens), weights))
    xs = np.arange(40) * 7 % 13 if tokens else Numbers(9)(40, 24)
    assert [digest(Engine(data, isa=isa).run(xs)) for isa in _native.isas()] == [wanted] * len(_native.isas())


@pytest.fixture
def engine():
    return Engine(write(quantize(two_layers(), "int8")))


@pytest.fixture
def token_engine():
    return Engine(write(quantize(two_layers(13), "int8")))


def test_describes_itself(token_engine):
    program = quantize(two_layers(13), "int8")
    assert token_engine.macs_per_step == program.macs_per_step() > 0
    assert token_engine.bytes == len(write(program))
    assert token_engine.isa in _native.isas() and not token_engine.offline
    assert token_engine.inputs[0].vocabulary == 13 and token_engine.outputs[0].shape == (11,)
    assert "MACs per step" in repr(token_engine)


def test_isa_by_name(monkeypatch):
    data = write(two_layers())
    assert Engine(data, isa="scalar").isa == "scalar"
    with pytest.raises(ValueError, match=r"isa: expected .* 'scalar'.*, got 'mmx'"):
        Engine(data, isa="mmx")
    monkeypatch.setenv("CRNN_ISA", "avx1024")
    with pytest.raises(ValueError, match="avx1024"):
        Engine(data)
    monkeypatch.setenv("CRNN_ISA", "scalar")
    assert Engine(data).isa == "scalar"


def test_from_path_and_bytes(tmp_path):
    data = write(two_layers())
    path = tmp_path / "model.crnn"
    path.write_bytes(data)
    xs = Numbers(1)(5, 24)
    wanted = Engine(data).run(xs)
    for source in (path, str(path), bytearray(data), memoryview(data)):
        assert np.array_equal(Engine(source).run(xs), wanted)


def test_the_file_may_change_afterwards():
    data = bytearray(write(two_layers()))
    engine, xs = Engine(data), Numbers(1)(5, 24)
    wanted = engine.run(xs)
    data[:] = bytes(len(data))
    assert np.array_equal(engine.run(xs), wanted)


def test_other_forms_of_the_same_numbers(engine):
    row = (Numbers(3)(24) * 8).round() / 8
    wanted = engine.stream().step(row)
    padded = np.zeros((24, 3), np.float32)
    padded[:, 1] = row
    for same in (row.astype(np.float64), row.astype(np.float16), row.tolist(), padded[:, 1], row[::-1].copy()[::-1]):
        assert np.array_equal(engine.stream().step(same), wanted)
    frozen = row.copy()
    frozen.flags.writeable = False
    assert np.array_equal(engine.stream().step(frozen), wanted)
    xs = np.stack([row] * 4)
    wanted = engine.run(xs)
    assert np.array_equal(engine.run(np.asfortranarray(xs.astype(np.float64))), wanted)
    assert np.array_equal(engine.stream().step(np.full(24, 3)), engine.stream().step(np.full(24, 3.0)))


def test_other_forms_of_the_same_token(token_engine):
    wanted = token_engine.stream().step(5)
    for same in (np.int64(5), np.uint8(5), np.array(5)):
        assert np.array_equal(token_engine.stream().step(same), wanted)
    wanted = token_engine.run([1, 2, 3])
    for same in (np.array([1, 2, 3], np.uint8), (1, 2, 3), np.array([1, 9, 2, 9, 3])[::2]):
        assert np.array_equal(token_engine.run(same), wanted)


def test_a_mask_is_taken_as_numbers(engine):
    x = np.arange(24) % 3 == 0
    assert np.array_equal(engine.stream().step(x), engine.stream().step(x.astype(np.float32)))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros(23, np.float32), ValueError, r"'x': expected \(24,\).*, got shape \(23,\)"),
        (np.zeros((1, 24), np.float32), ValueError, r"got shape \(1, 24\)"),
        (np.float32(1), ValueError, r"got shape \(\)"),
        (np.zeros(24, complex), TypeError, "complex128"),
        (["a"] * 24, TypeError, "<U1"),
        (None, TypeError, "expected an array of float32.*, got NoneType"),
    ],
)
def test_wrong_numbers_change_nothing(engine, x, error, message):
    stream = engine.stream()
    stream.step(np.ones(24, np.float32))
    before = stream.state_bytes()
    with pytest.raises(error, match=message):
        stream.step(x)
    assert stream.state_bytes() == before


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (-1, ValueError, "expected a token from 0 to 12.*, got -1"),
        (13, ValueError, "got 13"),
        (2**70, ValueError, "expected a token"),
        (1.0, TypeError, "float"),
        (True, TypeError, "bool"),
        (np.True_, TypeError, "bool"),
        ("a", TypeError, "str"),
        (np.array([1]), TypeError, "ndarray"),
    ],
)
def test_wrong_tokens_change_nothing(token_engine, x, error, message):
    stream = token_engine.stream()
    stream.step(1)
    before = stream.state_bytes()
    with pytest.raises(error, match=message):
        stream.step(x)
    assert stream.state_bytes() == before


def test_wrong_sequences_change_nothing(engine, token_engine):
    stream = token_engine.stream()
    stream.run([1, 2])
    before = stream.state_bytes()
    for xs, error in (([1, 13], ValueError), ([[1]], ValueError), ([1.0], TypeError), ([True], TypeError)):
        with pytest.raises(error):
            stream.run(xs)
        with pytest.raises(error):
            token_engine.run(xs)
    assert stream.state_bytes() == before
    for xs in (np.zeros(24, np.float32), np.zeros((2, 23), np.float32)):
        with pytest.raises(ValueError, match="expected \\(time, 24\\)"):
            engine.run(xs)


def test_empty_sequences(engine, token_engine):
    assert engine.run(np.zeros((0, 24), np.float32)).shape == (0, 11)
    assert token_engine.run([]).shape == (0, 11)
    stream = engine.stream()
    before = stream.state_bytes()
    assert stream.run(np.zeros((0, 24), np.float32)).shape == (0, 11)
    assert stream.state_bytes() == before


def several_ports() -> Program:
    """Two inputs and two outputs, one of them final: sum and running sum."""
    buffers = [Buffer(2, "input"), Buffer(1, "input"), Buffer(2), Buffer(2, "state"), Buffer(2)]
    ops = (
        Op(Code.EMBED, Ref(2), 2, a=Ref(1), tensor=0),
        Op(Code.BINARY, Ref(4), 2, 2, a=Ref(0), b=Ref(2)),
        Op(Code.BINARY, Ref(3), 2, 2, a=Ref(3), b=Ref(4)),
    )
    table = Tensor(np.array([[1, 10], [2, 20], [3, 30]], np.float32))
    inputs = [Input("x", 0, (2,)), Input("word", 1, (), 3)]
    outputs = [Output("sum", Ref(4), (2, 1)), Output("total", Ref(3), (2,), final=True)]
    return Program(buffers, [table], [Segment("forward", ops)], inputs, outputs)


def test_several_inputs_and_outputs():
    engine = Engine(write(several_ports()))
    stream = engine.stream()
    total, total_now = stream.step((np.array([0.5, 0.25], np.float32), 1))
    assert total.tolist() == [[2.5], [20.25]] and total_now.tolist() == [2.5, 20.25]
    sums, totals = stream.run((np.zeros((3, 2)), [0, 1, 2]))
    assert sums.shape == (3, 2, 1) and totals.tolist() == [[3.5, 30.25], [5.5, 50.25], [8.5, 80.25]]
    sums, final = engine.run((np.zeros((3, 2)), [0, 1, 2]))
    assert sums.shape == (3, 2, 1) and final.tolist() == [6.0, 60.0]
    with pytest.raises(ValueError, match="0 time steps"):
        engine.run((np.zeros((0, 2)), []))
    for wrong in (np.zeros(2), (np.zeros(2),), (np.zeros(2), 1, 2)):
        with pytest.raises(ValueError, match="a tuple of 2: x, word"):
            stream.step(wrong)
    with pytest.raises(ValueError, match="time steps"):
        stream.run((np.zeros((3, 2)), [0, 1]))


def test_results_where_the_caller_wants_them(engine):
    xs = Numbers(5)(6, 24)
    wanted, out = engine.run(xs), np.zeros((6, 11), np.float32)
    assert engine.run(xs, out=out) is out and np.array_equal(out, wanted)
    stream, out = engine.stream(), np.zeros((6, 11), np.float32)
    assert stream.run(xs, out=out) is out and np.array_equal(out, wanted)
    state = stream.state_bytes()
    wide = np.zeros((6, 22), np.float32)
    for wrong in (out[:5], out.astype(np.float64), wide[:, ::2]):
        with pytest.raises(ValueError, match=r"out: expected float32 of shape \(6, 11\).*, got float.*"):
            stream.run(xs, out=wrong)
        with pytest.raises(ValueError, match=r"out: expected float32 of shape \(11,\).*, got float.*"):
            stream.step(xs[0], out=wrong[0, :5])
    with pytest.raises(TypeError, match=r"out: .*got list"):
        stream.run(xs, out=out.tolist())
    with pytest.raises(ValueError, match=r"out: .*got memory of the input"):
        stream.step(xs[0], out=xs[0, :11])
    assert stream.state_bytes() == state
    stream.reset()
    row = np.zeros(11, np.float32)
    assert stream.step(xs[0], out=row) is row and np.array_equal(row, wanted[0])
    both = Engine(write(several_ports()))
    given, rows = (np.zeros((3, 2)), [0, 1, 2]), (np.empty((3, 2, 1), np.float32), np.empty(2, np.float32))
    assert all(a is b for a, b in zip(both.run(given, out=rows), rows, strict=True)) and rows[1].tolist() == [6.0, 60.0]
    with pytest.raises(ValueError, match="a tuple of 2 arrays"):
        both.run(given, out=rows[:1])


def test_offline_models_refuse_to_stream_by_name():
    program = random_program(2, 6, offline=True)
    engine = Engine(write(program))
    assert engine.offline
    with pytest.raises(UnsupportedModelError, match="whole sequences"):
        engine.stream()
    named = Engine(write(replace(program, metadata={"offline_because": "flip in module 'encoder'"})))
    with pytest.raises(UnsupportedModelError, match="flip in module 'encoder'"):
        named.stream()
    empty = tuple(x[:0] for x in random_input(program, 1)) if len(program.inputs) > 1 else random_input(program, 1)[:0]
    with pytest.raises(ValueError, match="at least one"):
        engine.run(empty)


def test_flip_alone_makes_a_model_offline():
    ops = (Op(Code.FLIP, Ref(1), 2, a=Ref(0)), Op(Code.BINARY, Ref(2), 2, 2, a=Ref(2), b=Ref(1)))
    buffers = [Buffer(2, "input"), Buffer(2), Buffer(2, "state")]
    program = Program(buffers, [], [Segment("forward", ops)], [Input("x", 0, (2,))], [Output("y", Ref(2), (2,))])
    engine = Engine(write(program))
    assert program.offline and engine.offline
    assert engine.run(np.array([[1, 2], [3, 4], [5, 6]])).tolist() == [[5, 6], [8, 10], [9, 12]]


def backwards(**fields) -> Program:
    """The steps from the last to the first."""
    op = Op(Code.FLIP, Ref(1), 1, a=Ref(0))
    port, output = Input("x", 0, (1,)), Output("y", Ref(1), (1,), fewer=2)
    return Program([Buffer(1, "input"), Buffer(1)], [], [Segment("forward", (op,))], [port], [output], **fields)


def test_how_many_steps_a_model_takes_and_gives_stands_in_the_file():
    """The core itself refuses others; whatever metadata a user gives."""
    data = write(backwards(least_steps=3, most_steps=5, metadata={"least_steps": 9, "fewer_steps": {"y": 1}}))
    engine = Engine(data)
    assert (engine.least_steps, engine.most_steps) == (3, 5)
    x = np.arange(6.0, dtype=np.float32)[:, None]
    for steps in (3, 4, 5):
        np.testing.assert_array_equal(engine.run(x[:steps])[:, 0], np.arange(steps)[:1:-1])
    for steps, message in (1, "at least 3"), (2, "at least 3"), (6, "at most 5"):
        with pytest.raises(ValueError, match=message):
            engine.run(x[:steps])
        with pytest.raises(ValueError, match="does not take sequences of so few or so many steps"):
            rows = np.empty((max(steps - 2, 0), 1), np.float32)
            _native.Stream(_native.Model(data)).run([x[:steps]], [rows], steps, True)
    program = read(data)
    assert (program.least_steps, program.most_steps, program.outputs[0].fewer) == (3, 5, 2)
    assert write(program) == data


@pytest.mark.parametrize(
    "fields", [{}, {"least_steps": 2}, {"least_steps": 3, "most_steps": 2}], ids=["none left", "none", "none at all"]
)
def test_numbers_of_steps_that_contradict_each_other_are_refused(fields):
    with pytest.raises(ValueError, match="contradict"):
        write(backwards(**fields))


def test_state_bytes_belong_to_one_model(engine, token_engine):
    stream = engine.stream()
    state = stream.state_bytes()
    for wrong in (b"", state[:-1], state + b"\0", b"XXXX" + state[4:], token_engine.stream().state_bytes()):
        with pytest.raises(ValueError, match="state"):
            stream.load_state_bytes(wrong)
    other = Engine(write(quantize(two_layers(), "float32"))).stream()
    with pytest.raises(ValueError, match="another model"):
        other.load_state_bytes(state)
    with pytest.raises(TypeError, match="bytes"):
        stream.load_state_bytes(bytearray(state))
    for any_stream in (stream, other):  # any numbers are a state; reset recovers
        any_stream.load_state_bytes(any_stream.state_bytes()[:8] + b"\xff" * (len(state) - 8))
        any_stream.step(np.ones(24))
        any_stream.reset()
        assert np.isfinite(any_stream.step(np.ones(24))).all()


def test_streams_do_not_touch_each_other(engine):
    xs = Numbers(5)(6, 24)
    wanted = engine.stream().run(xs)
    one, two = engine.stream(), engine.stream()
    for x, y in zip(xs, wanted, strict=True):
        two.step(-x)
        assert np.array_equal(one.step(x), y)


def test_results_are_the_callers_own(engine):
    stream = engine.stream()
    first = stream.step(np.ones(24, np.float32))
    kept = first.copy()
    stream.step(np.zeros(24, np.float32))
    assert np.array_equal(first, kept) and first.flags.owndata and first.flags.writeable


def test_many_threads(engine):
    xs = Numbers(6)(400, 24)
    wanted = engine.run(xs)
    results = [None] * 6

    def work(i):
        if i % 2:
            results[i] = engine.stream().run(xs)
        else:
            stream = engine.stream()
            results[i] = np.stack([stream.step(x) for x in xs])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, wanted) for result in results)


def test_one_stream_has_one_user_at_a_time(engine):
    stream = engine.stream()
    xs = np.zeros((200_000, 24), np.float32)
    running = threading.Thread(target=stream.run, args=(xs,))
    running.start()
    with pytest.raises(RuntimeError, match="another thread"):
        while running.is_alive():
            stream.step(xs[0])
    running.join()


def test_subnormals_neither_slow_nor_leak(engine):
    stream = engine.stream()
    stream.step(np.full(24, 1e-42, np.float32))
    assert np.float32(1e-38) / np.float32(100) > 0  # the caller's arithmetic still has subnormals
    product = Op(Code.UNARY, Ref(1), 1, a=Ref(0), fn=Unary.SCALE_SHIFT, p0=1.0)
    flush = Program(
        [Buffer(1, "input"), Buffer(1)],
        [],
        [Segment("forward", (product,))],
        [Input("x", 0, (1,))],
        [Output("y", Ref(1), (1,))],
    )
    assert Engine(write(flush)).run(np.full((1, 1), 1e-42, np.float32))[0, 0] == 0


def test_imports_numpy_and_nothing_else(tmp_path):
    path = tmp_path / "model.crnn"
    path.write_bytes(write(two_layers()))
    code = (
        "import sys; import numpy as np; before = set(sys.modules); from compactrnn import Engine\n"
        f"Engine({str(path)!r}).stream().step(np.zeros(24, np.float32))\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(*sorted(new - {'numpy'}))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["compactrnn"]
