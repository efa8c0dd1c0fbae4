"""What differs at the first or last steps of a sequence: reflected and repeated ends, and single steps.

An entry of a moved row that follows from a step in one way but at the ends is chosen there: by which step it is,
counted from the beginning or the end, a number of one step of the sequence takes the place of the shifted one. Such a
step is found by a delay line, from the end of the sequence or, reversed, from its beginning. A sequence that is
too short to have it is refused; in a stream the number is NaN until then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.program import Binary, Code
from .address import LazyView
from .builder import Operand
from .plan import SHIFT, UndecidedError, rows_in, rows_of

if TYPE_CHECKING:
    from .movement import Mover

_MOST = 32  # steps at either end that differ, and how far from it a single step may be
_LONG = 4 * _MOST  # steps of a sequence that shows it
_MOST_FEWER = 256  # steps that may be left out


def with_ends(mover: Mover, moved: LazyView, wrong: np.ndarray) -> Operand | None:
    """`moved` in place, of whose entries a step `wrong` are as others but at the ends; None where they are not so."""
    rows = rows_of(moved.address, moved.time if isinstance(moved.time, int) else None, moved.rate)
    if moved.time is None:
        return _single_steps(mover, moved, rows[0])
    steps, usual = len(rows), _shifted(mover, moved, rows, wrong)
    if usual is None:
        return None
    ends = np.flatnonzero((rows != usual).any(1))
    first, last = (ends[ends < steps // 2], ends[ends >= steps // 2])
    reach = max(first.max(initial=-1) + 1, steps - last.min(initial=steps))
    if reach > min(_MOST, steps // 2 - 1):
        if steps < _LONG:
            raise UndecidedError(f"{moved.where}: differs at more than {steps // 2} steps of the ends")
        return None
    value = mover.materialize(_of_rows(moved, usual))
    for step in ends.tolist():
        columns = np.flatnonzero(rows[step] != usual[step])
        chosen = _single_steps(mover, moved, rows[step, columns])
        if chosen is None:
            return None
        clock = mover.clock()
        count = step + 1 if step < steps // 2 else steps - step
        now = clock if step < steps // 2 else mover.flip(clock, moved.where)
        build = mover.builder
        here = build.binary(Binary.EQUAL, now, build.constant(np.array([float(count)])), period=1)
        here = mover.spread(here, (len(columns),), None)
        value = _replaced(mover, value, columns, here, chosen)
    return value


def continued(mover: Mover, moved: LazyView, steps: int) -> LazyView:
    """`moved`, which has fewer steps, with as many rows as the sequence: those at the end go on as those before."""
    time, rate = moved.time, moved.rate
    assert isinstance(time, int)
    missing = steps * rate - moved.shape[time]
    wide = np.pad(moved.address, [(0, missing) if d == time else (0, 0) for d in range(moved.address.ndim)], "empty")
    wide[(slice(None),) * time + (slice(moved.shape[time], None),)] = -1
    rows, middle = rows_of(wide, time, rate), moved.shape[time] // rate // 2
    if missing > _MOST_FEWER * rate or moved.shape[time] // rate < middle + 2:
        if steps < _LONG:
            raise UndecidedError(f"{moved.where}: leaves out more than {steps // 2} steps")
        raise UnsupportedModelError(
            f"{moved.where}: leaves out {missing // rate} steps; at most {_MOST_FEWER} are taken"
        )
    mover.builder.at_least(-(-missing // rate) + 1)
    result = LazyView([*moved.operands], wide, time, moved.where, rate=rate)
    outside = _outside(mover, result)
    pace = rows[middle + 1] - rows[middle]
    further = rows[middle] + (np.arange(steps)[:, None] - middle) * pace
    for column in np.flatnonzero((rows < 0).any(0)).tolist():
        source = result.operands[int(rows[middle, column] // SHIFT) - 1]
        timed = isinstance(source, Operand) and source.time is not None
        if not timed and pace[column]:
            raise UnsupportedModelError(f"{moved.where}: takes other constants at every step, of fewer than there are")
        end = rows_in(source, steps) * source.width if timed else 0  # pyright: ignore
        place = further[:, column] % SHIFT
        new = (
            np.where(
                timed and (further[:, column] // SHIFT != rows[middle, column] // SHIFT) | (place >= end),
                outside,
                further[:, column],
            )
            if timed
            else further[:, column]
        )
        rows[:, column] = np.where(rows[:, column] < 0, new, rows[:, column])
    return _of_rows(result, rows)


def _shifted(mover: Mover, moved: LazyView, rows: np.ndarray, wrong: np.ndarray) -> np.ndarray | None:
    """The rows with the entries that are wrong as in the middle: as long before or after each step as there."""
    steps, middle = len(rows), len(rows) // 2
    usual, now = rows.copy(), np.arange(len(rows))
    outside = _outside(mover, moved)
    for column in np.flatnonzero(wrong).tolist():
        number, offset = int(rows[middle, column] // SHIFT) - 1, int(rows[middle, column] % SHIFT)
        source = moved.operands[number]
        if not isinstance(source, Operand) or source.time is None:
            return None
        at, place = divmod(offset, source.width)
        found = now + at - middle
        inside = (found >= 0) & (found < rows_in(source, mover.steps))
        usual[:, column] = np.where(inside, (number + 1) * SHIFT + found * source.width + place, outside)
        if rows_in(source, mover.steps) != steps:
            return None
    return usual


def _outside(mover: Mover, moved: LazyView) -> int:
    """The address of what stands before and after a sequence."""
    moved.operands.append(mover.edge(0.0))
    return len(moved.operands) * SHIFT


def _of_rows(moved: LazyView, rows: np.ndarray) -> LazyView:
    """A value like `moved` of other addresses, a row for each step."""
    time, rate = moved.time, moved.rate
    assert isinstance(time, int)
    rest = [rate if d == time else n for d, n in enumerate(moved.shape)]
    parts = np.moveaxis(rows.reshape(len(rows), *rest), 0, time)
    return LazyView(moved.operands, parts.reshape(moved.shape), time, moved.where, rate=rate)


def _single_steps(mover: Mover, moved: LazyView, entries: np.ndarray) -> Operand | None:
    """Numbers of single steps of the sequence, of constants, or of what is the same at all steps."""
    parts: list[Operand] = []
    found = np.zeros_like(entries)
    number, offset = entries // SHIFT - 1, entries % SHIFT
    for which in np.unique(number).tolist():
        source = moved.operands[which]
        mine = np.flatnonzero(number == which)
        if not isinstance(source, Operand) or source.time is None:
            part = LazyView(moved.operands, entries[mine], None, moved.where)
            found[mine] = _address(parts, mover.materialize(part))
            continue
        steps, at, place = rows_in(source, mover.steps), offset // source.width, offset % source.width
        for step in np.unique(at[mine]).tolist():
            of_step = mine[at[mine] == step]
            if min(step, steps - 1 - step) > min(_MOST, steps // 2 - 1):
                return None
            value = _single_step(mover, source, step, place[of_step], moved.where)
            found[of_step] = _address(parts, value)
    view = LazyView([*parts], found.reshape(moved.shape if moved.time is None else found.shape), None, moved.where)
    return mover.materialize(view)


def _single_step(mover: Mover, source: Operand, step: int, places: np.ndarray, where: str) -> Operand:
    """The entries `places` of one step, counted from the nearer end."""
    assert source.time is not None
    steps = rows_in(source, mover.steps)
    source = replace(
        source, shape=tuple(steps * source.rate if d == source.time else n for d, n in enumerate(source.shape))
    )
    end = step >= steps // 2
    far = steps - 1 - step if end else -step
    mover.builder.at_least(far + 1 if end else step + mover.missing(source) + 1)
    rows = np.full((steps, len(places)), 2 * SHIFT)
    now = np.arange(steps) - far
    inside = (now >= 0) & (now < steps)
    rows[inside] = SHIFT + now[inside, None] * source.width + places
    line = mover.materialize(LazyView([source, mover.edge(math.nan)], rows, 0, where))
    last = (steps - 1 if end else 0) * line.width + np.arange(len(places))
    return mover.materialize(LazyView([line], SHIFT + last, None, where))


def _address(parts: list[Operand], value: Operand) -> np.ndarray:
    """Addresses of the entries of a value that is the next of `parts`."""
    parts.append(value)
    return len(parts) * SHIFT + np.arange(value.width)


def _replaced(mover: Mover, value: Operand, columns: np.ndarray, here: Operand, chosen: Operand) -> Operand:
    """`value` with `chosen` as its entries `columns` a step where `here` holds."""
    build, width = mover.builder, value.width
    count = 1 if value.time is None else value.shape[value.time] // value.rate
    rows = np.arange(count)[:, None] * width + np.arange(width) + SHIFT
    like = LazyView([value], np.zeros(value.shape, np.int64), value.time, build.where, rate=value.rate)
    old = mover.materialize(LazyView([value], rows[:, columns], 0, build.where))
    new = build.compute(Code.SELECT, [here, chosen, old], old, a=chosen.ref, b=old.ref, c=here.ref)
    rows[:, columns] = 2 * SHIFT + np.arange(count)[:, None] * len(columns) + np.arange(len(columns))
    changed = _of_rows(like, rows)
    changed.operands = [value, new]
    return mover.materialize(changed)
