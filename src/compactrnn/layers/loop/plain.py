"""The reference loop over time in Python."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cells.base import AbstractCell, States
from ...cells.rotations import one_sequence


def plain_loop(cell: AbstractCell, projected: Tensor, states: States) -> tuple[Tensor, States]:
    """Call `step` for each time step: outputs (time, batch, n) and final states, from projections (time, batch, n)."""
    outputs = []
    with one_sequence():
        for piece in projected.unbind(0):
            y, states = cell.step(piece, states)
            outputs.append(y)
    return torch.stack(outputs), states
