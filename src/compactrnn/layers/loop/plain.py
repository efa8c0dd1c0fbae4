"""The reference loop over time in Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...cells.base import AbstractCell, States
from ...cells.rotations import one_sequence

StepFunction = Callable[[Tensor, States], tuple[Tensor, States]]
Watch = Callable[[AbstractCell], StepFunction]
_watches: list[Watch] = []


def plain_loop(cell: AbstractCell, projected: Tensor, states: States) -> tuple[Tensor, States]:
    """Call `step` for each time step: outputs (time, batch, n) and final states, from projections (time, batch, n)."""
    outputs, step = [], _watches[-1](cell) if _watches else cell.step
    with one_sequence():
        for piece in projected.unbind(0):
            y, states = step(piece, states)
            outputs.append(y)
    return torch.stack(outputs), states


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """While it lasts, the plain loop over a sequence calls `watch(cell)`, and what this gives in place of `cell.step`.

    Packed sequences are not watched.
    """
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.pop()
