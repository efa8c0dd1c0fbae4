"""A cell's own `step`, exported with the batch in the place of time, so that what is per row is per step."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import is_dataclass, replace

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..emit.builder import Builder, Operand
from ..graph.refusals import not_exported
from ..graph.trace import Trace, export, read_export
from ..weights.base import AbstractWeight
from .decompose import decompositions
from .factors import with_factors
from .visitor import Visitor

_OWN = frozenset(vars(nn.Module())) - {"training"}


class _Step(nn.Module):
    def __init__(self, cell: AbstractCell):
        super().__init__()
        self.cell = with_factors(cell)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, after = self.cell.step(self.cell.project(x), states)
        return (y, *after)


def lower_step(
    builder: Builder, cell: AbstractCell, x: Operand, states: list[Operand], name: Callable[[str], str]
) -> list[Operand]:
    """Operations of one step: from the input and state rows to the output and new state rows.

    `name` gives the name in the model of a part of the cell.
    """

    def rename(path: str) -> str:
        _, part, *rest = path.split(".")
        weight = getattr(cell, part, None)
        if isinstance(weight, AbstractWeight):
            rest = rest[:1] if len(weight.terms()) > 1 else []
        return ".".join([name(part), *rest])

    like = next(cell.parameters(), torch.zeros(()))
    steps, operands = x.shape[0], [x, *states]
    small, large = (tuple(torch.zeros(n, v.width, dtype=like.dtype) for v in operands) for n in (steps, steps + 1))
    trace = _trace(builder.exports, cell, small)
    return Visitor(builder, trace, trace.run(small), trace.run(large), rename).lower(operands)


def _trace(exports: dict[Hashable, Trace], cell: AbstractCell, rows: tuple[Tensor, ...]) -> Trace:
    """The graph of the step; cells of one class, of the same sizes and options share one export."""
    step, key = _Step(cell), _options(cell)
    if key not in exports:
        try:
            program = export(step, rows, [0] * len(rows), decompositions())
        except UnsupportedModelError:
            raise UnsupportedModelError(
                f"{type(cell).__name__}.step: combines rows of the batch; wanted each apart, as an engine runs one"
            ) from None
        except Exception as error:
            raise not_exported(f"{type(cell).__name__}.step", error) from error
        exports[key] = read_export(program, {}, cell)
    trace, tensors = exports[key], dict(_tensors(step))
    stored = {node: tensors[name].detach() for node, name in {**trace.parameters, **trace.buffers}.items()}
    return replace(trace, constants={**trace.constants, **stored}, model=cell)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _options(module: nn.Module) -> Hashable:
    """What makes two modules compute the same function of their parameters and buffers."""
    options = tuple((n, _plain(v)) for n, v in sorted(vars(module).items()) if n not in _OWN)
    tensors = tuple((n, tuple(t.shape), t.dtype) for n, t in _tensors(module))
    children = tuple((n, c and _options(c)) for n, c in module._modules.items())
    return type(module), options, tensors, children


def _plain(value: object) -> Hashable:
    """The value of what cannot change, the identity of anything else."""
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    fixed = value is None or isinstance(value, str | int | float | type)
    return (type(value), value) if fixed or (is_dataclass(value) and value.__hash__) else id(value)
