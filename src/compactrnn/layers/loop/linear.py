"""Linear steps as scans over all time steps at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..block_recurrence import block_scan
from ..linear_recurrence import linear_scan
from .native import NativeLoop
from .read_step import Step
from .values import Graph, Value, evaluate, ordered

NARROW, WIDE = 1024, 128  # numbers in a step; see `LinearLoop.pays`


class LinearLoop:
    """Stages of states, each with `h' = A h + b`: A and b of all times, then a scan; the output at last.

    A and b follow from the input and from the states of earlier stages, which are then known at all times. A is
    diagonal but for states that enter each other's next values, unit by unit, as the two parts of a complex number do:
    these make a k x k matrix for every unit.
    """

    def __init__(self, step: Step, stages: list[_Stage]):
        self.step, self.stages = step, stages
        given = [s for stage in stages for s in stage.given]
        read = _depending_on(given, [v for stage in stages for v in stage.moving])
        self.multiplies = any(v.op == "linear" for v in read)  # states of earlier stages

    @classmethod
    def of(cls, step: Step) -> LinearLoop | None:
        """None if a state enters otherwise."""
        if step.lines:
            return None
        stages, known = [], []
        while len(known) < len(step.states):
            forms = _linear_states(step, known)
            groups = _groups(step, forms) if forms else None
            if groups is None:
                return None
            before, known = known, sorted([*known, *forms])
            beside = _beside_states(step, before) if len(known) == len(step.states) else []
            stages.append(_Stage(step, forms, groups, before, beside))
        return cls(step, stages)

    def pays(self, rows: int, width: int) -> bool:
        """Whether it is faster than step after step over a thousand steps, as measured.

        One stage saves the calls of narrow steps. Several are read and written more often, and gain only where
        products of one row, for which a matrix is read at every step, become one product for all times.
        """
        if len(self.stages) == 1:
            return rows * width <= NARROW
        return self.multiplies and rows == 1 and width >= WIDE

    def run(
        self, projected: Tensor, states: tuple[Tensor, ...], vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Outputs (time, batch, n) and last states."""
        step = self.step
        known = {step.projected: projected, **dict(zip(step.vectors, vectors, strict=True))}
        after: dict[int, Tensor] = {}
        for stage in self.stages:
            known |= stage.values(known, projected, vectors, matrices)
            for i, x in stage.scan(known, states, projected.shape[:2]).items():
                after[i] = known[step.after[i]] = x
                if len(after) < len(states) or any(v not in step.after for v in step.outputs):
                    known[step.states[i]] = torch.cat([states[i][None], x[:-1]])
        outputs = evaluate(step.outputs, known, projected, matrices)
        return outputs, tuple(after[i][-1] for i in range(len(states)))


class _Stage:
    """States by number whose next values are linear in themselves: `forms`, their factors, and a last term.

    `before` are the states that are known by then; `beside` are other values that are wanted at all times.
    """

    def __init__(
        self,
        step: Step,
        forms: dict[int, list[Value]],
        groups: list[list[int]],
        before: list[int],
        beside: list[Value],
    ):
        self.forms, self.groups = forms, groups
        self.given = [step.states[i] for i in before]
        used = [v for g in groups for i in g for v in (*(forms[i][j] for j in g), forms[i][-1])]
        values = dict.fromkeys([*used, *beside])
        varying = _depending_on([step.projected, *self.given], values)
        self.fixed = [v for v in values if v not in varying]
        self.moving = [v for v in values if v in varying]
        widths = [v.width for v in self.moving]
        whole = replace(step, states=self.given, after=self.given, outputs=self.moving, widths=widths)
        self.before = NativeLoop(whole) if self.moving else None

    def values(
        self, known: dict[Value, Tensor], projected: Tensor, vectors: list[Tensor], matrices: list[Tensor]
    ) -> dict[Value, Tensor]:
        """Factors, terms and what is wanted beside, at all times: the times are rows of one native step."""
        found = dict(zip(self.fixed, evaluate(self.fixed, known, projected, matrices), strict=True))
        if self.before is not None:
            given = tuple(known[s].flatten(0, 1) for s in self.given)
            moving, _ = self.before.run(projected.flatten(0, 1)[None], given, vectors, matrices)
            found |= {v: x.view(*projected.shape[:2], -1) for v, x in zip(self.moving, moving, strict=True)}
        return found

    def scan(self, found: dict[Value, Tensor], states: tuple[Tensor, ...], shape: torch.Size) -> dict[int, Tensor]:
        """The states of this stage at all times, by number."""
        after: dict[int, Tensor] = {}
        for group in self.groups:
            after |= zip(group, self._scan(group, found, states, shape), strict=True)
        return after

    def _scan(
        self, group: list[int], found: dict[Value, Tensor], states: tuple[Tensor, ...], shape: torch.Size
    ) -> Sequence[Tensor]:
        factors = [[self.forms[i][j] for j in group] for i in group]
        width = states[group[0]].shape[-1]
        moving = any(v in self.moving for row in factors for v in row)
        sizes = (*shape, width) if moving else (width,)
        decay = [[found[v].expand(sizes) for v in row] for row in factors]
        x = [found[self.forms[i][-1]].expand(*shape, width) for i in group]
        if len(group) == 1:
            return [linear_scan(decay[0][0], x[0], states[group[0]])]
        stacked = torch.stack([torch.stack(row) for row in decay])
        return block_scan(stacked, torch.stack(x), torch.stack([states[i] for i in group])).unbind(0)


def _linear_states(step: Step, known: Sequence[int]) -> dict[int, list[Value]]:
    """The forms, by number, of the states that are linear in each other and depend on no others but `known` ones."""
    rest = [i for i in range(len(step.states)) if i not in known]
    bound = _depending_on([step.states[i] for i in rest], step.after)
    found = {i: _linear_form(step.graph, step.after[i], step.states, bound) for i in rest}
    forms = {i: form for i, form in found.items() if form is not None}
    zero, before = step.graph.number(0), -1
    while len(forms) != before:
        before = len(forms)
        forms = {i: f for i, f in forms.items() if all(v is zero or j in forms for j, v in enumerate(f[:-1]))}
    return forms


def _groups(step: Step, forms: dict[int, list[Value]]) -> list[list[int]] | None:
    """The states of a stage in groups that enter each other's next values; None if their widths differ."""
    zero, groups = step.graph.number(0), [[i] for i in forms]
    for i, form in forms.items():
        for j, factor in enumerate(form[:-1]):
            if factor is not zero and (a := _group(groups, i)) is not (b := _group(groups, j)):
                if step.states[i].width != step.states[j].width:
                    return None
                groups = [g for g in groups if g is not a and g is not b] + [sorted(a + b)]
    return groups


def _group(groups: list[list[int]], number: int) -> list[int]:
    return next(g for g in groups if number in g)


def _beside_states(step: Step, known: Sequence[int]) -> list[Value]:
    """What the outputs are made of that depends on `known` states and the input alone, such as an output gate."""
    bound = _depending_on([s for i, s in enumerate(step.states) if i not in known], [*step.outputs, *step.after])
    users = [v for v in ordered(step.outputs, lambda v: v in step.after) if v in bound and v not in step.after]
    return [a for v in users for a in v.args if a not in bound and a.args and a.op not in ("slice", "cat", "copy")]


def _depending_on(states: Sequence[Value], roots: Iterable[Value]) -> set[Value]:
    bound = set(states)
    for value in ordered(roots):
        if any(a in bound for a in value.args):
            bound.add(value)
    return bound


def _linear_form(graph: Graph, value: Value, states: Sequence[Value], bound: set[Value]) -> list[Value] | None:
    """Factors of the states and a last term, none of them `bound`, of which `value` is made; None where it is not."""
    one, zero = graph.number(1), graph.number(0)
    if value not in bound:
        return [zero] * len(states) + [value]
    if value in states:
        return [*(one if value is s else zero for s in states), zero]
    forms = [_linear_form(graph, a, states, bound) for a in value.args]
    if not forms or any(form is None for form in forms):
        return None
    if value.op in ("add", "sub", "neg", "copy"):
        return [graph.apply(value.op, *parts) for parts in zip(*forms, strict=True)]  # pyright: ignore
    factors = [i for i, a in enumerate(value.args) if a not in bound]
    if value.op not in ("mul", "div") or len(factors) != 1 or (value.op == "div" and factors[0] == 0):
        return None
    factor, parts = value.args[factors[0]], forms[1 - factors[0]]
    return [p if p is zero else graph.apply(value.op, p, factor) for p in parts]  # pyright: ignore
