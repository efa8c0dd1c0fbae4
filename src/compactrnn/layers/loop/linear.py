"""Steps that are linear in their state, unit by unit: all times at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cells.base import AbstractCell
from ..linear_scan import linear_scan
from .trace import Step
from .values import Graph, Value, evaluate, ordered


class LinearLoop:
    """`h' = a * h + b` for each state of the step, where a and b come from the input alone."""

    def __init__(self, step: Step, forms: list[tuple[Value, Value]]):
        self.step, self.forms = step, forms

    @classmethod
    def of(cls, step: Step) -> LinearLoop | None:
        """None if a state enters otherwise, or another state does."""
        free = {v for v in ordered([step.output, *step.after]) if not _holds_state(v)}
        forms = [_linear_form(step.graph, v, s, free) for v, s in zip(step.after, step.states, strict=True)]
        return None if None in forms else cls(step, forms)  # pyright: ignore

    def run(
        self, cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (time, batch, n) and last states."""
        step = self.step
        vectors, matrices = step.prepare(cell)
        known = {step.projected: projected, **dict(zip(step.vectors, vectors, strict=True))}
        read = step.output not in step.after
        for form, state, after, initial in zip(self.forms, step.states, step.after, states, strict=True):
            decay, x = (evaluate(v, known, projected, matrices) for v in form)
            if x.dim() < 3:
                x = x.expand(*projected.shape[:2], state.width)
            if decay.dim() == 0:
                decay = decay.expand(state.width)
            known[after] = linear_scan(decay, x, initial)
            if read:
                known[state] = torch.cat([initial[None], known[after][:-1]])
        output = evaluate(step.output, known, projected, matrices)
        return output, tuple(known[after][-1] for after in step.after)


def _holds_state(value: Value) -> bool:
    return any(v.op == "state" for v in ordered([value]))


def _linear_form(graph: Graph, value: Value, state: Value, free: set[Value]) -> tuple[Value, Value] | None:
    """(a, b) with `value = a * state + b`, both of them free of states; None if there are none."""
    one, zero = graph.number(1), graph.number(0)
    if value is state:
        return one, zero
    if value in free:
        return zero, value
    forms = [_linear_form(graph, a, state, free) for a in value.args]
    if None in forms:
        return None
    if value.op in ("add", "sub", "neg", "copy"):
        a, b = tuple(graph.apply(value.op, *(f[i] for f in forms)) for i in (0, 1))  # pyright: ignore
        return a, b
    if value.op in ("mul", "div"):
        left, right = value.args
        if right in free:
            scaled, factor = forms[0], right
        elif left in free and value.op == "mul":
            scaled, factor = forms[1], left
        else:
            return None
        return tuple(graph.apply(value.op, part, factor) for part in scaled)  # pyright: ignore
    return None
