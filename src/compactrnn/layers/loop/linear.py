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


class LinearLoop:
    """`h' = A h + b`: A and b of all times, which no state enters, then a scan, then the output.

    A is diagonal but for states that enter each other's next values, unit by unit, as the two parts of a complex number
    do: these make a k x k matrix for every unit.
    """

    def __init__(self, step: Step, forms: list[list[Value]], groups: list[list[int]]):
        self.step, self.forms, self.groups = step, forms, groups
        values = {v: None for i, form in enumerate(forms) for v in (*(form[j] for j in _group(groups, i)), form[-1])}
        varying = _depending_on([step.projected], values)
        self.fixed = [v for v in values if v not in varying]
        self.moving = [v for v in values if v in varying]
        widths = [v.width for v in self.moving]
        before = replace(step, states=[], after=[], outputs=self.moving, widths=widths)
        self.before = NativeLoop(before) if self.moving else None

    @classmethod
    def of(cls, step: Step) -> LinearLoop | None:
        """None if a state enters otherwise."""
        if step.lines:
            return None
        bound = _depending_on(step.states, step.after)
        forms = [_linear_form(step.graph, value, step.states, bound) for value in step.after]
        if any(form is None for form in forms):
            return None
        zero, groups = step.graph.number(0), [[i] for i in range(len(forms))]
        for i, form in enumerate(forms):
            for j, factor in enumerate(form[:-1]):  # pyright: ignore
                if factor is not zero and (a := _group(groups, i)) is not (b := _group(groups, j)):
                    if step.states[i].width != step.states[j].width:
                        return None
                    groups = [g for g in groups if g is not a and g is not b] + [sorted(a + b)]
        return cls(step, forms, groups)  # pyright: ignore

    def run(
        self, projected: Tensor, states: tuple[Tensor, ...], vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Outputs (time, batch, n) and last states."""
        step, shape = self.step, projected.shape[:2]
        known = {step.projected: projected, **dict(zip(step.vectors, vectors, strict=True))}
        found = dict(zip(self.fixed, evaluate(self.fixed, known, projected, matrices), strict=True))
        if self.before is not None:
            before, _ = self.before.run(projected.flatten(0, 1)[None], (), vectors, matrices)
            found |= {v: x.view(*shape, -1) for v, x in zip(self.moving, before, strict=True)}
        after: dict[int, Tensor] = {}
        for group in self.groups:
            after |= zip(group, self._scan(group, found, states, shape), strict=True)
        for i, state in enumerate(step.states):
            known[step.after[i]] = after[i]
            if any(v not in step.after for v in step.outputs):
                known[state] = torch.cat([states[i][None], after[i][:-1]])
        outputs = evaluate(step.outputs, known, projected, matrices)
        return outputs, tuple(after[i][-1] for i in range(len(states)))

    def _scan(
        self, group: list[int], found: dict[Value, Tensor], states: tuple[Tensor, ...], shape: torch.Size
    ) -> Sequence[Tensor]:
        """The states of `group` at all times."""
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


def _group(groups: list[list[int]], number: int) -> list[int]:
    return next(g for g in groups if number in g)


def _depending_on(states: Sequence[Value], roots: Iterable[Value]) -> set[Value]:
    bound = set(states)
    for value in ordered(roots):
        if any(a in bound for a in value.args):
            bound.add(value)
    return bound


def _linear_form(graph: Graph, value: Value, states: Sequence[Value], bound: set[Value]) -> list[Value] | None:
    """Factors of the states, and a last term, all free of states, of which `value` is made; None if there are none."""
    one, zero = graph.number(1), graph.number(0)
    if value in states:
        return [*(one if value is s else zero for s in states), zero]
    if value not in bound:
        return [zero] * len(states) + [value]
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
