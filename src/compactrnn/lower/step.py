"""A cell's own `step`, exported with the batch in the place of time, so that what is per row is per step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..graph.trace import Trace, export, read_export
from ..weights.base import AbstractWeight
from ..weights.stand_in import with_products
from .builder import Builder, Value
from .visitor import Visitor


class _Step(nn.Module):
    def __init__(self, cell: AbstractCell):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, after = self.cell.step(self.cell.project(x), states)
        return (y, *after)


def lower_step(
    builder: Builder, cell: AbstractCell, x: Value, states: list[Value], name: Callable[[str], str]
) -> list[Value]:
    """Operations of one step: from the input and state rows to the output and new state rows.

    `name` gives the name in the model of a part of the cell.
    """

    def rename(path: str) -> str:
        _, part, *rest = path.split(".")
        weight = getattr(cell, part, None)
        if isinstance(weight, AbstractWeight) and len(weight.factors()) == 1:
            rest = []
        return ".".join([name(part), *rest])

    small, large = (_export(cell, x, states, n) for n in (x.shape[0], x.shape[0] + 1))
    return Visitor(builder, small, large, rename).lower([x, *states])


def _export(cell: AbstractCell, x: Value, states: list[Value], steps: int) -> tuple[Trace, tuple[Tensor, ...]]:
    like = next(cell.parameters(), torch.zeros(()))
    arguments = tuple(torch.zeros(steps, v.width, dtype=like.dtype) for v in (x, *states))
    try:
        program = export(_Step(with_products(cell)), arguments)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(f"{type(cell).__name__}.step: torch.export cannot follow it ({reason})") from error
    return read_export(program, {}, cell), arguments
