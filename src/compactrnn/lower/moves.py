"""Data movement, lowered by running it on addresses instead of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..emit.builder import CONSTANT, LAST, STEP, Builder, Operand
from ..runtime.program import Code, Ref, Unary
from .plan import SHIFT, Operands, Plan, Relation, read_plan


@dataclass
class Moved:
    """Entries of `operands` in another order, not yet copied: `address` says for each where it lives."""

    operands: list[Operand | Tensor]
    address: Tensor
    time: int | str | None
    where: str
    value: Operand | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, time axis included."""
        return tuple(self.address.shape)


def addresses(operand: Operand | Moved | Tensor, flat: list[Operand | Tensor]) -> Tensor:
    """A tensor of the operand's shape whose entries say where they live: operand in `flat`, step, place in the row."""
    if isinstance(operand, Moved):
        numbers = operand.address // SHIFT - 1
        places = torch.tensor([_number(o, flat) for o in operand.operands])
        return operand.address % SHIFT + (places[numbers] + 1) * SHIFT
    shape = tuple(operand.shape)
    rows = torch.arange(int(np.prod(shape, dtype=int))).view(shape)
    if isinstance(operand, Operand) and operand.time is not None:
        row = torch.arange(operand.width).view(operand.step_shape).unsqueeze(operand.time)
        step = torch.arange(shape[operand.time]).view([-1 if d == operand.time else 1 for d in range(len(shape))])
        rows = (row + step * operand.width).expand(shape)
    return rows + (_number(operand, flat) + 1) * SHIFT


def _number(operand: Operand | Tensor, flat: list[Operand | Tensor]) -> int:
    """The place of `operand` in `flat`, where it is put if it is new."""
    for i, other in enumerate(flat):
        if other is operand:
            return i
    flat.append(operand)
    return len(flat) - 1


class Mover:
    """Finds or copies together what moved rows consist of."""

    def __init__(self, builder: Builder):
        self.builder = builder
        self._edges: list[Tensor] = []
        self._grown: list[Tensor] = []
        self._flipped: dict[tuple, Operand] = {}
        self._rows: dict[str, Operand] = {}

    def edge(self, value: float) -> Tensor:
        """A number that fills up a sequence before its first or after its last step."""
        self._edges.append(torch.tensor(float(value)))
        return self._edges[-1]

    def grows(self, constant: Tensor) -> None:
        """Note that a constant is as long as the sequence."""
        self._grown.append(constant)

    def move(self, operands: list, run: Callable[[list[Tensor]], Tensor], time: int | str | None, where: str) -> Moved:
        """The result of `run(operands)`, an operation that only moves entries; `time` is the result's time axis."""
        flat: list[Operand | Tensor] = []
        moved = run([addresses(o, flat).contiguous() for o in operands])
        return Moved(flat, moved, time, where)

    def settle(self, moved: Moved, passing: bool = False) -> Operand:
        """`moved` as a value: a view if its entries lie side by side, else a copy.

        `passing`: it is read by the next operation alone, so it may be a view of a delay line, which has changed by the
        next step.
        """
        if moved.value is None:
            moved.value = self._settle(moved, passing)
        return moved.value

    def _settle(self, moved: Moved, passing: bool) -> Operand:
        time, shape, where, build = moved.time, moved.shape, moved.where, self.builder
        if isinstance(time, str):
            raise UnsupportedModelError(f"{where}: folds time into another axis or changes the number of steps")
        operands = Operands(moved.operands, {id(t) for t in self._edges}, {id(t) for t in self._grown})
        plan = read_plan(moved.address, time, operands, where)
        if bool((plan.relation == Relation.NUMBER).all()):
            small = bool((plan.number.abs() <= 1).all())
            return Operand(build.constant(plan.number.float().numpy()), shape, time, CONSTANT, 0, small)
        parts = self._parts(plan, moved.operands, where)
        delayed = [(mask, base, plan.where(mask)) for mask, base in self._delayed(plan, moved.operands, where)]
        entries = torch.zeros(len(plan.operand), 2, dtype=torch.long)
        sources: list[Operand] = []
        for mask, source, positions in parts:
            entries[mask] = torch.stack([torch.full_like(positions, len(sources)), positions], 1)
            sources.append(source)
        lines = [base for _, base, _ in delayed]
        if len(sources) == 1 and not lines and _is_run(entries[:, 1]):
            return _view(sources[0], int(entries[0, 1]), shape, time)
        kind = build.place([*sources, *lines], where)
        for mask, base, part in delayed:
            steps = part.steps
            line = build.delay_line(base, int(steps.max()), float(part.number[steps > 0][0]))
            positions = steps * base.width + self._positions(part)
            entries[mask] = torch.stack([torch.full_like(positions, len(sources)), positions], 1)
            sources.append(line)
        if passing and len(sources) == 1 and _is_run(entries[:, 1]):
            return _view(sources[0], int(entries[0, 1]), shape, time)
        bounded = all(s.bounded for s in sources)
        return Operand(self._copy(entries, sources), shape, time, kind, build.segment, bounded)

    def _parts(self, plan: Plan, operands: list, where: str) -> list[tuple[Tensor, Operand, Tensor]]:
        """What needs no delay line of this segment: (entries, source, positions in the source)."""
        parts: list[tuple[Tensor, Operand, Tensor]] = []
        ahead = plan.steps < 0
        for number in plan.number[ahead].unique().tolist():
            mask = ahead & (plan.number == number)
            parts.append((mask, self._ahead(plan.where(mask), operands, number, where), torch.arange(int(mask.sum()))))
        for kind in (Relation.FLIP, Relation.FIRST, Relation.LAST, Relation.ALWAYS, Relation.STEP):
            of_kind = (plan.relation == kind) & ~self._on_lines(plan) & ~ahead
            for i in plan.operand[of_kind].unique().tolist():
                mask = of_kind & (plan.operand == i)
                parts.append((mask, self._source(operands[i], kind, where), plan.position[mask]))
        mask = plan.relation == Relation.NUMBER
        if bool(mask.any()):
            numbers = plan.number[mask].float()
            small = bool((numbers.abs() <= 1).all())
            source = Operand(self.builder.constant(numbers.numpy()), (len(numbers),), None, CONSTANT, 0, small)
            parts.append((mask, source, torch.arange(len(numbers))))
        return parts

    def _source(self, operand: Operand, kind: Relation, where: str) -> Operand:
        """The row that holds the entries of this relation."""
        if kind in (Relation.ALWAYS, Relation.STEP):
            return operand
        if kind == Relation.LAST:
            if operand.kind != STEP:
                return replace(operand, shape=operand.step_shape, time=None)
            # a copy: should the sequence itself be read again later, its buffer will hold all of its steps
            copied = self.builder.unary(Unary.COPY, operand, bounded=operand.bounded)
            return replace(copied, shape=operand.step_shape, time=None, kind=LAST)
        flipped = self.flip(operand, where)
        if kind == Relation.FLIP or flipped.kind != STEP:
            return flipped
        return replace(flipped, shape=flipped.step_shape, time=None, kind=LAST)

    def flip(self, value: Operand, where: str) -> Operand:
        """The sequence backwards."""
        build, key = self.builder, (value.ref, value.width)
        if value.kind != STEP:
            return value
        if key not in self._flipped:
            if value.segment == build.segment:
                build.close(where)
            build.every_step([value])
            dst = build.buffer(value.width)
            build.emit(Code.FLIP, dst, value.width, a=value.ref)
            self._flipped[key] = replace(value, ref=dst, segment=build.segment)
        return replace(self._flipped[key], shape=value.shape, time=value.time)

    def _on_lines(self, plan: Plan) -> Tensor:
        """The entries that delay lines give: of earlier steps, and of this step where earlier ones are read too."""
        keys = plan.operand * SHIFT + plan.position
        return (plan.relation == Relation.STEP) & (plan.steps >= 0) & torch.isin(keys, keys[plan.steps > 0])

    def _delayed(self, plan: Plan, operands: list, where: str) -> list[tuple[Tensor, Operand]]:
        """The entries that delay lines give, and for each line the row that is delayed."""
        mask = self._on_lines(plan)
        found = []
        for number in plan.number[plan.steps > 0].unique().tolist():
            late = mask & (plan.steps > 0) & (plan.number == number)
            keys = plan.operand * SHIFT + plan.position
            part = late | (mask & (plan.steps == 0) & torch.isin(keys, keys[late]))
            mask = mask & ~part
            found.append((part, self._row(plan.where(part), operands, where)))
        return found

    def _row(self, plan: Plan, operands: list, where: str) -> Operand:
        """The numbers that the entries of `plan` are or will be in other steps, each once, side by side."""
        operand, position = _distinct(plan)
        numbers = operand.unique().tolist()
        sources = [operands[i] for i in numbers]
        whole = len(sources) == 1 and torch.equal(position, torch.arange(sources[0].width))
        if whole and sources[0].kind == STEP:
            return sources[0]
        refs = [(*operands[i].ref, p) for i, p in zip(operand.tolist(), position.tolist(), strict=True)]
        key = repr(refs)
        if key not in self._rows:
            self.builder.every_step(sources, where)
            places = torch.tensor([numbers.index(i) for i in operand.tolist()])
            ref = self._copy(torch.stack([places, position], 1), sources)
            bounded = all(s.bounded for s in sources)
            self._rows[key] = Operand(ref, (len(refs),), None, STEP, self.builder.segment, bounded)
        return self._rows[key]

    def _positions(self, plan: Plan) -> Tensor:
        """For each entry of `plan`, its place in `_row(plan)`."""
        operand, position = _distinct(plan)
        order = {k: n for n, k in enumerate((operand * SHIFT + position).tolist())}
        return torch.tensor([order[k] for k in (plan.operand * SHIFT + plan.position).tolist()])

    def _ahead(self, plan: Plan, operands: list, number: float, where: str) -> Operand:
        """Entries of later steps: of earlier steps of the sequence backwards, turned round again."""
        build = self.builder
        row = self.flip(self._row(plan, operands, where), where)
        build.every_step([row])
        line = build.delay_line(row, int(-plan.steps.min()), number)
        entries = torch.stack([torch.zeros_like(plan.steps), self._positions(plan) - plan.steps * row.width], 1)
        copied = Operand(self._copy(entries, [line]), (len(entries),), None, STEP, build.segment, line.bounded)
        return self.flip(copied, where)

    def _copy(self, entries: Tensor, sources: list[Operand]) -> Ref:
        """A new row, in the current segment, of `entries`: (source, position) each."""
        build, dst = self.builder, self.builder.buffer(len(entries))
        runs = _runs(entries)
        if len(runs) > 16:
            self._gather(dst, entries, sources)
            return dst
        for start, end, number, first in runs:
            ref = sources[number].ref
            at, place = Ref(dst.buffer, start), Ref(ref.buffer, ref.offset + first)
            build.emit(Code.UNARY, at, end - start, a=place, fn=int(Unary.COPY))
        return dst

    def _gather(self, dst: Ref, entries: Tensor, sources: list[Operand]) -> None:
        build = self.builder
        widths = [s.width for s in sources]
        if len(sources) == 1:
            ref = sources[0].ref
        else:
            ref = build.buffer(sum(widths))
            for i, source in enumerate(sources):
                build.emit(Code.UNARY, Ref(ref.buffer, sum(widths[:i])), widths[i], a=source.ref, fn=int(Unary.COPY))
        starts = torch.tensor([sum(widths[:i]) for i in range(len(widths))])
        index = (starts[entries[:, 0]] + entries[:, 1]).to(torch.int32).numpy()
        build.emit(Code.GATHER, dst, len(index), k=sum(widths), a=ref, tensor=build.tensor(index))


def _view(source: Operand, start: int, shape: tuple[int, ...], time: int | None) -> Operand:
    return replace(source, ref=Ref(source.ref.buffer, source.ref.offset + start), shape=shape, time=time)


def _distinct(plan: Plan) -> tuple[Tensor, Tensor]:
    """Operand and position of all entries, each pair once, in the order in which they come first."""
    keys, first = np.unique((plan.operand * SHIFT + plan.position).numpy(), return_index=True)
    ordered = torch.from_numpy(keys[np.argsort(first)])
    return ordered // SHIFT, ordered % SHIFT


def _is_run(positions: Tensor) -> bool:
    return bool((positions == positions[0] + torch.arange(len(positions))).all())


def _runs(entries: Tensor) -> list[tuple[int, int, int, int]]:
    """(start, end, source, first position) of stretches that are copied as a whole."""
    follows = (entries[1:, 0] == entries[:-1, 0]) & (entries[1:, 1] == entries[:-1, 1] + 1)
    starts = [0, *((~follows).nonzero().flatten() + 1).tolist()]
    ends = [*starts[1:], len(entries)]
    return [(start, end, *entries[start].tolist()) for start, end in zip(starts, ends, strict=True)]
