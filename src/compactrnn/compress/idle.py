"""The state of units without incoming weights over time."""

from __future__ import annotations

import copy
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from ..cells.base import AbstractCell, States
from ..weights.base import AbstractWeight
from ..weights.dense import DENSE


class ZeroWeight(AbstractWeight):
    """`W = 0`, without parameters."""

    def __init__(self, weight: AbstractWeight):
        super().__init__(DENSE, weight.out_features, weight.in_features, weight.gates)

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.out_features)

    def dense(self) -> Tensor:
        return torch.zeros(self.out_features, self.in_features)


class Idle(nn.Module):
    """The units that are cut out of a layer, run without weights from their first states.

    A unit whose incoming weights and biases are zero takes a course that depends on its first state alone: an LSTM's
    c halves at each step. It is zero if it starts from zero, unless `at_rest` is false.
    """

    def __init__(self, rows: list[list[AbstractCell]], removed: list[dict[str, Tensor]]):
        """`removed[layer][unit set]`; a set of which nothing is removed is run with one unit that is not read."""
        super().__init__()
        none = torch.zeros(1, dtype=torch.long)
        self.directions = len(rows[0])
        self.cells = nn.ModuleList()
        for row, sets in zip(rows, removed, strict=True):
            keep = {name: index if len(index) else none for name, index in sets.items()}
            self.cells.extend(_without_weights(copy.deepcopy(cell).select_(keep, none)) for cell in row)
        like = torch.zeros_like(next(rows[0][0].parameters()))
        self.at_rest = all(_is_zero(self._start(i, 1, like), cell) for i, cell in enumerate(self.cells))

    def _start(self, place: int, batch: int, like: Tensor) -> States:
        return self.cells[place].initial_states(batch, like)  # pyright: ignore

    def run(
        self, place: int, start: States | None, steps: int, batch: int, like: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, States]:
        """Outputs (steps, batch, n) and last states of the cell at `place` (by layer, then direction)."""
        cell: Any = self.cells[place]
        backward = place % self.directions == 1
        projected = cell.look_ahead(cell.project(like.new_zeros(batch, 1))[None])[0]
        ys, states = [], [self._start(place, batch, like) if start is None else start]
        for _ in range(steps):
            y, new = cell.step(projected, states[-1])
            ys.append(y)
            states.append(new)
        outputs = torch.stack(ys)
        if lengths is None:
            return (outputs.flip(0) if backward else outputs), states[-1]
        last = tuple(
            torch.stack(kind)[lengths, torch.arange(batch, device=like.device)] for kind in zip(*states, strict=True)
        )
        if backward:
            time = (lengths - 1 - torch.arange(steps, device=like.device)[:, None]).clamp_min(0)
            outputs = outputs.gather(0, time[..., None].expand_as(outputs))
        return outputs, last


def _without_weights(cell: AbstractCell) -> AbstractCell:
    for name in cell.weight_names():
        part = getattr(cell, name)
        if isinstance(part, AbstractWeight):
            setattr(cell, name, ZeroWeight(part))
        else:
            delattr(cell, name)
            cell.register_buffer(name, torch.zeros_like(part), persistent=False)
    return cell


def _is_zero(start: States, cell: Any) -> bool:
    y, after = cell.step(cell.look_ahead(cell.project(start[0].new_zeros(1, 1, 1)))[0], start)
    own = [s.units is not None for s in cell.states]
    return not any(bool(tensor.any()) for tensor in (y, *compress(start, own), *compress(after, own)))
