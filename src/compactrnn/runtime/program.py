"""The program that a model becomes: numbered buffers, and operations on them, one time step at a time.

A program is a list of segments. A `forward` segment runs all its operations for t = 0, 1, ..., T-1; a `once` segment
runs once, after the segments before it, with t = T-1. A program of forward segments without `FLIP` and `ATTEND`, no two
of which use the same scratch or state, streams; any other is *offline*: it needs the whole sequence.

Buffers hold `width` float32 numbers:

- `scratch`: valid within a step; read by a later segment, it holds what the last step wrote;
- `state`: persists from step to step, starts as `init`;
- `constant`: `init`, never written;
- `input`: one row per step, given by the caller (a token input has width 1 and holds the token's number);
- `sequence`: one row per step, written by one segment, kept for later forward segments.

An operand `Ref(buffer, offset)` is a view, so slicing and concatenating cost nothing. `operations.OPERATIONS` says what
each operation reads and writes, and which operands may be the same place as `dst`: others do not overlap it. Gates lie
as `gates.gate_rows` puts them: P is n rounded up to a multiple of 16.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from .form import Form
from .operations import GATES as GATES
from .operations import OPERATIONS
from .operations import Attend as Attend
from .operations import Binary as Binary
from .operations import Code as Code
from .operations import Matmul as Matmul
from .operations import Over as Over
from .operations import Reduce as Reduce
from .operations import Top as Top
from .operations import Unary as Unary


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
    """One operation; see `OPERATIONS` for what the fields mean to it.

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


@dataclass(frozen=True)
class Segment:
    """Operations run together: `forward` (for every step) or `once`."""

    kind: str
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Input:
    """What the caller gives each step: `shape` numbers, or one token below `vocabulary`.

    `once`: a sequence has it once, and it is the same at every step.
    """

    name: str
    buffer: int
    shape: tuple[int, ...]
    vocabulary: int = 0
    once: bool = False


@dataclass(frozen=True)
class Output:
    """What the caller gets: `width` numbers at `ref`, of `shape`, each step, or only after the last (`final`).

    Of a whole sequence it has `fewer` rows than steps: the last ones are left out.
    """

    name: str
    ref: Ref
    shape: tuple[int, ...]
    final: bool = False
    fewer: int = 0


@dataclass(frozen=True)
class State:
    """What a stream keeps from step to step under a name: the numbers of a state buffer, as an array of `shape`.

    `bounded`: products read it with the fixed scale of numbers from -1 to 1, which it never leaves by itself.
    """

    name: str
    buffer: int
    shape: tuple[int, ...]
    bounded: bool = False


@dataclass(frozen=True)
class Tensor:
    """A stored array: `values` f32, i8, f16 or i32; those of i8 have one float32 `scale` per row.

    An int4 matrix is of i8 values from -8 to 7 and has a whole number, u8, as `group_scale` for each row and group of
    64 columns: weight = values * group_scale[row, column // 64] * scale[row]. A matrix is stored in blocks of `block`
    panels of 16 rows: 4 for an LSTM, 3 for a GRU, any from 1 to 4 for an AFFINE. So is a table that is int4, or that a
    product reads, too.

    With a `form` the file has not all entries of the matrix; see `Form` and those that there are. A matrix that is
    `exact` stays float32 whatever type is asked for.
    """

    values: np.ndarray
    scale: np.ndarray | None = None
    group_scale: np.ndarray | None = None
    block: int = 4
    form: Form | None = None
    exact: bool = False

    @property
    def has_entries(self) -> bool:
        """Whether the values are the entries of the array."""
        return self.form is None or self.form.has_entries

    @property
    def is_float(self) -> bool:
        """Whether it is a float array, which can be stored in several types."""
        return self.values.dtype.kind == "f" and self.has_entries

    @property
    def numbers(self) -> int:
        """How many numbers are stored."""
        return self.values.size if self.form is None else self.form.numbers(self.values)

    @property
    def read(self) -> int:
        """How many numbers a product reads."""
        return self.values.size if self.form is None else self.form.read(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that the numbers stand for."""
        return self.values.shape if self.form is None else self.form.shape(self.values)

    def dense(self) -> np.ndarray:
        """What the numbers stand for, as float64."""
        if self.form is not None:
            values = self.form.dense(self.values)
        else:
            values = self.values.astype(np.float64)
        if self.group_scale is not None:
            values *= np.repeat(self.group_scale, 64, axis=1)[:, : values.shape[1]]
        return values if self.scale is None else values * self.scale[:, None].astype(np.float64)


@dataclass
class Program:
    """A model as the native core runs it, whole sequences of `least_steps` to `most_steps` (0: any number)."""

    buffers: list[Buffer] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    least_steps: int = 1
    most_steps: int = 0

    @property
    def in_panels(self) -> set[int]:
        """The tensors that are stored in panels of 16 rows: plain matrices of products, and int4 tables."""
        read = {op.tensor for op in self.ops if op.tensor is not None and OPERATIONS[op.code].tensor == "matrix"}
        int4 = {i for i, tensor in enumerate(self.tensors) if tensor.group_scale is not None}
        return {i for i in read | int4 if self.tensors[i].form is None}

    @property
    def offline(self) -> bool:
        """Whether the whole sequence is needed before the output is known."""
        other_steps = any(o.all_steps for op in self.ops for o in OPERATIONS[op.code].operands.values())
        if other_steps or any(s.kind != "forward" for s in self.segments):
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
        return sum(self.macs(op) for s in self.segments if s.kind == "forward" for op in s.ops)

    def macs(self, op: Op) -> int:
        """Multiply-accumulate operations of the matrix product of one of its operations.

        Also of an element-wise product with weights, see `has_constant`.
        """
        if self.has_constant(op):
            return op.n
        if op.tensor is None:
            return 0
        tensor = self.tensors[op.tensor]
        if op.code == Code.DEPTHWISE:
            return op.n * len(tensor.values)
        if op.code not in GATES:
            return 0
        plain = GATES[op.code] * op.n * tensor.shape[1]
        return plain if tensor.form is None else tensor.form.macs(tensor.values, plain)

    def has_constant(self, op: Op) -> bool:
        """Whether it multiplies element by element with weights: a constant of an operation that has a name."""
        if op.code != Code.BINARY or op.fn != Binary.MUL or not op.name or op.b is None:
            return False
        return self.buffers[op.b.buffer].kind == "constant"

    def map_ops(self, change) -> Program:
        """A copy in which `change(op)` stands for each op."""
        segments = [replace(s, ops=tuple(change(op) for op in s.ops)) for s in self.segments]
        return replace(self, segments=segments)
