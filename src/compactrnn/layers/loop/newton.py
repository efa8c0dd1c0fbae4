"""Nonlinear steps of units that see themselves alone, at all times at once: Newton's method around a linear scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._ordinary import why_not_ordinary
from ..block_recurrence import block_scan
from ..linear_recurrence import linear_scan
from .gradient import differentiate
from .native import recomputed
from .read_step import Step
from .values import Value, evaluate, ordered

LIMIT = 128  # iterations
WINDOW = 1 << 15  # numbers that a processor's cache holds, with all that an iteration makes of them
LONGEST, SHORTEST = 512, 256  # steps of a window on a processor, and where it is not made shorter any more
ROUNDING = 16  # of how many roundings of its terms a state may miss its own step


class NewtonLoop:
    """All states of `h_t = f(h_{t-1}, x_t)` where unit i of the next states depends on unit i of the states alone.

    From a guess of all states at once, with J_t = df/dh at the guess of h_{t-1}, which is diagonal,

        r_t = f(h_{t-1}, x_t) - h_t,    d_t = J_t d_{t-1} + r_t,    h <- h + d

    until every |r_t| is rounding: `ROUNDING` units in the last place of the terms that h_t is the sum of. That is as
    near as a loop in the same arithmetic comes; otherwise, after `LIMIT` iterations or at the first number that is not
    finite, there is no result. The gradient is one scan back in time with the same J; several states of a unit have a
    small matrix for J.

    Source: Lim, Zhu, Selfridge, Kasim, "Parallelizing non-linear sequential models over the sequence length", 2024;
    Danieli et al., "ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models", 2025.
    """

    def __init__(self, step: Step):
        self.step = step
        one = step.graph.number(1)
        slopes = [differentiate(step.graph, [(v, one)], step.projected, step.states).states for v in step.after]
        self.values = [*step.after, *(v for row in slopes for v in row)]
        self.others = {v: n for v, n in zip(step.outputs, step.widths, strict=True) if v not in step.after}

    @classmethod
    def of(cls, step: Step) -> NewtonLoop | None:
        """None if a unit sees others."""
        return cls(step) if is_elementwise(step) else None

    def run(
        self, projected: Tensor, states: tuple[Tensor, ...], vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]] | None:
        """Outputs (time, batch, n) and last states; None where the iteration has not converged."""
        with torch.no_grad():
            found = self.solve(projected, states, vectors, matrices)
        if found is None:
            return None
        history, slopes, _ = found
        results = _Newton.apply(self, history, slopes, projected, *states, *vectors, *matrices)
        count = len(self.step.outputs)
        return list(results[:count]), tuple(results[count:])  # pyright: ignore

    def solve(
        self, projected: Tensor, states: tuple[Tensor, ...], vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[Tensor, Tensor, int] | None:
        """States before and after every step, (k, time + 1, batch, n), J, (k, k, time, batch, n), and iterations.

        These are of the window of time that took the most of them. The longer a window, the more it takes where units
        switch on and off, as with relu; so one that fails is cut in half. A GPU begins with one window.
        """
        start = torch.stack(states)
        history = torch.cat([start[:, None], start.new_zeros(len(start), len(projected), *start.shape[1:])], 1)
        slopes, most = start.new_empty(len(start), len(start), len(projected), *start.shape[1:]), 0
        length = min(max(1, WINDOW // start.numel()), LONGEST) if projected.device.type == "cpu" else len(projected)
        first = 0
        while first < len(projected):
            given = projected[first : first + length]
            window = history[:, first : first + len(given) + 1]
            found = self._solve_window(given, window, vectors, matrices)
            if found is not None:
                slopes[:, :, first : first + length] = found[0]
                most, first = max(most, found[1]), first + length
            elif len(given) > SHORTEST:
                window[:, 1:] = 0
                length = len(given) // 2
            else:
                return None
        return history, slopes, most

    def _solve_window(
        self, projected: Tensor, history: Tensor, vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[Tensor, int] | None:
        """J and the number of iterations; `history` has the states before, a guess of all others, and becomes these."""
        before, now = history[:, :-1], history[:, 1:]
        resolution, start = torch.finfo(history.dtype), torch.zeros_like(history[:, 0])
        for iteration in range(LIMIT + 1):
            after, slopes = self._linearized(projected, before, vectors, matrices)
            size = after.abs() + (slopes * before).abs().sum(1) + resolution.tiny / resolution.eps
            off = after.sub_(now)
            worst = float((off.abs() / size).max()) / resolution.eps
            if worst <= ROUNDING:
                return slopes, iteration
            if not worst < float("inf"):
                break
            now += _scan(slopes, off, start)
        return None

    def _linearized(
        self, projected: Tensor, before: Tensor, vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """f and J at all times."""
        known = self.known(projected, before, vectors)
        found = [v.expand(before.shape[1:]) for v in evaluate(self.values, known, projected, matrices)]
        count = len(before)
        return torch.stack(found[:count]), torch.stack(found[count:]).unflatten(0, (count, count))

    def known(self, projected: Tensor, before: Any, vectors: list[Tensor]) -> dict[Value, Tensor]:
        """The inputs of the step at all times."""
        step = self.step
        pairs = [*zip(step.states, before, strict=True), *zip(step.vectors, vectors, strict=True)]
        return {step.projected: projected, **dict(pairs)}


class _Newton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loop: NewtonLoop, history: Tensor, slopes: Tensor, projected: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        step, count = loop.step, len(loop.step.states)
        vectors, matrices = list(rest[count : count + len(step.vectors)]), list(rest[count + len(step.vectors) :])
        ctx.loop = loop
        ctx.save_for_backward(history, slopes, projected, *rest)
        ctx.set_materialize_grads(False)
        known = loop.known(projected, history[:, :-1], vectors) | dict(zip(step.after, history[:, 1:], strict=True))
        outputs = evaluate(step.outputs, known, projected, matrices)
        shaped = [y.expand(*projected.shape[:2], n) for y, n in zip(outputs, step.widths, strict=True)]
        return *(y.clone() for y in shaped), *(h.clone() for h in history[:, -1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        loop: NewtonLoop = ctx.loop
        step, count = loop.step, len(loop.step.states)
        history, slopes, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or why_not_ordinary(g for g in grads if g is not None):
            return None, None, None, *recomputed(step, inputs, needed, grads)
        with torch.enable_grad():
            given = [t.detach().requires_grad_(need) for t, need in zip(inputs, needed, strict=True)]
            before = list(history[:, :-1].detach().requires_grad_(bool(loop.others)).unbind(0))
            rest = given[1 + count :]
            known = loop.known(given[0], before, rest[: len(step.vectors)])
            values = evaluate([*step.after, *loop.others], known, given[0], rest[len(step.vectors) :])
            widths = [*(s.width for s in step.states), *loop.others.values()]
            values = [v.expand(*given[0].shape[:2], n) for v, n in zip(values, widths, strict=True)]
        # what reaches the states at each time: from outputs, from the end
        total = torch.zeros_like(history[:, 1:])
        ends = dict(zip(step.after, total, strict=True))
        above = dict(zip(step.outputs, grads, strict=False))
        for value, grad in above.items():
            if grad is not None and value in ends:
                ends[value] += grad
        for end, grad in zip(total, grads[len(step.outputs) :], strict=True):
            if grad is not None:
                end[-1] += grad
        first = torch.zeros_like(history[:, 0])
        pairs = [(y, g) for v, y in zip(loop.others, values[count:], strict=True) if (g := above[v]) is not None]
        if pairs and any(y.requires_grad for y, _ in pairs):
            found = _gradients(pairs, before)
            for i, grad in enumerate(found):
                if grad is not None:
                    first[i] += grad[0]
                    total[i, :-1] += grad[1:]
        later = torch.cat([slopes[:, :, 1:], torch.zeros_like(slopes[:, :, :1])], 2).transpose(0, 1)
        total = _scan(later, total, torch.zeros_like(first), reverse=True)
        first += (slopes[:, :, 0] * total[:, None, 0]).sum(0)
        wanted = [t for i, t in enumerate(given) if needed[i] and not 1 <= i <= count]
        found = iter(_gradients([*zip(values[:count], total, strict=True), *pairs], wanted))
        return (
            None,
            None,
            None,
            *((first[i - 1] if 1 <= i <= count else next(found)) if need else None for i, need in enumerate(needed)),
        )


def _gradients(pairs: list[tuple[Tensor, Tensor]], wanted: list[Tensor]) -> list[Tensor | None]:
    pairs = [(y, g) for y, g in pairs if y.requires_grad]
    if not pairs or not wanted:
        return [None] * len(wanted)
    ys, gs = zip(*pairs, strict=True)
    return list(torch.autograd.grad(ys, wanted, gs, retain_graph=True, allow_unused=True))


def _scan(slopes: Tensor, x: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    if len(x) == 1:
        return linear_scan(slopes[0, 0], x[0], initial[0], reverse=reverse)[None]
    return block_scan(slopes, x, initial, reverse=reverse)


def is_elementwise(step: Step) -> bool:
    """Whether unit i of the states after a step depends on unit i of those before alone, as the graph shows."""
    if step.lines or step.exact or len({s.width for s in step.states}) != 1:
        return False
    units = {s: np.arange(s.width) for s in step.states}  # which unit each column depends on, -1 for none
    for value in ordered(step.after):
        if not any(a in units for a in value.args):
            continue
        parts = [units.get(a, np.full(a.width or value.width, -1)) for a in value.args]
        if value.op == "slice":
            units[value] = parts[0][value.key : value.key + value.width]  # pyright: ignore
        elif value.op == "cat":
            units[value] = np.concatenate(parts)
        elif value.op in ("linear", "quantized", "total", "spread"):
            return False
        else:
            most = np.max(parts, axis=0)
            if any(((p >= 0) & (p != most)).any() for p in parts):
                return False
            units[value] = most
    whole = np.arange(step.states[0].width)
    return all(((units[v] < 0) | (units[v] == whole)).all() for v in step.after if v in units)
