"""The loop that defines what a cell does over a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cells.base import AbstractCell

States = tuple[Tensor, ...]


def plain_loop(cell: AbstractCell, projected: Tensor, states: States) -> tuple[Tensor, States]:
    """`step` after `step`: outputs (time, batch, n) and last states, from projections (time, batch, n)."""
    outputs = []
    for piece in projected.unbind(0):
        y, states = cell.step(piece, states)
        outputs.append(y)
    return torch.stack(outputs), states


def packed_loop(
    cell: AbstractCell, projected: Tensor, counts: list[int], states: States, reverse: bool
) -> tuple[Tensor, States]:
    """The plain loop over a packed batch.

    Sequences are sorted by length: `counts[t]` of them still run at time t. A sequence that is over keeps its states;
    read backwards, it joins late.
    """
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
    return torch.cat(outputs), tuple(torch.cat(parts) for parts in zip(running, *reversed(finished), strict=True))
