"""The loop that defines what a cell does over a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cells.base import AbstractCell, States


def plain_loop(cell: AbstractCell, projected: Tensor, states: States) -> tuple[Tensor, States]:
    """`step` after `step`: outputs (time, batch, n) and last states, from projections (time, batch, n)."""
    outputs = []
    for piece in projected.unbind(0):
        y, states = cell.step(piece, states)
        outputs.append(y)
    return torch.stack(outputs), states
