"""A cell's own `step`, exported with the batch in the place of time, so that what is per row is per step."""

from __future__ import annotations

import itertools
import weakref

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..graph.trace import Trace, export, read_export
from ..weights.base import AbstractWeight
from .builder import Builder, Value
from .visitor import Visitor

_WEIGHTS: weakref.WeakValueDictionary[int, AbstractWeight] = weakref.WeakValueDictionary()
_keys = itertools.count()


@torch.library.custom_op("compactrnn::weight", mutates_args=())
def _weight(key: int, x: Tensor) -> Tensor:
    return x @ _WEIGHTS[key].dense().detach().T


@_weight.register_fake
def _(key: int, x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], _WEIGHTS[key].out_features)


class _Product(nn.Module):
    """Stands for a weight in an exported step."""

    def __init__(self, weight: AbstractWeight):
        super().__init__()
        self.key = next(_keys)
        _WEIGHTS[self.key] = weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.compactrnn.weight(self.key, x)


class _Step(nn.Module):
    def __init__(self, cell: AbstractCell):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, after = self.cell.step(self.cell.project(x), states)
        return (y, *after)


def lower_step(builder: Builder, cell: AbstractCell, x: Value, states: list[Value]) -> list[Value]:
    """Operations of one step: from the input and state rows to the output and new state rows."""
    weights = {name: child for name, child in cell.named_children() if isinstance(child, AbstractWeight)}
    try:
        for name, weight in weights.items():
            cell._modules[name] = _Product(weight)
        runs = [_export(cell, x, states, n) for n in (x.shape[0], x.shape[0] + 1)]
    finally:
        for name, weight in weights.items():
            cell._modules[name] = weight
    visitor = Visitor(builder, *runs, weights={k: _WEIGHTS[k] for k in _WEIGHTS})
    return visitor.lower([x, *states])


def _export(cell: AbstractCell, x: Value, states: list[Value], steps: int) -> tuple[Trace, tuple[Tensor, ...]]:
    like = next(cell.parameters(), torch.zeros(()))
    arguments = tuple(torch.zeros(steps, v.width, dtype=like.dtype) for v in (x, *states))
    try:
        program = export(_Step(cell), arguments)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(f"{type(cell).__name__}.step: torch.export cannot follow it ({reason})") from error
    return read_export(program, {}, cell), arguments
