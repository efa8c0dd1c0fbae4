"""Where the entries of a moved row come from, read off the movement run on addresses instead of numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..emit.builder import Operand

SHIFT = 1 << 40  # an address is (number of the operand + 1) * SHIFT + place in the operand


class UndecidedError(UnsupportedModelError):
    """The sequence is too short to tell how far back an operation looks."""


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

    operand: Tensor
    position: Tensor
    relation: Tensor
    steps: Tensor
    number: Tensor

    def where(self, mask: Tensor) -> Plan:
        """The entries in `mask`."""
        return Plan(*(part[mask] for part in self))


class Operands:
    """What a movement reads, as tables by operand number.

    `edges` are fillings beyond the ends of the sequence; `grown` are constants that are as long as the sequence.
    """

    def __init__(self, operands: list[Operand | Tensor], edges: set[int], grown: set[int]):
        timed = [o if isinstance(o, Operand) and o.time is not None else None for o in operands]
        numbers = [o.detach().flatten().double() if isinstance(o, Tensor) else torch.zeros(1) for o in operands]
        self.width = torch.tensor([0 if v is None else v.width for v in timed])
        self.length = torch.tensor([0 if v is None else v.shape[v.time or 0] for v in timed])
        self.constant = torch.tensor([isinstance(o, Tensor) for o in operands])
        self.edge = torch.tensor([id(o) in edges for o in operands])
        self.grown = torch.tensor([id(o) in grown for o in operands])
        self._numbers = torch.cat(numbers)
        self._first = torch.tensor([0, *(len(n) for n in numbers)]).cumsum(0)

    def numbers(self, operand: Tensor, offset: Tensor) -> Tensor:
        """The constants at these places; 0 where the operand is not constant."""
        return self._numbers[self._first[operand] + torch.where(self.constant[operand], offset, 0)]


def read_plan(moved: Tensor, time: int | None, operands: Operands, where: str) -> Plan:
    """The plan of `moved`, the output of a movement run on addresses, whose time axis is `time`.

    Raises:
        UndecidedError: a source would show only in a longer sequence.
        UnsupportedModelError: steps are mixed in another way.
    """
    rows = moved.movedim(time, 0).reshape(moved.shape[time], -1) if time is not None else moved.reshape(1, -1)
    steps, timed = len(rows), time is not None
    number, offset = rows // SHIFT - 1, rows % SHIFT
    moving = operands.width[number] > 0
    pick = steps - 1 - moving.flip(0).to(torch.int8).argmax(0)  # the last row that a sequence feeds
    column = torch.arange(rows.shape[1])
    source, place = number[pick, column], offset[pick, column]
    fed, width, length = moving.any(0), operands.width[source].clamp(min=1), operands.length[source]
    position, at, now = torch.where(fed, place % width, place), offset // width, torch.arange(steps)[:, None]
    here = (number == source) & (torch.where(fed, offset % width, offset) == position)
    constant, values = operands.constant[number], operands.numbers(number, offset)

    edge = operands.edge[number] | ((offset != offset[0]).any(0) & ~operands.grown[number])
    if timed and bool((constant & edge).all(0).any()):
        raise UndecidedError(f"{where}: looks more than {steps - 1} steps back or ahead; an engine keeps no more")
    first = values.gather(0, (constant & ~here).to(torch.int8).argmax(0, keepdim=True))[0]
    filled = (here | (constant & (values == first))).all(0)
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
        Relation.NUMBER: constant.all(0) & _same(values, values[0]).all(0),
    }
    relation = torch.full_like(column, -1)
    for kind, mask in found.items():
        relation[mask] = kind
    if bool((relation < 0).any()):
        wrong = int((relation < 0).nonzero()[0])
        if timed and bool(constant[:, wrong].all()):
            raise UnsupportedModelError(
                f"{where}: takes other constants at every step, as a table of positions does; an engine does not count"
                " steps: give what depends on the position as an input"
            )
        raise UnsupportedModelError(f"{where}: {_reason(timed, bool(still[wrong]), int(at[0, wrong]))}")
    before = torch.where(relation == Relation.NUMBER, values[0], torch.where(whole, 0.0, first))
    return Plan(source, position, relation, torch.where(relation == Relation.STEP, delay, 0), before)


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def _reason(timed: bool, still: bool, step: int) -> str:
    if still:
        return f"reads step {step} of the sequence; an engine can give the first and the last step"
    if not timed:
        return "takes single steps out of the sequence; an engine can give the first and the last step"
    return "mixes time steps in a way that cannot run step by step"
