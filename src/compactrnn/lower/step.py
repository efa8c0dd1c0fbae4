"""Lowering of a cell's `step`, exported with the batch axis in place of time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..emit.builder import Operand
from ..graph.refusals import not_exported
from ..graph.trace import Trace, export, operation, read_export
from ..weights.base import AbstractWeight
from .decompose import decompositions
from .factors import with_factors
from .visitor import Visitor

_OWN = frozenset(vars(nn.Module())) - {"training"}


class _Part(nn.Module):
    def __init__(self, cell: AbstractCell):
        super().__init__()
        self.cell = with_factors(cell)


class _Step(_Part):
    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, after = self.cell.step(x if self.cell.steps_ahead else self.cell.project(x), states)
        return (y, *after)


class _Ahead(_Part):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.cell.look_ahead(self.cell.project(x)[:, None])[:, 0],)


def lower_ahead(visitor: Visitor, cell: AbstractCell, x: Operand, name: Callable[[str], str]) -> Operand:
    """Operations of `look_ahead(project(x))`, x being the rows of a whole sequence."""
    (projected,) = _lowered(visitor, _Ahead(cell), cell, [x], name)
    return projected


def lower_step(
    visitor: Visitor, cell: AbstractCell, x: Operand, states: list[Operand], name: Callable[[str], str], pushed: bool
) -> list[Operand]:
    """Operations of one step: from the input and state rows to the output and new state rows.

    With `pushed`, of a delay line that `push` updates the new row alone. What looks ahead gets `lower_ahead(x)` in
    place of x. `name` gives the name in the model of a part of the cell.
    """
    return _lowered(visitor, _Step(cell), cell, [x, *states], name, pushed)


def _lowered(
    visitor: Visitor,
    part: _Part,
    cell: AbstractCell,
    operands: list[Operand],
    name: Callable[[str], str],
    pushed: bool = False,
) -> list[Operand]:
    def rename(path: str) -> str:
        _, part, *rest = path.split(".")
        weight = getattr(cell, part, None)
        if isinstance(weight, AbstractWeight):
            rest = rest[:1] if len(weight.terms()) > 1 else []
        return ".".join([name(part), *rest])

    like = next(cell.parameters(), torch.zeros(()))
    steps = operands[0].shape[0]
    small, large = (tuple(torch.zeros(n, v.width, dtype=like.dtype) for v in operands) for n in (steps, steps + 1))
    trace = _trace(visitor.exports, part, cell, small)
    if pushed:
        trace = replace(trace, outputs=_rows_pushed(trace, cell))
    inner = Visitor(visitor.builder, trace, trace.run(small), trace.run(large), visitor.exports, rename, steps)
    before = len(visitor.builder.program.tensors)
    lowered = inner.lower(operands)
    if cell.exact:
        weights = tuple(name(n) for n, part in cell.named_children() if isinstance(part, AbstractWeight))
        visitor.builder.keep_exact(before, weights, name("transition"))
    return lowered


def _rows_pushed(trace: Trace, cell: AbstractCell) -> list[Any]:
    """The outputs of a step, with a delay line replaced by its newest row."""
    y, *after = trace.outputs
    lines = zip(cell.states, trace.inputs[1:], after, strict=True)
    return [y, *(_pushed(new, before) or new if state.delay else new for state, before, new in lines)]


def _pushed(new: Any, before: str) -> Any:
    """What comes before all but the oldest row of the line `before` in `new`; None where `new` is something else."""
    if not isinstance(new, Node) or operation(new) != "cat" or new.args[1:] != (1,) or len(new.args[0]) != 2:  # pyright: ignore
        return None
    pushed, rest = new.args[0]  # pyright: ignore
    rest = _whole(rest)
    if operation(rest) != "slice" or rest.args[1:3] != (1, 0) or _whole(rest.args[0]).name != before:
        return None
    return pushed if len(rest.args) == 4 else None


def _whole(node: Any) -> Any:
    """The source of full slices."""
    while operation(node) == "slice" and node.args[1:3] == (0, 0) and node.args[3:] in ((), (2**63 - 1,)):
        node = node.args[0]
    return node


def _trace(exports: dict[Hashable, Trace], step: _Part, cell: AbstractCell, rows: tuple[Tensor, ...]) -> Trace:
    """The graph of a part of a cell; cells of one class, of the same sizes and options share one export."""
    key = type(step), _options(cell)
    if key not in exports:
        try:
            program = export(step, rows, [0] * len(rows), decompositions())
        except UnsupportedModelError:
            raise UnsupportedModelError(
                f"{type(cell).__name__}.step: mixes the rows of a batch; each must be computed independently"
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
    """Cache key: equal for modules that compute the same function of their parameters and buffers."""
    options = tuple((n, _plain(v)) for n, v in sorted(vars(module).items()) if n not in _OWN)
    tensors = tuple((n, tuple(t.shape), t.dtype) for n, t in _tensors(module))
    children = tuple((n, c and _options(c)) for n, c in module._modules.items())
    return type(module), options, tensors, children


def _plain(value: object) -> Hashable:
    """The value of an immutable option, the identity of any other."""
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    fixed = value is None or isinstance(value, str | int | float | type)
    return (type(value), value) if fixed or (is_dataclass(value) and value.__hash__) else id(value)
