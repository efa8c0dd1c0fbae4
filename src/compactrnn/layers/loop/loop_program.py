"""Scheduling and memory layout: from values to the operations of native/loop/loop.h."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ...runtime.gates import padded
from ...runtime.layout import Type
from . import _loop  # pyright: ignore[reportAttributeAccessIssue]
from .values import Value, ordered

# Columns of the table, as in native/loop/python.cpp.
CODE, WIDTH, DEPTH, ADDEND, PLACES = range(5)
MATRIX = PLACES + 4 * 5
TOTAL = MATRIX + 3
COLUMNS = TOTAL + 1

CODES = {name.lower(): number for number, name in enumerate(_loop.NAMES)}
FLOAT = 4
_QUANTIZED = {"int8": "MATRIX_I8", "int4": "MATRIX_I4"}


@dataclass(frozen=True)
class Place:
    """Column `start` of a buffer, `shift` steps later; without a buffer: number `start` of the scratch.

    In the scratch, the rows of a tile lie `pitch` numbers apart.
    """

    buffer: str | None
    start: int = 0
    shift: int = 0
    pitch: int = 0

    def right(self, columns: int) -> Place:
        """The place shifted by some columns."""
        return replace(self, start=self.start + columns)


@dataclass(frozen=True)
class LoopBuffer:
    """Where an array stands: its address, and its strides in numbers over time and rows (0: the same everywhere)."""

    address: int
    time: int
    row: int

    @classmethod
    def of(cls, tensor: Tensor) -> LoopBuffer:
        """(time, rows, n), (rows, n) or (n,), with columns side by side."""
        time, row = (0, 0, *tensor.stride()[:-1])[-2:]
        return cls(tensor.data_ptr(), time, row)


@dataclass(frozen=True)
class Root:
    """A value to be written to the first `width` columns of a place in a buffer.

    `late`: the step reads there what it will write.
    """

    value: Value
    place: Place
    width: int
    late: bool = False


@dataclass(frozen=True)
class _Operation:
    code: str
    width: int
    to: Place
    args: tuple[Place, ...]
    matrix: tuple[int, bool] | None = None
    depth: int = 0
    total: int = 0
    quantized: tuple[int, str, float] | None = None  # the number of a packed matrix, its type, the scale of its inputs


class LoopProgram:
    """Computes `roots`, and adds up the values of `sums` over rows and time; `inputs` stand where they are said to."""

    def __init__(self, roots: Iterable[Root], inputs: Mapping[Value, Place], sums: Iterable[Value] = ()):
        self.roots, self.sums = list(roots), list(sums)
        self.inputs, self.places = dict(inputs), dict[Value, Place]()
        self.numbers: dict[float, int] = {}
        self.scratch = 0
        self.operations: list[_Operation] = []
        self._order = ordered([*(r.value for r in self.roots), *self.sums], lambda v: v in self.inputs)
        self._settle()
        self._inner = self._fuse()
        self._emit()
        self._layout = _Layout(self.operations, list(self.numbers))

    def _computed(self, value: Value) -> bool:
        return value not in self.inputs and value.op not in ("number", "slice")

    def _settle(self) -> None:
        """Assign output places to roots and to the parts of concatenated roots."""
        for root in self.roots:
            if self._computed(root.value) and not root.late:
                self._settle_at(root.value, root.place)

    def _settle_at(self, value: Value, place: Place) -> None:
        if not self._computed(value) or value in self.places:
            return
        self.places[value] = place
        if value.op == "cat":
            for part, start in parts_of(value):
                self._settle_at(part, place.right(start))

    def _fuse(self) -> dict[Value, Value]:
        """Products fused into sums: `addend + x W^T` and `a * b + c` are one operation; quantized, too."""
        used = Counter(a for v in self._order if v not in self.inputs for a in v.args)
        used.update([*(r.value for r in self.roots), *self.sums])
        inner: dict[Value, Value] = {}
        for value in self._order:
            if value.op == "add" and self._computed(value):
                alone = [a for a in value.args if used[a] == 1 and self._computed(a)]
                found = [a for op in ("quantized", "linear", "mul") for a in alone if a.op == op]
                if found:
                    inner[value] = found[0]
        return inner

    def _operands(self, value: Value) -> tuple[Value, ...]:
        """Operands of the operation, including those of a fused product."""
        inner = self._inner.get(value)
        return value.args if inner is None else (*inner.args, *(a for a in value.args if a is not inner))

    def _emit(self) -> None:
        inside = set(self._inner.values())
        order = [v for v in self._order if self._computed(v) and v not in inside]
        freed = self._last_reads(order)
        free: dict[int, list[int]] = {}
        for number, value in enumerate(order):
            if value not in self.places:
                self.places[value] = self._slot(value.width, free.setdefault(padded(value.width), []))
            if value.op == "cat":
                for part, start in parts_of(value):
                    self._copy(part, self.places[value].right(start), part.width)
            else:
                self._operate(value)
            for gone in freed.get(number, ()):
                free[padded(gone.width)].append(self.places[gone].start)
        late = [r for r in self.roots if r.late]
        for root in self.roots:
            if not root.late:
                self._copy(root.value, root.place, root.width)
        for number, value in enumerate(self.sums):
            here = self._place(value)
            self.operations.append(_Operation("sum", value.width, here, (here,), total=number))
        sources = [self._place(r.value) if self._computed(r.value) else self._set_aside(r) for r in late]
        for root, place in zip(late, sources, strict=True):
            self.operations.append(_Operation("copy", root.width, root.place, (place,)))

    def _set_aside(self, root: Root) -> Place:
        """A copy of a value that a later root may overwrite."""
        place = self._slot(root.width, [])
        self._copy(root.value, place, root.width)
        return place

    def _slot(self, width: int, free: list[int]) -> Place:
        if not free:
            free.append(self.scratch)
            self.scratch += padded(width) * _loop.TILE
        return Place(None, free.pop(), pitch=padded(width))

    def _last_reads(self, order: list[Value]) -> dict[int, list[Value]]:
        """Which scratch values are read for the last time by each operation of `order`."""
        last: dict[Value, int] = {}

        def read(value: Value, when: int) -> None:
            while value.op == "slice" and value not in self.inputs:
                (value,) = value.args
            if self._computed(value) and value not in self.places:
                last[value] = when

        for when, value in enumerate(order):
            read(value, when)
            for operand in self._operands(value):
                read(operand, when)
        for value in [*(r.value for r in self.roots), *self.sums]:
            read(value, len(order))
        freed: dict[int, list[Value]] = {}
        for value, when in last.items():
            freed.setdefault(when, []).append(value)
        return freed

    def _copy(self, value: Value, to: Place, width: int) -> None:
        here = self._place(value)
        if here != to:
            self.operations.append(_Operation("copy", width, to, (here,)))

    def _operate(self, value: Value) -> None:
        inner = self._inner.get(value, value)
        args = tuple(self._place(a) for a in self._operands(value))
        to = self.places[value]
        if inner.op == "linear":
            made = _Operation("linear", value.width, to, args, inner.key, inner.args[0].width)  # pyright: ignore
        elif inner.op == "quantized":
            _, *rest = inner.key  # pyright: ignore
            depth = inner.args[0].width
            made = _Operation("quantized", value.width, to, args, quantized=tuple(rest), depth=depth)
        else:
            depth = value.args[0].width if value.op == "total" else 0
            made = _Operation("mul_add" if inner is not value else value.op, value.width, to, args, depth=depth)
        self.operations.append(made)

    def _place(self, value: Value) -> Place:
        known = self.inputs.get(value) or self.places.get(value)
        if known is not None:
            return known
        if value.op == "number":
            return Place("number", self.numbers.setdefault(value.key, len(self.numbers)))  # pyright: ignore
        return self._place(value.args[0]).right(value.key)  # pyright: ignore

    def table(self, buffers: Mapping[str, LoopBuffer], matrices: list[Tensor], totals: list[np.ndarray]) -> np.ndarray:
        """The program table for native/loop/python.cpp, with the addresses of the given arrays."""
        table = self._layout.table(buffers)
        for number in self._layout.given:
            row, operation = table[number], self.operations[number]
            if operation.matrix is not None:
                number, transposed = operation.matrix
                strides = matrices[number].stride()
                row[MATRIX:TOTAL] = (matrices[number].data_ptr(), *(strides[::-1] if transposed else strides))
            if operation.quantized is not None:
                number, kind, scale = operation.quantized
                row[MATRIX:TOTAL] = (
                    matrices[number].data_ptr(),
                    Type[_QUANTIZED[kind]],
                    np.float32(scale).view(np.int32),
                )
            if operation.code == "sum":
                row[TOTAL] = totals[operation.total].ctypes.data
        return table


class _Layout:
    """The table of a program but for the addresses of what is passed to a call.

    `given` are the operations that have a matrix or a total among them.
    """

    def __init__(self, operations: list[_Operation], numbers: list[float]):
        widest = max((o.width for o in operations), default=1)
        self.constants = np.repeat(np.array(numbers, np.float32)[:, None], widest, axis=1)
        self.plain = np.zeros((len(operations), COLUMNS), np.int64)
        self.given = [i for i, o in enumerate(operations) if o.matrix or o.quantized or o.code == "sum"]
        rows: list[tuple[int, int, str, int, int]] = []
        for i, (row, operation) in enumerate(zip(self.plain, operations, strict=True)):
            row[CODE], row[WIDTH], row[DEPTH] = CODES[operation.code], operation.width, operation.depth
            row[ADDEND] = operation.code in ("linear", "quantized") and len(operation.args) > 1
            places = (operation.to, *operation.args)
            for j, place in enumerate((*places, *[places[0]] * 4)[:4]):
                at = slice(
                    PLACES + 5 * j, PLACES + 5 * (j + 1)
                )  # scratch flag, address, strides over time, tiles, rows
                if place.buffer is None:
                    row[at] = (1, place.start, 0, 0, place.pitch)
                elif place.buffer == "number":
                    row[at] = (0, self.constants[place.start].ctypes.data, 0, 0, 0)
                else:
                    rows.append((i, at.start, place.buffer, place.start, place.shift))
        self.names = sorted({name for *_, name, _, _ in rows})
        of = np.array([self.names.index(name) for *_, name, _, _ in rows], np.int64)
        self.rows, self.columns, self.starts, self.shifts = (
            np.array([(i, column, start, shift) for i, column, _, start, shift in rows], np.int64).reshape(-1, 4).T
        )
        self.of = of

    def table(self, buffers: Mapping[str, LoopBuffer]) -> np.ndarray:
        """A table in which the buffers have addresses and strides."""
        found = [(b.address, b.time, b.row) for b in map(buffers.__getitem__, self.names)]
        address, time, row = np.array(found, np.int64).reshape(-1, 3)[self.of].T
        table = self.plain.copy()
        table[self.rows, self.columns + 1] = address + (self.starts + self.shifts * time) * FLOAT
        for column, values in ((2, time), (3, row), (4, row)):
            table[self.rows, self.columns + column] = values
        return table


def parts_of(value: Value) -> list[tuple[Value, int]]:
    """The parts of a concatenation, each with its first column."""
    starts = np.cumsum([0, *(p.width for p in value.args)])
    return [(part, int(start)) for part, start in zip(value.args, starts, strict=False)]
