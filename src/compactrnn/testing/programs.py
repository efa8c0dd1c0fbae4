"""Random programs over every operation, to test the runtime, kernels and exporters."""

from __future__ import annotations

import math

import numpy as np

from ..runtime.entries import ENTRIES
from ..runtime.gates import gate_rows, padded
from ..runtime.program import (
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
from ..runtime.sparse import SPARSE
from ..runtime.toeplitz import ToeplitzBlocks

_PARAMETERS = {Unary.SCALE_SHIFT: (-0.7, 0.2), Unary.CLAMP: (-0.5, math.inf), Unary.LEAKY_RELU: (-0.3, 0.0)}


def random_program(seed: int, operations: int = 8, offline: bool = False, largest: int = 24) -> Program:
    """A valid program, well-conditioned in float32: about as many operations as said, of every kind in the long run.

    >>> program = random_program(seed=1)
    >>> [s.kind for s in program.segments]
    ['forward']
    """
    return _Writer(np.random.default_rng(seed), largest).write(operations, offline)


def random_input(program: Program, steps: int, seed: int = 0):
    """A sequence for `engine.run`; a tuple of them where the inputs are several.

    >>> program = random_program(seed=1)
    >>> len(program.inputs), len(random_input(program, steps=3))
    (1, 3)
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for port in program.inputs:
        shape = port.shape if port.once else (steps, *port.shape)
        arrays.append(
            rng.integers(0, port.vocabulary, shape) if port.vocabulary else rng.uniform(-2, 2, shape).astype(np.float32)
        )
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


class _Writer:
    """Builds a program one operation at a time from a pool of readable places."""

    def __init__(self, rng: np.random.Generator, largest: int):
        self.rng = rng
        self.largest = largest
        self.program = Program(metadata={"seed": "random"})
        self.ops: list[Op] = []
        self.pool: list[tuple[Ref, int]] = []
        self.given: list[tuple[Ref, int]] = []  # what is the same in any arithmetic
        self.sequences: list[tuple[Ref, int]] = []

    def write(self, operations: int, offline: bool) -> Program:
        self._inputs()
        actions = [name for name in dir(self) if name.startswith("_op_")]
        for _ in range(operations):
            getattr(self, str(self.rng.choice(actions)))()
        if offline:
            self._keep()
        self._end_segment("forward")
        if offline:
            attended = self._attend(alone=self.rng.random() < 0.5)
            flipped = self._flip(), self.sequences[0][1]
            self.pool = [attended, flipped] + [p for p in self.pool if self._kind(p[0]) == "state"]
            for _ in range(operations // 2):
                getattr(self, str(self.rng.choice(actions)))()
            self._keep()
            last, width = self.pool[-1]
            self._end_segment("forward")
            kept, kept_width = self.sequences[-1]
            self.program.outputs.append(Output("rows", kept, (kept_width,)))
            result = self._buffer(width)
            self._add(Code.UNARY, result, width, a=last, fn=Unary.TANH)
            self._end_segment("once")
            self.program.outputs.append(Output("last", result, (width,), final=True))
        else:
            for i, (ref, width) in enumerate(self.pool[-2:]):
                self.program.outputs.append(Output(f"y{i}", ref, (width,)))
        return self.program

    def _inputs(self) -> None:
        for i in range(int(self.rng.integers(1, 3))):
            if self.rng.random() < 0.4:
                token, vocabulary = self._buffer(1, "input"), int(self.rng.integers(2, 9))
                self.program.inputs.append(Input(f"token{i}", token.buffer, (), vocabulary))
                width = self._width()
                ref = self._new(Code.EMBED, width, a=token, tensor=self._tensor(vocabulary, width))
            else:
                width = self._width()
                ref = self._buffer(width, "input")
                self.program.inputs.append(Input(f"x{i}", ref.buffer, (width,)))
                self.pool.append((ref, width))
            self.given.append((ref, width))

    def _kind(self, ref: Ref) -> str:
        return self.program.buffers[ref.buffer].kind

    def _width(self) -> int:
        return int(self.rng.integers(1, self.largest))

    def _buffer(self, width: int, kind: str = "scratch", init: np.ndarray | None = None) -> Ref:
        self.program.buffers.append(Buffer(width, kind, init))
        return Ref(len(self.program.buffers) - 1)

    def _values(self, *shape: int) -> np.ndarray:
        return (self.rng.uniform(-1, 1, shape) * 1.7 / np.sqrt(shape[-1])).astype(np.float32)

    def _tensor(self, *shape: int) -> int:
        return self._stored(Tensor(self._values(*shape), block=int(self.rng.integers(1, 5))))

    def _gate_matrix(self, gates: int, n: int, k: int, block: int) -> int:
        kind = self.rng.random()
        if kind < 0.25:
            return self._toeplitz(n, k, gates, block, interleaved=True)
        values, form = self._values(gates * n, k), None
        if kind < 0.5:
            values, form = self._with_zeros(values), SPARSE
        return self._stored(Tensor(gate_rows(values, gates), block=block, form=form))

    def _with_zeros(self, values: np.ndarray) -> np.ndarray:
        """In all rows of some columns, in some rows of others."""
        rows, columns = values.shape
        kept = self.rng.random((rows, columns)) < self.rng.random(columns) * self.rng.random()
        return values * kept

    def _toeplitz(self, units: int, k: int, gates: int, block: int, interleaved: bool = False) -> int:
        rank = int(self.rng.integers(1, min(k, 3) + 1))
        values = self._values(2, gates * -(-units // k), rank, k)
        return self._stored(Tensor(values, block=block, form=ToeplitzBlocks(gates * units, gates, interleaved)))

    def _stored(self, tensor: Tensor) -> int:
        self.program.tensors.append(tensor)
        return len(self.program.tensors) - 1

    def _add(self, code: Code, dst: Ref, n: int, k: int = 0, **fields) -> None:
        self.ops.append(Op(code, dst, n, k, **fields))

    def _new(self, code: Code, n: int, k: int = 0, **fields) -> Ref:
        """The operation, with a fresh place for its result, which every fourth time lies within a larger buffer."""
        before = int(self.rng.integers(1, 5)) if self.rng.random() < 0.25 else 0
        dst = Ref(self._buffer(n + before + (2 if before else 0)).buffer, before)
        self._add(code, dst, n, k, **fields)
        self.pool.append((dst, n))
        return dst

    def _any(self, least: int = 1) -> tuple[Ref, int]:
        """A readable place: the whole of one in the pool, or the end of it."""
        wide = [place for place in self.pool if place[1] >= least]
        if not wide:
            ref, width = self._any()
            return self._new(Code.AFFINE, least, width, a=ref, tensor=self._tensor(least, width)), least
        ref, width = wide[int(self.rng.integers(len(wide)))]
        skip = int(self.rng.integers(0, width - least + 1)) if self.rng.random() < 0.3 else 0
        return Ref(ref.buffer, ref.offset + skip), width - skip

    def _group(self, width: int) -> int:
        return int(self.rng.choice([k for k in range(1, width + 1) if width % k == 0]))

    def _end_segment(self, kind: str) -> None:
        self.program.segments.append(Segment(kind, tuple(self.ops)))
        self.ops = []

    def _keep(self) -> None:
        ref, width = self.pool[-1]
        kept = self._buffer(width, "sequence")
        self._add(Code.UNARY, kept, width, a=ref, fn=Unary.COPY)
        self.sequences.append((kept, width))

    def _flip(self) -> Ref:
        kept, width = self.sequences[0]
        flipped = self._buffer(width)
        self._add(Code.FLIP, flipped, width, a=kept)
        return flipped

    def _attend(self, alone: bool) -> tuple[Ref, int]:
        """Of parts of one sequence of an earlier segment, which may overlap; `alone`, in a segment of its own."""
        kept, width = self.sequences[0]
        n, k = self._group(width), self._group(width)
        queries, keys, values = (Ref(kept.buffer, int(self.rng.integers(width - size + 1))) for size in (k, k, n))
        dst = self._buffer(n, "sequence" if alone else "scratch")
        fn = Attend(int(self.rng.integers(len(Attend))))
        self._add(Code.ATTEND, dst, n, k, a=queries, b=keys, c=values, fn=fn, p0=0.7)
        if alone:
            self._end_segment("forward")
        return dst, n

    def _op_affine(self) -> None:
        ref, width = self._any()
        n = self._width()
        bias = self._buffer(n, "constant", self._values(n)) if self.rng.random() < 0.7 else None
        dst = self._new(Code.AFFINE, n, width, a=ref, b=bias, tensor=self._tensor(n, width))
        if self.rng.random() < 0.5:  # a second product on top of the first
            other, k = self._any()
            if other.buffer != dst.buffer:
                self._add(Code.AFFINE, dst, n, k, a=other, b=dst, tensor=self._tensor(n, k))

    def _op_lookup(self) -> None:
        """A row, by a number that is computed, of a matrix that a product reads, too."""
        ref, width = self._any()
        n = self._width()
        tensor = self._tensor(n, width)
        self._new(Code.AFFINE, n, width, a=ref, tensor=tensor)
        number = self._new(Code.UNARY, 1, a=self._any_given()[0], fn=Unary.SCALE_SHIFT, p0=8.0, p1=0.0)
        self._new(Code.EMBED, width, a=number, tensor=tensor)

    def _op_toeplitz(self) -> None:
        ref, k = self._any()
        gates, block, units = int(self.rng.integers(1, 4)), int(self.rng.integers(1, 5)), self._units()
        self._new(Code.AFFINE, gates * units, k, a=ref, tensor=self._toeplitz(units, k, gates, block))

    def _op_sparse(self) -> None:
        ref, k = self._any()
        n, block = self._width(), int(self.rng.integers(1, 5))
        form = SPARSE if self.rng.random() < 0.5 else ENTRIES
        tensor = self._stored(Tensor(self._with_zeros(self._values(n, k)), block=block, form=form))
        self._new(Code.AFFINE, n, k, a=ref, tensor=tensor)

    def _op_matmul(self) -> None:
        ref, width = self._any()
        side, k = Matmul(int(self.rng.integers(2))), self._group(width)
        rows = max(1, min(self._width(), 4 * self.largest * k // width))
        n = width // k * rows
        bias = self._buffer(n, "constant", self._values(n)) if self.rng.random() < 0.7 else None
        dst = self._new(Code.MATMUL, n, width, a=ref, b=bias, tensor=self._tensor(rows, k), fn=side)
        if self.rng.random() < 0.5:
            self._add(Code.MATMUL, dst, n, width, a=ref, b=dst, tensor=self._tensor(rows, k), fn=side)

    def _op_windows(self) -> None:
        ref, width = self._any(2)
        count = 1 + self._group(width - 1) if self.rng.random() < 0.5 else 2
        k = width - (count - 1) * int(self.rng.integers(0, (width - 1) // (count - 1) + 1))
        rows = max(1, min(self._width(), 4 * self.largest // count))
        tensor = self._tensor(rows, k)
        bias = self._buffer(rows * count, "constant", self._values(rows * count)) if self.rng.random() < 0.5 else None
        self._new(Code.MATMUL, rows * count, width, a=ref, b=bias, tensor=tensor, fn=Matmul.WINDOWS)

    def _op_depthwise(self) -> None:
        ref, width = self._any()
        n = int(self.rng.integers(1, width + 1))
        period, steps = self._group(n), [1] + [t for t in range(2, 6) if (width - n) % (t - 1) == 0]
        taps = int(self.rng.choice(steps if width == n else steps[1:]))
        bias = self._buffer(n, "constant", self._values(n)) if self.rng.random() < 0.5 else None
        weights = self._stored(Tensor(self._values(taps, period), block=1))
        dst = self._new(Code.DEPTHWISE, n, width, a=ref, b=bias, tensor=weights)
        if self.rng.random() < 0.5:
            self._add(Code.DEPTHWISE, dst, n, width, a=ref, b=dst, tensor=weights)

    def _op_delta(self) -> None:
        ref, k = self._any()
        n = self._width()
        bounded = self._new(Code.UNARY, k, a=ref, fn=Unary.TANH)
        bias = self._buffer(n, "constant", self._values(n)) if self.rng.random() < 0.7 else None
        memory = self._buffer(k + padded(n) + 1, "state")
        self._new(Code.DELTA, n, k, a=bounded, b=bias, c=memory, tensor=self._tensor(n, k), p0=1 / 127)

    def _op_gather(self) -> None:
        ref, width = self._any()
        index = self.rng.integers(-1, width, self._width()).astype(np.int32)
        if self.rng.random() < 0.5:  # in runs
            start, step = int(self.rng.integers(width)), int(self.rng.integers(-2, 3))
            run = np.clip(start + step * np.arange(self._width()), 0, width - 1)
            index = np.concatenate([np.repeat(-1, self._width()), run, index]).astype(np.int32)
        elif self.rng.random() < 0.5:  # in repetitions
            times, shift = int(self.rng.integers(3, 6)), self.rng.integers(-1, 2, len(index))
            again = np.clip(index + shift * np.arange(times)[:, None], 0, width - 1)
            index = np.where(index < 0, -1, again).ravel().astype(np.int32)
        self._new(Code.GATHER, len(index), width, a=ref, tensor=self._stored(Tensor(index)))

    def _op_unary(self) -> None:
        ref, n = self._any()
        fn = Unary(int(self.rng.integers(len(Unary))))
        low, high = fn.domain
        if low > -math.inf or high < math.inf:
            ref = self._new(Code.UNARY, n, a=ref, fn=Unary.CLAMP, p0=low, p1=high)
        p0, p1 = _PARAMETERS.get(fn, (0.0, 0.0))
        if self._kind(ref) == "scratch" and self.rng.random() < 0.3:
            self._add(Code.UNARY, ref, n, a=ref, fn=fn, p0=p0, p1=p1)
        else:
            self._new(Code.UNARY, n, a=ref, fn=fn, p0=p0, p1=p1)

    def _op_binary(self) -> None:
        ref, n = self._any()
        fn = Binary(int(self.rng.integers(Binary.EQUAL)))
        k = self._group(n)
        other, _ = self._any(k)
        if fn == Binary.DIV:
            other = self._new(Code.UNARY, k, a=other, fn=Unary.ABS)
            self._add(Code.UNARY, other, k, a=other, fn=Unary.SCALE_SHIFT, p0=1.0, p1=1.0)
        if fn == Binary.MUL:
            other = self._new(Code.UNARY, k, a=other, fn=Unary.TANH)
        self._new(Code.BINARY, n, k, a=ref, b=other, fn=fn)

    def _op_compare(self) -> None:
        ref, n = self._any_given()
        other, width = self._any_given()
        fn = int(self.rng.integers(Binary.EQUAL, len(Binary)))
        k = max(k for k in range(1, width + 1) if n % k == 0)
        truth = self._new(Code.BINARY, n, k, a=ref, b=other, fn=fn)
        self._new(Code.SELECT, n, a=self._any(n)[0], b=self._any(n)[0], c=truth)

    def _op_delay(self) -> None:
        ref, n = self._any()
        width = n * int(self.rng.integers(1, 5))
        line = self._buffer(width, "state", self._some(width))
        self._add(Code.DELAY, line, n, width, a=ref)
        self.pool.append((line, width))

    def _op_reduce(self) -> None:
        ref, width = self._any()
        k = self._group(width)
        self._new(Code.REDUCE, width // k, k, a=ref, fn=int(self.rng.integers(Reduce.ARGMAX)))

    def _op_argmax(self) -> None:
        ref, width = self._any_given()
        k = self._group(width)
        self._new(Code.REDUCE, width // k, k, a=ref, fn=Reduce.ARGMAX)

    def _op_top(self) -> None:
        fn = Top(int(self.rng.integers(len(Top))))
        ref, k = self._any() if fn == Top.VALUES else self._any_given()
        self._new(Code.TOP, int(self.rng.integers(1, k + 1)), k, a=ref, fn=fn)

    def _any_given(self) -> tuple[Ref, int]:
        """A place whose numbers are not rounded: positions of the largest do not depend on the arithmetic."""
        usable = [place for place in self.given if place in self.pool or self._kind(place[0]) == "input"]
        return usable[int(self.rng.integers(len(usable)))] if usable else self._new_given()

    def _new_given(self) -> tuple[Ref, int]:
        n = self._width()
        return self._buffer(n, "constant", self._values(n)), n

    def _op_softmax(self) -> None:
        ref, width = self._any()
        self._new(Code.SOFTMAX, width, self._group(width), a=ref)

    def _op_log_softmax(self) -> None:
        ref, width = self._any()
        self._new(Code.LOG_SOFTMAX, width, self._group(width), a=ref)

    def _op_layer_norm(self) -> None:
        ref, width = self._any()
        self._new(Code.LAYER_NORM, width, self._group(width), a=ref, p0=0.1)

    def _op_lstm(self) -> None:
        n = self._units()
        cell = self._buffer(n, "state", self._some(n))
        self._recurrent(Code.LSTM, n, self._buffer(n, "state", self._some(n)), b=cell)

    def _op_gru(self) -> None:
        n = self._units()
        bias = self._buffer(n, "constant", self._values(n)) if self.rng.random() < 0.7 else None
        hidden = self._buffer(n, "state", self._some(n))
        self._recurrent(Code.GRU, n, hidden, b=bias, d=hidden)

    def _op_lstm_over(self) -> None:
        k, count = self._units(), int(self.rng.integers(1, 4))
        cell = self._buffer(k, "state", self._some(k))
        start = self._buffer(k, "state", self._some(k))
        self._over(Code.LSTM_OVER, k, count, c=start, b=cell, fn=int(self.rng.integers(len(Over))))

    def _op_gru_over(self) -> None:
        k, count = self._units(), int(self.rng.integers(1, 4))
        start = self._buffer(k, "state", self._some(k))
        self._over(Code.GRU_OVER, k, count, c=start, fn=int(self.rng.integers(len(Over))))

    def _op_gru_each(self) -> None:
        k, count = self._units(), int(self.rng.integers(1, 4))
        bias = self._buffer(k, "constant", self._values(k)) if self.rng.random() < 0.7 else None
        before = self._buffer(k * count, "state", self._some(k * count))
        out = self._over(Code.GRU_EACH, k, count, c=before, b=bias)
        self._add(Code.UNARY, before, k * count, a=out, fn=Unary.COPY)

    def _over(self, code: Code, k: int, count: int, **fields) -> Ref:
        gates = GATES[code]
        ref, width = self._any()
        n = gates * padded(k) * count
        into = self._new(Code.AFFINE, n, width, a=ref, tensor=self._tensor(n, width))
        self.pool.pop()
        matrix = self._stored(Tensor(gate_rows(self._values(gates * k, k), gates), block=gates))
        return self._new(code, k * count, k, a=into, tensor=matrix, p0=1 / 127, **fields)

    def _op_lstm_cell(self) -> None:
        gates, width = self._any(4)
        n = width // 4
        cell = self._buffer(n, "state", self._some(n))
        self._new(Code.LSTM_CELL, n, a=gates, b=cell)

    def _op_gru_cell(self) -> None:
        from_x, width = self._any(3)
        n = width // 3
        from_h, before = self._any(3 * n)[0], self._any(n)[0]
        if self._kind(before) == "scratch" and before.buffer not in (from_x.buffer, from_h.buffer):
            self._add(Code.GRU_CELL, before, n, a=from_x, c=from_h, d=before)
        else:
            self._new(Code.GRU_CELL, n, a=from_x, c=from_h, d=before)

    def _units(self) -> int:
        """Few, or a number that needs more than one block of 16."""
        return self._width() if self.rng.random() < 0.5 else max(1, self._width() // 3)

    def _some(self, n: int) -> np.ndarray | None:
        return self._values(n) if self.rng.random() < 0.5 else None

    def _recurrent(self, code: Code, n: int, hidden: Ref, **fields) -> None:
        """Gates from a product and a bias, the recurrence through one or two factors, the state copied at the end."""
        gates = GATES[code]
        ref, width = self._any()
        bias = self._buffer(gates * padded(n), "constant", gate_rows(self._values(gates * n), gates))
        from_x = self._gate_matrix(gates, n, width, block=4)
        into = self._new(Code.AFFINE, gates * padded(n), width, a=ref, b=bias, tensor=from_x)
        self.pool.pop()  # its padding is nobody's business
        c, k = hidden, n
        if self.rng.random() < 0.4:
            k = self._units()
            c = self._buffer(k)
            self._add(Code.AFFINE, c, k, n, a=hidden, tensor=self._tensor(k, n), p0=1 / 127)
        matrix = self._gate_matrix(gates, n, k, block=gates)
        p0 = 1 / 127 if self.rng.random() < 0.5 else 0.0
        out = self._new(code, n, k, a=into, c=c, tensor=matrix, p0=p0, **fields)
        self._add(Code.UNARY, hidden, n, a=out, fn=Unary.COPY)
        if self.rng.random() < 0.5:
            self.pool.append((hidden, n))
