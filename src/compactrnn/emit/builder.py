"""The program builder: operands, and the segments that compute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..runtime.program import GATES, Binary, Buffer, Code, Matmul, Op, Program, Ref, Segment, State, Unary
from .factor import Factor, Stored, Structured, factor_name, interleaved, stored
from .norms import with_layer_norms

STEP, LAST, ONCE, HELD, CONSTANT = "step", "last", "once", "held", "constant"


@dataclass(frozen=True)
class Operand:
    """A value of the program, laid out as `shape` without its time axis.

    Where a step of the engine is several frames, as of a model with strides over time, the time axis of `shape` has
    `rate` entries for each step, and so has the layout.

    `kind` STEP: one row per time step (`time` is the axis of `shape`); LAST: as if the sequence ended at this step;
    ONCE: known only after a whole sequence; HELD: known at every step, and the same at all; CONSTANT: always known. A
    value that is the same at every step may still have a time axis in `shape`. `bounded` says that |entries| <= 1 is
    proven.
    """

    ref: Ref
    shape: tuple[int, ...]
    time: int | None
    kind: str
    segment: int
    bounded: bool = False
    rate: int = 1

    @property
    def step_shape(self) -> tuple[int, ...]:
        """`shape` without the time axis; where there are several frames a step, with these."""
        if self.rate > 1:
            return tuple(self.rate if d == self.time else n for d, n in enumerate(self.shape))
        return tuple(n for d, n in enumerate(self.shape) if d != self.time)

    @property
    def width(self) -> int:
        return int(np.prod(self.step_shape, dtype=int))


class Builder:
    """Builds a program; appends each operation to the earliest segment where its operands are known."""

    def __init__(self) -> None:
        self.program = Program()
        self.where = ""  # module and operation that are being lowered
        self.origins: list[str] = []  # by buffer: what it was made for
        self._ops: list[tuple[str, list[Op]]] = [("forward", [])]
        self._lines: dict[tuple, Ref] = {}
        self.offline_because = ""

    @property
    def segment(self) -> int:
        """Number of the segment being written."""
        return len(self._ops) - 1

    def buffer(self, width: int, kind: str = "scratch", init: np.ndarray | None = None) -> Ref:
        init = None if init is None else np.ascontiguousarray(init, np.float32).reshape(width)
        self.program.buffers.append(Buffer(width, kind, init))
        self.origins.append(self.where)
        return Ref(len(self.program.buffers) - 1)

    def state(self, name: str, init: np.ndarray, shape: tuple[int, ...], bounded: bool = False) -> Ref:
        """A new named state; a name that is taken gets a number added."""
        taken, number, unique = {s.name for s in self.program.states}, 0, name
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        ref = self.buffer(init.size, "state", init)
        self.program.states.append(State(unique, ref.buffer, shape, bounded))
        return ref

    def constant(self, values: np.ndarray) -> Ref:
        """A new constant buffer."""
        return self.buffer(values.size, "constant", values)

    def known(self, constant: Operand, position: int) -> float:
        """One entry of a constant."""
        init = self.program.buffers[constant.ref.buffer].init
        assert init is not None
        return float(init[constant.ref.offset + position])

    def tensor(self, values: Stored, block: int = 4) -> int:
        """Index of a stored array; equal arrays are stored once."""
        new = replace(stored(values), block=block)
        for number, old in enumerate(self.program.tensors):
            same = (old.values.dtype, old.block, old.form) == (new.values.dtype, block, new.form)
            if same and np.array_equal(old.values, new.values):
                return number
        self.program.tensors.append(replace(new, values=np.ascontiguousarray(new.values)))
        return len(self.program.tensors) - 1

    def keep_exact(self, since: int, but: tuple[str, ...], name: str) -> None:
        """Mark the matrices from number `since` on as exact, but for the weights whose names start with one of `but`.

        One that has no name is called `name`.
        """
        for _, ops in self._ops:
            for i, op in enumerate(ops):
                if op.code in GATES and op.tensor is not None and op.tensor >= since and not op.name.startswith(but):
                    ops[i] = replace(op, name=op.name or name)
                    self.program.tensors[op.tensor] = replace(self.program.tensors[op.tensor], exact=True)

    def at_least(self, steps: int) -> None:
        """Refuse whole sequences of fewer steps."""
        self.program.least_steps = max(self.program.least_steps, steps)

    def at_most(self, steps: int) -> None:
        """Refuse whole sequences of more steps."""
        self.program.most_steps = min(self.program.most_steps or steps, steps)

    def close(self, because: str) -> None:
        """End the segment; later segments see the whole sequence, so the model is offline."""
        self.offline_because = self.offline_because or because or "a value of the whole sequence is used"
        self._ops.append(("forward", []))

    def place(self, reads: Sequence[Operand], because: str = "") -> str:
        """Move to a segment in which all `reads` are known; returns the kind of a value computed from them."""
        reads = [v for v in reads if v.kind != CONSTANT]
        if not reads:
            return STEP if self._ops[-1][0] == "forward" else ONCE
        if all(v.kind == HELD for v in reads):
            return HELD
        reads = [v for v in reads if v.kind != HELD]
        if any(v.kind == STEP for v in reads):
            self.every_step(reads, because)
            return STEP
        if all(v.kind == LAST and v.segment == self.segment for v in reads):
            return LAST
        if any(v.segment == self.segment for v in reads) and self._ops[-1][0] != "once":
            self.close(because)
        self._open("once")
        return ONCE

    def every_step(self, reads: Sequence[Operand], because: str = "") -> None:
        """Move to a segment that runs at every step and in which `reads` are known."""
        if any(v.kind in (LAST, ONCE) and v.segment == self.segment for v in reads):
            self.close(because or "a value of the whole sequence is used at every step")
        self._open("forward")
        for value in reads:
            if value.kind == STEP and value.segment < self.segment:
                self._keep(value.ref.buffer)

    def _open(self, kind: str) -> None:
        current, ops = self._ops[-1]
        if current == kind:
            return
        if ops:
            self._ops.append((kind, []))
        else:
            self._ops[-1] = (kind, ops)

    def _keep(self, number: int) -> None:
        """Keep one row per step of a buffer that a later segment reads."""
        buffer = self.program.buffers[number]
        if buffer.kind == "scratch":
            self.program.buffers[number] = replace(buffer, kind="sequence")

    def emit(self, code: Code, dst: Ref, n: int, **fields) -> None:
        self._ops[-1][1].append(Op(code, dst, n, **fields))

    def compute(
        self, code: Code, reads: Sequence[Operand], like: Operand, width: int | None = None, **fields
    ) -> Operand:
        """Append an operation with a new destination; the result has the shape, time axis and layout of `like`."""
        kind = self.place(reads)
        dst = self.buffer(like.width if width is None else width)
        self.emit(code, dst, like.width if width is None else width, **fields)
        return replace(like, ref=dst, kind=kind, segment=self.segment, bounded=False)

    def unary(self, fn: Unary, x: Operand, p0: float = 0.0, p1: float = 0.0, bounded: bool = False) -> Operand:
        value = self.compute(Code.UNARY, [x], x, a=x.ref, fn=int(fn), p0=p0, p1=p1)
        return replace(value, bounded=bounded)

    def binary(self, fn: Binary, a: Operand, b: Operand | Ref, period: int = 0) -> Operand:
        """Element-wise `f(a, b)`; `b` repeats every `period` entries."""
        reads = [a, b] if isinstance(b, Operand) else [a]
        ref = b.ref if isinstance(b, Operand) else b
        value = self.compute(Code.BINARY, reads, a, a=a.ref, b=ref, fn=int(fn), k=period or a.width)
        bounded = isinstance(b, Operand) and a.bounded and b.bounded and fn in (Binary.MUL, Binary.MAX, Binary.MIN)
        return replace(value, bounded=bounded)

    def delay_line(self, x: Operand, steps: int, start: float = 0.0) -> Operand:
        """Delay line: `x` of this and the last `steps` steps, newest first; `start` before the first step.

        It holds in the current segment and until the next step. One value has one line, as long as any reader needs.
        """
        key, width = (x.ref, x.width, start, self.segment), (steps + 1) * x.width
        ref = self._lines.get(key) or self.buffer(width, "state", np.full(width, start))
        if key not in self._lines:
            self._lines[key] = ref
            self.emit(Code.DELAY, ref, x.width, k=width, a=x.ref)
        elif self.program.buffers[ref.buffer].width < width:
            self.program.buffers[ref.buffer] = Buffer(width, "state", np.full(width, start, np.float32))
            ops = self._ops[-1][1]
            at = next(i for i, op in enumerate(ops) if op.code == Code.DELAY and op.dst == ref)
            ops[at] = replace(ops[at], k=width)
        width = self.program.buffers[ref.buffer].width
        return Operand(ref, (width,), None, STEP, self.segment, x.bounded and abs(start) <= 1)

    @property
    def reach(self) -> int:
        """Receptive field in steps, recurrent states aside."""
        return sum(op.k // op.n - 1 for _, ops in self._ops for op in ops if op.code == Code.DELAY)

    def affine(self, matrix: Factor, x: Operand, init: Ref | None, offset: int = 0, name: str = "") -> Ref:
        """`init + matrix x` of the `matrix.shape[1]` entries of `x` from `offset` on, in the current segment.

        `name` is that of the matrix in the model.
        """
        n, k = matrix.shape
        a = Ref(x.ref.buffer, x.ref.offset + offset)
        if isinstance(matrix, Structured):
            return matrix.multiply(self, replace(x, ref=a, shape=(k,), time=None), init, name)
        dst = self.buffer(n)
        scale = 1 / 127 if x.bounded else 0.0
        tensor = self.tensor(stored(matrix))
        self.emit(Code.AFFINE, dst, n, k=k, a=a, b=init, tensor=tensor, p0=scale, name=name)
        return dst

    def matmul(
        self, side: Matmul, matrix: Stored, x: Operand, init: Ref | None, dst: Ref | None = None, name: str = ""
    ) -> Ref:
        """`init + W X` or `init + X W^T`, in the current segment, with all entries of `x` as the matrix X."""
        rows, columns = stored(matrix).shape
        return self._matmul(side, matrix, x, init, x.width // columns * rows, dst, name)

    def windows(self, matrix: Stored, x: Operand, count: int, name: str = "") -> Ref:
        """W x for each of `count` windows of `x`, in the current segment, one result after the other.

        They begin at equal distances, the first with `x`, and the last ends with it.
        """
        rows, columns = stored(matrix).shape
        side = Matmul.RIGHT if x.width == count * columns else Matmul.WINDOWS
        return self._matmul(side, matrix, x, None, count * rows, None, name)

    def _matmul(
        self, side: Matmul, matrix: Stored, x: Operand, init: Ref | None, n: int, dst: Ref | None, name: str
    ) -> Ref:
        tensor = stored(matrix)
        dst = self.buffer(n) if dst is None else dst
        scale = 1 / 127 if x.bounded else 0.0
        places = {"a": x.ref, "b": init, "tensor": self.tensor(tensor)}
        self.emit(Code.MATMUL, dst, n, k=x.width, fn=int(side), p0=scale, name=name, **places)
        return dst

    def inner(self, factors: Sequence[Factor], x: Operand, name: str = "") -> Operand:
        """What the first of the factors F1 F2 ... is to be multiplied with: F2 ... x, the last factor first."""
        for i, factor in reversed(list(enumerate(factors))[1:]):
            product = self.affine(factor, x, None, name=factor_name(name, i, len(factors)))
            x = replace(x, ref=product, shape=(factor.shape[0],), time=None, bounded=False)
        return x

    def chain(self, factors: Sequence[Factor], x: Operand, init: Ref | None, name: str = "") -> Ref:
        """`init + F1 F2 ... x`."""
        return self.affine(factors[0], self.inner(factors, x, name), init, name=factor_name(name, 0, len(factors)))

    def gates(
        self, code: Code, n: int, gates: Ref, factors: Sequence[Factor], x: Operand, name: str = "", **fields
    ) -> Ref:
        """An LSTM or GRU of `n` units, its gates `gates` + F1 F2 ... x; returns the place of its output."""
        x, dst, count = self.inner(factors, x, name), self.buffer(n), GATES[code]
        name = factor_name(name, 0, len(factors))
        assert not isinstance(factors[0], Structured)
        matrix = interleaved(factors[0], count)
        scale = 1 / 127 if x.bounded else 0.0
        tensor = self.tensor(matrix, block=count)
        self.emit(code, dst, n, k=matrix.shape[1], a=gates, c=x.ref, tensor=tensor, p0=scale, name=name, **fields)
        return dst

    def lstm_cell(self, gates: Operand, cell: Ref) -> Operand:
        """A step of n LSTM units, c' = sig(f) c + sig(i) tanh(g) and h' = sig(o) tanh(c'); returns h'.

        `gates` are the sums (i, f, g, o) of all products and biases, n numbers each, gate after gate as in torch.
        `cell` is the place of c, which is updated.
        """
        return self._cell(Code.LSTM_CELL, [gates], gates.width // 4, a=gates.ref, b=cell)

    def gru_cell(self, from_input: Operand, from_state: Operand, before: Operand) -> Operand:
        """A step of n GRU units, h' = (1 - z) n + z h with n = tanh(Wx_n + r Uh_n) and r, z = sig(Wx + Uh).

        `from_input` and `from_state` are Wx and Uh with their biases, (r, z, n) gate after gate as in torch; `before`
        is h. |h'| <= 1 where |h| <= 1.
        """
        reads = [from_input, from_state, before]
        places = {"a": from_input.ref, "c": from_state.ref, "d": before.ref}
        return replace(self._cell(Code.GRU_CELL, reads, before.width, **places), bounded=before.bounded)

    def _cell(self, code: Code, reads: Sequence[Operand], n: int, **places: Ref) -> Operand:
        kind, dst = self.place(reads), self.buffer(n)
        self.emit(code, dst, n, **places)
        return Operand(dst, (n,), None, kind, self.segment, bounded=True)

    def finish(self) -> Program:
        segments = [Segment(kind, tuple(ops)) for kind, ops in self._ops if ops]
        self.program.segments = segments or [Segment("forward", ())]
        if self.offline_because:
            self.program.metadata["offline_because"] = self.offline_because
        return with_layer_norms(self.program)
