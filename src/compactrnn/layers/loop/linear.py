"""Linear steps as scans over all time steps at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..linear_recurrence import linear_scan
from .native import NativeLoop
from .trace_step import Step
from .values import Graph, Value, evaluate, ordered


class LinearLoop:
    """`h' = a * h + b` for each state: a and b of all times, which no state enters, then a scan, then the output."""

    def __init__(self, step: Step, forms: list[tuple[Value, Value]]):
        self.step = step
        self.widths = [s.width for s in step.states for _ in range(2)]
        values = [v for form in forms for v in form]
        self.before = NativeLoop(replace(step, states=[], after=[], outputs=values, widths=self.widths))

    @classmethod
    def of(cls, step: Step) -> LinearLoop | None:
        """None if a state enters otherwise, or another state does."""
        if step.lines:
            return None
        bound = _depending_on(step.states, step.after)
        forms = [_linear_form(step.graph, v, s, bound) for v, s in zip(step.after, step.states, strict=True)]
        return None if None in forms else cls(step, forms)  # pyright: ignore

    def run(
        self, projected: Tensor, states: tuple[Tensor, ...], vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Outputs (time, batch, n) and last states."""
        step, shape = self.step, projected.shape[:2]
        before, _ = self.before.run(projected.flatten(0, 1)[None], (), vectors, matrices)
        before = [v.view(*shape, -1) for v in before]
        known = {step.projected: projected, **dict(zip(step.vectors, vectors, strict=True))}
        for i, (state, after) in enumerate(zip(step.states, step.after, strict=True)):
            known[after] = linear_scan(before[2 * i], before[2 * i + 1], states[i])
            if any(v not in step.after for v in step.outputs):
                known[state] = torch.cat([states[i][None], known[after][:-1]])
        outputs = evaluate(step.outputs, known, projected, matrices)
        return outputs, tuple(known[after][-1] for after in step.after)


def _depending_on(states: Sequence[Value], roots: Iterable[Value]) -> set[Value]:
    bound = set(states)
    for value in ordered(roots):
        if any(a in bound for a in value.args):
            bound.add(value)
    return bound


def _linear_form(graph: Graph, value: Value, state: Value, bound: set[Value]) -> tuple[Value, Value] | None:
    """(a, b) with `value = a * state + b`, both of them free of states; None if there are none."""
    if value is state:
        return graph.number(1), graph.number(0)
    if value not in bound:
        return graph.number(0), value
    forms = [_linear_form(graph, a, state, bound) for a in value.args]
    if not forms or None in forms:
        return None
    if value.op in ("add", "sub", "neg", "copy"):
        return tuple(graph.apply(value.op, *(f[i] for f in forms)) for i in (0, 1))  # pyright: ignore
    factors = [i for i, a in enumerate(value.args) if a not in bound]
    if value.op not in ("mul", "div") or len(factors) != 1 or (value.op == "div" and factors[0] == 0):
        return None
    factor, parts = value.args[factors[0]], forms[1 - factors[0]]
    return tuple(p if p is graph.number(0) else graph.apply(value.op, p, factor) for p in parts)  # pyright: ignore
