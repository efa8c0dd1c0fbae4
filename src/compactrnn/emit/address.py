"""Symbolic data movement: operations that only move entries, run on addresses instead of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .builder import Operand
from .plan import SHIFT

Source = Operand | np.ndarray  # what a program computes, or a constant


@dataclass
class LazyView:
    """A lazy view: entries of `operands` in another order, not yet copied; `address` gives the source of each.

    `time` is the time axis, None without one, a string where the axes cannot be told apart; it has `rate` entries more
    where the sequence is a step longer.
    """

    operands: list[Source]
    address: np.ndarray
    time: int | str | None
    where: str
    value: Operand | None = None
    rate: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, time axis included."""
        return self.address.shape


EVERY_TWO = "every two steps"  # a time axis that is two


def why_unclear(time: str) -> str:
    """Why a value with such a time axis is no row of a step."""
    if time == EVERY_TWO:
        return (
            "makes numbers of every two steps; an engine does so for attention alone, softmax(q k^T) v, whose scores"
            " are products of queries and keys"
        )
    return "folds time into another axis or changes the number of steps"


def addresses(operand: Source | LazyView, flat: list[Source]) -> np.ndarray:
    """An array of the operand's shape whose entries say where they are: operand in `flat`, step, place in the row."""
    if isinstance(operand, LazyView):
        numbers = operand.address // SHIFT - 1
        places = np.array([_number(o, flat) for o in operand.operands])
        return operand.address % SHIFT + (places[numbers] + 1) * SHIFT
    shape = tuple(operand.shape)
    rows = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    if isinstance(operand, Operand) and operand.time is not None:
        frames = [operand.rate if d == operand.time else n for d, n in enumerate(shape)]
        row = np.arange(operand.width).reshape(frames)
        step = np.arange(-(-shape[operand.time] // operand.rate)) * operand.width
        rows = np.concatenate([row + start for start in step.tolist()], operand.time)
        rows = rows.take(range(shape[operand.time]), operand.time)  # the last step may be a part of one
    return rows + (_number(operand, flat) + 1) * SHIFT


def _number(operand: Source, flat: list[Source]) -> int:
    """The place of `operand` in `flat`, where it is put if it is new."""
    for i, other in enumerate(flat):
        if other is operand:
            return i
    flat.append(operand)
    return len(flat) - 1


def padded(x: np.ndarray, pads: Sequence[tuple[int, int]], filling: int) -> np.ndarray:
    """`x` padded along each axis; negative amounts crop.

    >>> padded(np.arange(4), [(1, -2)], 9)
    array([9, 0, 1])
    """
    kept = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, pads, strict=True))
    return np.pad(x[kept], [(max(0, a), max(0, b)) for a, b in pads], constant_values=filling)
