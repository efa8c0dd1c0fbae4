"""The loop over a packed batch of sequences of several lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cells.base import AbstractCell, States
from .select import own_loops


def look_ahead_packed(cell: AbstractCell, projected: Tensor, batch_sizes: Tensor, reverse: bool) -> Tensor:
    """`cell.look_ahead` of every sequence alone, read from its own start (or end): beyond its end it sees zeros."""
    if not cell.steps_ahead:
        return projected
    place, _, steps, rows = _places(batch_sizes, reverse)
    ahead = cell.look_ahead(_padded(projected, place, steps, rows))
    return ahead.flatten(0, 1)[place]


def run_packed(
    cell: AbstractCell, projected: Tensor, batch_sizes: Tensor, states: States, reverse: bool
) -> tuple[Tensor, States]:
    """Outputs and final states of a packed batch; projections and outputs are (sum of lengths, n).

    `batch_sizes[t]` of them are at time t, the longest sequences first.

    Sequences are laid side by side, each from its own start (or end), and what was computed beyond their ends is left.
    """
    found, _ = own_loops(cell, projected, states)
    if found is None:
        return _plain_loop(cell, projected, batch_sizes.tolist(), states, reverse)
    place, last, steps, rows = _places(batch_sizes, reverse)
    (output, *stacks), _ = found.run("states", cell, _padded(projected, place, steps, rows), states)
    return output.flatten(0, 1)[place], tuple(stack.flatten(0, 1)[last] for stack in stacks)


def _places(batch_sizes: Tensor, reverse: bool) -> tuple[Tensor, Tensor, int, int]:
    """Where packed rows, and the last of each sequence, stand in (steps, rows) laid flat; and these two sizes."""
    time, row = (torch.arange(n) for n in (len(batch_sizes), int(batch_sizes[0])))
    lengths = (batch_sizes[:, None] > row).sum(0)
    there = time[:, None] < lengths
    place = (lengths - 1 - time[:, None] if reverse else time[:, None].expand_as(there)) * len(row) + row
    return place[there], (lengths - 1) * len(row) + row, len(time), len(row)


def _padded(projected: Tensor, place: Tensor, steps: int, rows: int) -> Tensor:
    """Sequences side by side, (steps, rows, n), zeros beyond their ends."""
    zeros = projected.new_zeros(steps * rows, projected.shape[-1])
    return zeros.index_copy(0, place.to(projected.device), projected).view(steps, rows, -1)


def _plain_loop(
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
