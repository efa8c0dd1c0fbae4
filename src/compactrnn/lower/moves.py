"""Data movement, lowered by running it on addresses instead of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..runtime.program import Code, Ref, Unary
from .builder import CONSTANT, LAST, STEP, Builder, Value

_SHIFT = 1 << 40
_LONGEST_DELAY = 64


class Atom(NamedTuple):
    """Entries of one operand at one relation to the output's time: now, flip, last, first, always, steps ago, ahead."""

    operand: int
    relation: str
    steps: int = 0


@dataclass
class Moved:
    """Entries of `operands` in another order, not yet copied: `address` says for each where it lives."""

    operands: list[Value | Tensor]
    address: Tensor
    time: int | str | None
    where: str
    value: Value | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, time axis included."""
        return tuple(self.address.shape)


def addresses(operand: Value | Moved | Tensor, flat: list[Value | Tensor]) -> Tensor:
    """A tensor of the operand's shape whose entries say where they live: operand in `flat`, step, place in the row."""
    if isinstance(operand, Moved):
        numbers = operand.address // _SHIFT - 1
        places = torch.tensor([_number(o, flat) for o in operand.operands])
        return operand.address % _SHIFT + (places[numbers] + 1) * _SHIFT
    shape = tuple(operand.shape)
    rows = torch.arange(int(np.prod(shape, dtype=int))).view(shape)
    if isinstance(operand, Value) and operand.time is not None:
        row = torch.arange(operand.width).view(operand.step_shape).unsqueeze(operand.time)
        step = torch.arange(shape[operand.time]).view([-1 if d == operand.time else 1 for d in range(len(shape))])
        rows = (row + step * operand.width).expand(shape)
    return rows + (_number(operand, flat) + 1) * _SHIFT


def _number(operand: Value | Tensor, flat: list[Value | Tensor]) -> int:
    """The place of `operand` in `flat`, where it is put if it is new."""
    for i, other in enumerate(flat):
        if other is operand:
            return i
    flat.append(operand)
    return len(flat) - 1


def read_plan(moved: Tensor, time: int | None, operands: list[Value | Tensor], where: str) -> tuple[list[Atom], Tensor]:
    """For each entry of an output row: from which atom it comes, and from which position of that.

    `moved` is the output of the movement run on addresses; returns the atoms and, per entry, (atom number, position).
    """
    rows = moved.movedim(time, 0).reshape(moved.shape[time], -1) if time is not None else moved.reshape(1, -1)
    steps = rows.shape[0]
    if (whole := _whole(rows, time is not None, operands)) is not None:
        return whole
    atoms: dict[Atom, int] = {}
    plan = []
    for column in rows.T:
        number = column // _SHIFT - 1
        offset = column % _SHIFT
        plan.append(_entry(number, offset, steps, time is not None, operands, atoms, where))
    return list(atoms), torch.tensor(plan).view(-1, 2)


def _whole(rows: Tensor, timed: bool, operands: list[Value | Tensor]) -> tuple[list[Atom], Tensor] | None:
    """The usual case at once: all entries come from one operand at one relation."""
    number, offset = int(rows[0, 0]) // _SHIFT - 1, rows % _SHIFT
    source = operands[number]
    if not isinstance(source, Value) or not bool((rows // _SHIFT == number + 1).all()):
        return None
    length = 1 if source.time is None else source.shape[source.time]
    at, position = offset // source.width, offset % source.width
    now = torch.arange(rows.shape[0]).unsqueeze(1)
    if source.time is None:
        relation = "always"
    elif timed and len(rows) == length and bool((at == now).all()):
        relation = "now"
    elif timed and len(rows) == length and bool((at == length - 1 - now).all()):
        relation = "flip"
    elif bool((at == length - 1).all()):
        relation = "last"
    else:
        return None
    if not bool((position == position[0]).all()):
        return None
    return [Atom(number, relation)], torch.stack([torch.zeros_like(position[0]), position[0]], 1)


def _entry(number: Tensor, offset: Tensor, steps: int, timed: bool, operands: list, atoms: dict, where: str) -> Any:
    """The atom of one column of the output rows: who feeds it at each of `steps`, and from where."""
    moving = [i for i, n in enumerate(number.tolist()) if isinstance(v := operands[n], Value) and v.time is not None]
    pick = moving[-1] if moving else 0
    source, position = operands[int(number[pick])], int(offset[pick])
    here = number == number[pick]
    if moving:
        position %= source.width
        here &= offset % source.width == position
        at = offset // source.width
        missing = [(operands[int(n)], int(i)) for n, i in zip(number[~here], offset[~here], strict=True)]
        zeros = all(isinstance(o, Tensor) and o.flatten()[i] == 0 for o, i in missing)
        relation = _relation(at, here, steps, source.shape[source.time], timed) if zeros else None
    else:
        values = offset if isinstance(source, Value) else source.flatten()[offset]
        relation = ("always", 0) if bool(here.all()) and bool((values == values[0]).all()) else None
    if relation is None:
        raise UnsupportedModelError(f"{where}: mixes time steps in a way that cannot run step by step")
    atom = Atom(int(number[pick]), *relation)
    return atoms.setdefault(atom, len(atoms)), position


def _relation(at: Tensor, here: Tensor, steps: int, length: int, timed: bool) -> tuple[str, int] | None:
    """How the source's step `at` follows from the output's step; where not `here`, the output is zero."""
    now = torch.arange(len(at))
    whole = bool(here.all())
    if whole and (not timed or bool((at == at[0]).all())) and int(at[0]) in (length - 1, 0):
        return ("last" if int(at[0]) == length - 1 else "first", 0)
    if not timed or steps != length:
        return None
    if whole and torch.equal(at, steps - 1 - now):
        return ("flip", 0)
    delay = int((now - at)[here][0])
    inside = (now >= delay) & (now < length + delay)
    if abs(delay) > _LONGEST_DELAY or not torch.equal(here, inside) or not torch.equal(at[here], (now - delay)[here]):
        return None
    return ("now", 0) if delay == 0 else ("ago", delay) if delay > 0 else ("ahead", -delay)


class Mover:
    """Materialises atoms and gathers output rows from them."""

    def __init__(self, builder: Builder):
        self.builder = builder

    def move(self, operands: list, run: Callable[[list[Tensor]], Tensor], time: int | str | None, where: str) -> Moved:
        """The result of `run(operands)`, an operation that only moves entries; `time` is the result's time axis."""
        flat: list[Value | Tensor] = []
        moved = run([addresses(o, flat) for o in operands])
        return Moved(flat, moved, time, where)

    def settle(self, moved: Moved) -> Value:
        """`moved` as a value: a view if its entries lie side by side, else a copy."""
        if moved.value is None:
            moved.value = self._settle(moved.operands, moved.address, moved.time, moved.where)
        return moved.value

    def _settle(self, operands: list[Value | Tensor], moved: Tensor, time: int | str | None, where: str) -> Value:
        if isinstance(time, str):
            raise UnsupportedModelError(f"{where}: folds time into another axis or changes the number of steps")
        atoms, plan = read_plan(moved, time, operands, where)
        sources = [self._atom(a, operands[a.operand], where) for a in atoms]
        shape = tuple(moved.shape)
        build = self.builder
        if len(sources) == 1 and _is_run(plan[:, 1]):
            source, start = sources[0], int(plan[0, 1])
            return replace(source, ref=Ref(source.ref.buffer, source.ref.offset + start), shape=shape, time=time)
        bounded = all(s.bounded for s in sources)
        if all(s.kind == CONSTANT for s in sources):
            numbers = [build.known(sources[n], i) for n, i in plan.tolist()]
            return Value(build.constant(np.array(numbers)), shape, time, CONSTANT, 0, bounded)
        kind = build.place(sources, where)
        width = len(plan)
        dst = build.buffer(width)
        runs = _runs(plan)
        if len(runs) <= 16:
            for start, end, number, first in runs:
                ref = sources[number].ref
                build.emit(
                    Code.UNARY,
                    Ref(dst.buffer, start),
                    end - start,
                    a=Ref(ref.buffer, ref.offset + first),
                    fn=int(Unary.COPY),
                )
        else:
            self._gather(dst, plan, sources)
        return Value(dst, shape, time, kind, build.segment, bounded)

    def _gather(self, dst: Ref, plan: Tensor, sources: list[Value]) -> None:
        build = self.builder
        if len(sources) == 1:
            ref, widths = sources[0].ref, [sources[0].width]
        else:
            widths = [s.width for s in sources]
            ref = build.buffer(sum(widths))
            for i, source in enumerate(sources):
                build.emit(Code.UNARY, Ref(ref.buffer, sum(widths[:i])), widths[i], a=source.ref, fn=int(Unary.COPY))
        starts = torch.tensor([sum(widths[:i]) for i in range(len(widths))])
        index = (starts[plan[:, 0]] + plan[:, 1]).to(torch.int32).numpy()
        build.emit(Code.GATHER, dst, len(index), k=sum(widths), a=ref, tensor=build.tensor(index))

    def _atom(self, atom: Atom, operand: Value | Tensor, where: str) -> Value:
        build = self.builder
        if isinstance(operand, Tensor):
            ref = build.constant(operand.detach().float().numpy())
            small = bool((operand.abs() <= 1).all())
            return Value(ref, tuple(operand.shape), None, CONSTANT, 0, small)
        if atom.relation in ("now", "always"):
            return operand
        if atom.relation == "last":
            if operand.kind != STEP:
                return replace(operand, shape=operand.step_shape, time=None)
            # a copy: should the sequence itself be read again later, its buffer will hold all of its steps
            copied = build.unary(Unary.COPY, operand, bounded=operand.bounded)
            return replace(copied, shape=operand.step_shape, time=None, kind=LAST)
        if atom.relation == "ago":
            return self._delayed(operand, atom.steps)
        flipped = self.flip(operand, where)
        if atom.relation == "ahead":
            return self.flip(self._delayed(flipped, atom.steps), where)
        if atom.relation == "flip":
            return flipped
        return replace(flipped, shape=flipped.step_shape, time=None, kind=LAST)

    def flip(self, value: Value, where: str) -> Value:
        """The sequence backwards."""
        build = self.builder
        if value.segment == build.segment:
            build.close(where)
        build.place([value])
        dst = build.buffer(value.width)
        build.emit(Code.FLIP, dst, value.width, a=value.ref)
        return replace(value, ref=dst, segment=build.segment)

    def _delayed(self, value: Value, steps: int) -> Value:
        build = self.builder
        build.place([value])
        for _ in range(steps):
            state = build.buffer(value.width, "state", np.zeros(value.width, np.float32))
            dst = build.buffer(value.width)
            build.emit(Code.UNARY, dst, value.width, a=state, fn=int(Unary.COPY))
            build.emit(Code.UNARY, state, value.width, a=value.ref, fn=int(Unary.COPY))
            value = replace(value, ref=dst, segment=build.segment)
        return value


def _is_run(positions: Tensor) -> bool:
    return bool((positions == positions[0] + torch.arange(len(positions))).all())


def _runs(plan: Tensor) -> list[tuple[int, int, int, int]]:
    """(start, end, source, first position) of stretches that are copied as a whole."""
    runs, start = [], 0
    for end in range(1, len(plan) + 1):
        follows = end < len(plan) and plan[end, 0] == plan[end - 1, 0] and plan[end, 1] == plan[end - 1, 1] + 1
        if not follows:
            runs.append((start, end, int(plan[start, 0]), int(plan[start, 1])))
            start = end
    return runs
