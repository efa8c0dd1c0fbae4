"""Tables of positions: constants of as many rows as the sequence has steps, looked up by a count of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..runtime.program import Code, Unary
from .address import LazyView
from .builder import STEP, Operand
from .plan import SHIFT, rows_of, same

if TYPE_CHECKING:
    from .movement import Mover

MOST_POSITIONS = 8192  # steps of a sequence, where a file takes more
_MOST_NUMBERS = 1 << 20  # of such a table, but for that of `_LEAST` steps
_LEAST = 1151


class Table(NamedTuple):
    """A constant of a long sequence: its numbers, which axis is time, and whether none longer is taken."""

    values: np.ndarray
    axis: int
    longest: bool


def longest_table(value: np.ndarray, time: int, steps: int, at: Callable[[int], np.ndarray | None]) -> Table | None:
    """The table of which `value`, whose axis `time` has `steps` rows, is the beginning; None where rows depend on them.

    `at` gives the constant for a sequence of so many steps, or None where the model takes none.
    """

    def longer(n: int) -> np.ndarray | None:
        found = at(n)
        if found is None or found.ndim != value.ndim or found.shape[time] - value.shape[time] != n - steps:
            return None
        return found

    low, high = steps, MOST_POSITIONS
    if (found := longer(high)) is None:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if longer(middle) is not None else (low, middle)
        found = longer(low)
    if found is None or not np.array_equal(found.take(range(value.shape[time]), time), value, equal_nan=True):
        return None
    return Table(found.astype(np.float64), time, low > steps)


def by_position(mover: Mover, moved: LazyView) -> Operand | None:
    """`moved` in place, where entries are constants that differ from step to step; None where there are none.

    Beyond the longest sequence that the table is for the numbers are NaN.
    """
    if not isinstance(moved.time, int) or moved.rate != 1:
        return None
    rows = rows_of(moved.address, moved.time)
    number, offset = rows // SHIFT - 1, rows % SHIFT
    columns, parts, steps, ends = [], [], [], False
    for which in np.unique(number[0]).tolist():
        source = moved.operands[which]
        table = mover.tables.get(id(source)) if isinstance(source, np.ndarray) else None
        mine = np.flatnonzero((number == which).all(0))
        if table is None or not isinstance(source, np.ndarray) or not len(mine) or (found := table()) is None:
            continue
        values = np.moveaxis(found.values, found.axis, 0).reshape(found.values.shape[found.axis], -1)
        place = np.moveaxis(np.arange(source.size).reshape(source.shape), found.axis, 0)
        place = place.reshape(len(place), -1)
        at, entry = np.empty(source.size, np.int64), np.empty(source.size, np.int64)
        at[place], entry[place] = np.arange(len(place))[:, None], np.arange(place.shape[1])
        ats, entries = at[offset[:, mine]], entry[offset[:, mine]]
        steady = (entries == entries[0]).all(0) & (ats == ats[0] + np.arange(len(rows))[:, None]).all(0)
        mine, first, entries = mine[steady], ats[0, steady], entries[0, steady]
        if not len(mine):
            continue
        length = len(values) - int(first.max())
        long = np.stack([values[f : f + length, e] for f, e in zip(first, entries, strict=True)], 1)
        varied = ~same(long, long[0]).all(0)
        columns.append(mine[varied])
        parts.append(long[:, varied])
        ends = ends or found.longest
        steps.append(length if found.longest else min(length, max(_LEAST, _MOST_NUMBERS // max(len(mine), 1))))
    if not columns or not sum(map(len, columns)):
        return None
    most = min(steps)
    table, which = np.unique(np.concatenate([p[:most] for p in parts], 1), axis=1, return_inverse=True)
    ramp = None if ends else _ramp(table)
    found = _looked_up(mover, table) if ramp is None else mover.builder.unary(Unary.SCALE_SHIFT, mover.clock(), *ramp)
    found = replace(found, shape=(len(rows), table.shape[1]), time=0)
    return _with(mover, moved, rows, np.concatenate(columns), found, which.ravel())


def _ramp(table: np.ndarray) -> tuple[float, float] | None:
    """The factor and the shift that make a table of whole numbers out of the count of steps, from one on."""
    start, slope = table[0, 0], table[1, 0] - table[0, 0]
    whole = table.shape[1] == 1 and float(start).is_integer() and float(slope).is_integer()
    if not whole or not np.array_equal(table[:, 0], start + slope * np.arange(len(table))):
        return None
    return float(slope), float(start - slope)


def _looked_up(mover: Mover, table: np.ndarray) -> Operand:
    """The row of the table that is so far from its start as the step from that of the sequence; NaN behind its end."""
    build, (most, n) = mover.builder, table.shape
    place = build.unary(Unary.SCALE_SHIFT, mover.clock(), 1.0, -1.0)  # how many steps were before
    ended = np.concatenate([table, np.full((1, n), np.nan)]).astype(np.float32)
    number = build.tensor(ended)
    build.program.tensors[number] = replace(build.program.tensors[number], exact=True)
    build.every_step([place])
    dst = build.buffer(n)
    build.emit(Code.EMBED, dst, n, a=place.ref, tensor=number)
    build.at_most(most)
    return Operand(dst, (n,), None, STEP, build.segment)


def _with(
    mover: Mover, moved: LazyView, rows: np.ndarray, columns: np.ndarray, found: Operand, which: np.ndarray
) -> Operand:
    """`moved` in place, of which `columns` of a step's row are the entries `which` of `found`."""
    n = found.shape[1]
    changed = rows.copy()
    changed[:, columns] = (len(moved.operands) + 1) * SHIFT + np.arange(len(rows))[:, None] * n + which
    assert isinstance(moved.time, int)
    rest = [m for d, m in enumerate(moved.shape) if d != moved.time]
    address = np.moveaxis(changed.reshape(len(rows), *rest), 0, moved.time)
    return mover.materialize(LazyView([*moved.operands, found], address, moved.time, moved.where))
