"""The plain loop over time, for any cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cells.base import AbstractCell
from .sequence import States, Steps


def scan_layer(row: Sequence[AbstractCell], steps: Steps, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """`scan` in every direction of a layer; states, before and after, are (directions, batch, size) per kind."""
    outputs, after = [], []
    for d, cell in enumerate(row):
        output, last = scan(cell, steps, tuple(s[d] for s in states), reverse=d == 1)
        outputs.append(output)
        after.append(last)
    return torch.cat(outputs, -1), [torch.stack(kind) for kind in zip(*after, strict=True)]


def scan(cell: AbstractCell, steps: Steps, states: States, reverse: bool = False) -> tuple[Tensor, States]:
    """Outputs, in the form of `steps.data`, and last states of one cell; the input product is hoisted out of the loop.

    In a packed batch sequences are sorted by length: `batch_sizes[t]` of them still run at time t. A sequence that is
    over keeps its states; read backwards, it joins late.
    """
    if cell.training and torch.is_grad_enabled():
        cell.constrain_()
    projected = cell.project(steps.data)
    if steps.batch_sizes is None:
        pieces, counts = list(projected.unbind(0)), [steps.batch] * len(projected)
    else:
        counts = steps.batch_sizes.tolist()
        pieces = list(projected.split(counts))
    outputs: list[Tensor] = []
    finished: list[States] = []
    waiting = states
    running = tuple(s[:0] for s in states) if reverse else states
    for t in reversed(range(len(pieces))) if reverse else range(len(pieces)):
        n, now = counts[t], len(running[0])
        if n > now:
            running = tuple(torch.cat([r, w[now:n]]) for r, w in zip(running, waiting, strict=True))
        elif n < now:
            finished.append(tuple(s[n:] for s in running))
            running = tuple(s[:n] for s in running)
        y, running = cell.step(pieces[t], running)
        outputs.append(y)
    if reverse:
        outputs.reverse()
    joined = torch.stack(outputs) if steps.batch_sizes is None else torch.cat(outputs)
    return joined, tuple(torch.cat(parts) for parts in zip(running, *reversed(finished), strict=True))
