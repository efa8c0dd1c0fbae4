"""The program that a model becomes: numbered buffers, and operations on them, one time step at a time.

A program is a list of segments. A `forward` segment runs all its operations for t = 0, 1, ..., T-1; a `once` segment
runs once, after the segments before it, with t = T-1. A program of forward segments without `FLIP`, no two of which
use the same scratch or state, streams; any other is *offline*: it needs the whole sequence.

Buffers hold `width` float32 numbers:

- `scratch`: valid within a step; read by a later segment, it holds what the last step wrote;
- `state`: persists from step to step, starts as `init`;
- `constant`: `init`, never written;
- `input`: one row per step, given by the caller (a token input has width 1 and holds the token's number);
- `sequence`: one row per step, written by one segment, kept for later forward segments.

An operand `Ref(buffer, offset)` is a view, so slicing and concatenating cost nothing. Every operation but `DELAY`
writes `n` numbers at `dst`; operands may be the same place as `dst` where the operation is element-wise, else not
overlap.
Gates lie as `gates.gate_rows` puts them: P is n rounded up to a multiple of 16.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from .toeplitz import ToeplitzBlocks


class Code(IntEnum):
    """What an operation does. Shapes: W is (n, k); groups are consecutive."""

    EMBED = 1  # dst[n] = table[token at a]                       tensor: (vocabulary, n) f32, i8 or f16
    AFFINE = 2  # dst[n] = b[n] (0 without b) + W a[k]            (n, k) f32, i8, i4; p0 = scale of a, 0 = its absmax
    GATHER = 3  # dst[i] = a[index[i]], 0 where index[i] < 0      tensor: (n,) i32; k = width of a
    UNARY = 4  # dst[i] = f(a[i])                                 fn: Unary; p0, p1
    BINARY = 5  # dst[i] = f(a[i], b[i % k])                      fn: Binary; k divides n
    REDUCE = 6  # dst[i] = f over a[i*k .. i*k+k-1]               fn: Reduce
    SOFTMAX = 7  # softmax over each group of k, n in all
    LOG_SOFTMAX = 8
    LAYER_NORM = 9  # (x - mean) / sqrt(variance + p0) over each group of k, n in all
    LSTM = 10  # gates (i, f, g, o) = a[4P] + U c[k]; cell state b[n] updated in place; dst[n] = o tanh(cell); p0 of c
    GRU = 11  # r, z, n = a[3P] + U c[k]; dst[n] = (1 - z) tanh(a_n + r (b[n] + U_n c)) + z d[n]; b may be absent
    FLIP = 12  # dst[n] at t = a at T-1-t; a is a sequence or input buffer, in a later segment than its writer
    TOP = 13  # dst[n] = the n largest of a[k], or their positions; fn: Top. Of equal ones the first; NaN is largest
    SELECT = 14  # dst[i] = c[i] != 0 ? a[i] : b[i]; the number not taken has no effect, even a NaN
    DELAY = 15  # a line of k numbers, the state at dst: dst[n..k) = old dst[0..k-n), then dst[0..n) = a[n]; n divides k
    LSTM_CELL = 16  # gates (i, f, g, o) = a[4n], gate after gate; cell b[n] updated in place; dst[n] = sig(o) tanh cell
    GRU_CELL = 17  # r, z = sig(a + c); dst[n] = (1 - z) tanh(a_n + r c_n) + z d[n]; a[3n], c[3n] gate after gate


GATES = {Code.AFFINE: 1, Code.LSTM: 4, Code.GRU: 3}  # of operations with a matrix: its rows for each of n


class Unary(IntEnum):
    """Element-wise functions of one operand."""

    COPY = 0
    SCALE_SHIFT = 1  # p0 * x + p1
    ABS = 2
    CLAMP = 3  # to [p0, p1]
    RECIPROCAL = 4
    SQRT = 5
    EXP = 6
    LOG = 7
    ERF = 8
    TANH = 9
    SIGMOID = 10


class Binary(IntEnum):
    """Element-wise functions of two operands."""

    ADD = 0
    SUB = 1
    MUL = 2
    DIV = 3
    MAX = 4
    MIN = 5
    EQUAL = 6  # the comparisons give 1 or 0; of a NaN only NOT_EQUAL is true
    NOT_EQUAL = 7
    LESS = 8
    LESS_EQUAL = 9


class Reduce(IntEnum):
    """Reductions within a group."""

    SUM = 0
    MAX = 1
    MIN = 2
    ARGMAX = 3  # the position of the largest, the first of equal ones; NaN is largest


class Top(IntEnum):
    """What is told of the largest numbers."""

    VALUES = 0
    POSITIONS = 1


class Ref(NamedTuple):
    """A place: entry `offset` of buffer number `buffer`."""

    buffer: int
    offset: int = 0


@dataclass(frozen=True)
class Buffer:
    """`width` numbers of a `kind`: scratch, state, constant, input or sequence; `init` for state and constant."""

    width: int
    kind: str = "scratch"
    init: np.ndarray | None = None


@dataclass(frozen=True)
class Op:
    """One operation; see `Code` for what the fields mean to it.

    `name` says which part of the model its tensor is: "encoder.lstm.weight_ih_l0", "fc".
    """

    code: Code
    dst: Ref
    n: int
    k: int = 0
    a: Ref | None = None
    b: Ref | None = None
    c: Ref | None = None
    tensor: int | None = None
    fn: int = 0
    p0: float = 0.0
    p1: float = 0.0
    d: Ref | None = None
    name: str = ""

    @property
    def refs(self) -> list[Ref]:
        """All places that it names, `dst` first."""
        return [ref for ref in (self.dst, self.a, self.b, self.c, self.d) if ref is not None]

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of its matrix product."""
        return GATES.get(self.code, 0) * self.n * self.k


@dataclass(frozen=True)
class Segment:
    """Operations run together: `forward` (for every step) or `once`."""

    kind: str
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Input:
    """What the caller gives each step: `shape` numbers, or one token below `vocabulary`."""

    name: str
    buffer: int
    shape: tuple[int, ...]
    vocabulary: int = 0


@dataclass(frozen=True)
class Output:
    """What the caller gets: `width` numbers at `ref`, of `shape`, each step, or only after the last (`final`)."""

    name: str
    ref: Ref
    shape: tuple[int, ...]
    final: bool = False


@dataclass(frozen=True)
class Tensor:
    """A stored array: `values` f32, i8, f16 or i32; those of i8 have one float32 `scale` per row.

    An int4 matrix is of i8 values from -8 to 7 and has a whole number, u8, as `group_scale` for each row and group of
    64 columns: weight = values * group_scale[row, column // 64] * scale[row]. A matrix is stored in blocks of `block`
    panels of 16 rows: 4 for an LSTM, 3 for a GRU, any from 1 to 4 for an AFFINE.

    With `toeplitz` the `values`, float32, are the vectors that make a Toeplitz-like matrix; see `ToeplitzBlocks`.
    """

    values: np.ndarray
    scale: np.ndarray | None = None
    group_scale: np.ndarray | None = None
    block: int = 4
    toeplitz: ToeplitzBlocks | None = None

    @property
    def is_float(self) -> bool:
        """Whether it is a float array, which can be stored in several types."""
        return self.values.dtype.kind == "f" and self.toeplitz is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that the numbers stand for."""
        return self.values.shape if self.toeplitz is None else self.toeplitz.shape(self.values)

    def dense(self) -> np.ndarray:
        """What the numbers stand for, as float64."""
        if self.toeplitz is not None:
            return self.toeplitz.dense(self.values)
        values = self.values.astype(np.float64)
        if self.group_scale is not None:
            values *= np.repeat(self.group_scale, 64, axis=1)[:, : values.shape[1]]
        return values if self.scale is None else values * self.scale[:, None].astype(np.float64)


@dataclass
class Program:
    """A model as the native core runs it."""

    buffers: list[Buffer] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)

    @property
    def offline(self) -> bool:
        """Whether the whole sequence is needed before the output is known."""
        if any(s.kind != "forward" for s in self.segments) or any(op.code == Code.FLIP for op in self.ops):
            return True
        return any(len(by) > 1 and self.buffers[i].kind in ("scratch", "state") for i, by in self.users().items())

    def users(self) -> dict[int, set[int]]:
        """By buffer: the numbers of the segments whose operations read or write it."""
        users: dict[int, set[int]] = {}
        for number, segment in enumerate(self.segments):
            for op in segment.ops:
                for ref in op.refs:
                    users.setdefault(ref.buffer, set()).add(number)
        return users

    @property
    def ops(self) -> list[Op]:
        """All operations in order."""
        return [op for s in self.segments for op in s.ops]

    def macs_per_step(self) -> int:
        """Multiply-accumulate operations of all matrix products of one time step."""
        return sum(op.macs for s in self.segments if s.kind == "forward" for op in s.ops)

    def map_ops(self, change) -> Program:
        """A copy in which `change(op)` stands for each op."""
        segments = [replace(s, ops=tuple(change(op) for op in s.ops)) for s in self.segments]
        return replace(self, segments=segments)
