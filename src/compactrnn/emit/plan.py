"""Analysis of a movement: the source and delay of every entry of a moved row."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from .._errors import UnsupportedModelError
from .builder import Operand

SHIFT = 1 << 40  # an address is (number of the operand + 1) * SHIFT + place in the operand


class UndecidedError(UnsupportedModelError):
    """The traced sequence is too short to determine the look-back."""


class MixedError(UnsupportedModelError):
    """Some entries of a moved row follow from no step in one way at all steps; `wrong` says which."""

    def __init__(self, text: str, wrong: np.ndarray):
        super().__init__(text)
        self.wrong = wrong


class Relation(IntEnum):
    """How an entry follows from its source: at `steps` before the output's step, or at a fixed step of the sequence."""

    NUMBER = 0  # a constant
    ALWAYS = 1  # of a value without time
    STEP = 2
    FLIP = 3
    LAST = 4
    FIRST = 5


class Plan(NamedTuple):
    """For each entry of an output row: its operand, position in the operand's row, and relation to the output's step.

    `steps` of a STEP is how long ago (negative: ahead); `number` is the constant, or what stands before the first step.
    """

    operand: np.ndarray
    position: np.ndarray
    relation: np.ndarray
    steps: np.ndarray
    number: np.ndarray

    def where(self, mask: np.ndarray) -> Plan:
        """The entries selected by `mask`."""
        return Plan(*(part[mask] for part in self))


class Operands:
    """What a movement reads, as tables by operand number.

    `edges` are fillings beyond the ends of the sequence; `grown` are constants that are as long as the sequence, which
    has `steps`. What has fewer steps has as many rows, of which the last ones are never read.
    """

    def __init__(self, operands: list[Operand | np.ndarray], edges: set[int], grown: set[int], steps: int | None):
        timed = [o if isinstance(o, Operand) and o.time is not None else None for o in operands]
        numbers = [np.zeros(1) if isinstance(o, Operand) else o.flatten().astype(np.float64) for o in operands]
        self.width = np.array([0 if v is None else v.width for v in timed])
        self.length = np.array([0 if v is None else rows_in(v, steps) for v in timed])
        self.constant = np.array([isinstance(o, np.ndarray) for o in operands])
        self.edge = np.array([id(o) in edges for o in operands])
        self.grown = np.array([id(o) in grown for o in operands])
        self._numbers = np.concatenate(numbers)
        self._first = np.cumsum([0, *(len(n) for n in numbers)])

    def numbers(self, operand: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """The constants at these places; 0 where the operand is not constant."""
        return self._numbers[self._first[operand] + np.where(self.constant[operand], offset, 0)]


def read_plan(moved: np.ndarray, time: int | None, operands: Operands, where: str, rate: int = 1) -> Plan:
    """The plan of `moved`, the output of a movement run on addresses, whose time axis is `time`, of `rate` a step.

    Raises:
        UndecidedError: a source would show only in a longer sequence.
        UnsupportedModelError: steps are mixed in another way.
    """
    rows = rows_of(moved, time, rate)
    steps, timed = len(rows), time is not None
    number, offset = rows // SHIFT - 1, rows % SHIFT
    moving = operands.width[number] > 0
    pick = steps - 1 - moving[::-1].argmax(0)  # the last row that a sequence feeds
    column = np.arange(rows.shape[1])
    source, place = number[pick, column], offset[pick, column]
    fed, width, length = moving.any(0), np.maximum(operands.width[source], 1), operands.length[source]
    position, at, now = np.where(fed, place % width, place), offset // width, np.arange(steps)[:, None]
    here = (number == source) & (np.where(fed, offset % width, offset) == position)
    constant, values = operands.constant[number], operands.numbers(number, offset)

    edge = operands.edge[number] | ((offset != offset[0]).any(0) & ~operands.grown[number])
    if timed and bool((constant & edge).all(0).any()):
        raise UndecidedError(f"{where}: looks more than {steps - 1} steps back or ahead; an engine keeps no more")
    first = values[(constant & ~here).argmax(0), column]
    filled = (here | (constant & same(values, first))).all(0)
    whole = here.all(0)
    still = fed & whole & (at == at[0]).all(0)
    stepwise = fed & timed & (length == steps)
    delay = pick - at[pick, column]
    inside = (now >= delay) & (now < length + delay)
    shifted = stepwise & filled & (here == inside).all(0) & (~here | (at == now - delay)).all(0)
    found = {
        Relation.FIRST: still & (at[0] == 0),
        Relation.LAST: still & (at[0] == length - 1),
        Relation.FLIP: stepwise & whole & (at == steps - 1 - now).all(0),
        Relation.STEP: shifted,
        Relation.ALWAYS: ~fed & ~operands.constant[source] & whole,
        Relation.NUMBER: constant.all(0) & same(values, values[0]).all(0),
    }
    relation = np.full_like(column, -1)
    for kind, mask in found.items():
        relation[mask] = kind
    if bool((relation < 0).any()):
        wrong = int(np.flatnonzero(relation < 0)[0])
        if timed and bool(constant[:, wrong].all()):
            raise MixedError(
                f"{where}: takes other constants at every step, which do not depend on the position alone, or not of as"
                " many steps as one can tell: give what they stand for as an input",
                relation < 0,
            )
        raise MixedError(f"{where}: {_reason(timed, bool(still[wrong]), int(at[0, wrong]))}", relation < 0)
    before = np.where(relation == Relation.NUMBER, values[0], np.where(whole, 0.0, first))
    return Plan(source, position, relation, np.where(relation == Relation.STEP, delay, 0), before)


def rows_in(x: Operand, steps: int | None) -> int:
    """How many rows a value with a time axis has, in a program for sequences of `steps`."""
    own = -(-x.shape[x.time or 0] // x.rate)
    return own if steps is None else max(own, steps)


def rows_of(moved: np.ndarray, time: int | None, rate: int = 1) -> np.ndarray:
    """(steps, entries of a step) of what has a time axis, of `rate` a step; without time axis one row."""
    if time is None:
        return moved.reshape(1, -1)
    count = moved.shape[time] // rate
    split = moved.reshape(*moved.shape[:time], count, rate, *moved.shape[time + 1 :])
    return np.moveaxis(split, time, 0).reshape(count, moved.size // count)


def same(a: np.ndarray, b: np.ndarray | float) -> np.ndarray:
    """Element-wise equality, with NaN equal to itself."""
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _reason(timed: bool, still: bool, step: int) -> str:
    if still:
        return f"reads step {step} of the sequence; an engine can give the first and the last step"
    if not timed:
        return "takes single steps out of the sequence; an engine can give the first and the last step"
    return "mixes time steps in a way that cannot run step by step"
