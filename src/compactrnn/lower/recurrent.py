"""Recurrent layers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells import AbstractCell
from ..emit.builder import STEP, Operand
from ..emit.recurrent import at_every_step
from . import cell as cells
from .every_layer import run_layers
from .inner import over_axis, rows_over_time
from .layer_step import layer_at_end, layer_step
from .visitor import Visitor, handles


@handles("recurrent")
def _recurrent(
    visitor: Visitor, node: torch.fx.Node, key: int, given: Operand | Tensor, states: list[Any]
) -> list[Operand]:
    leaf = visitor.trace.leaves[key]
    if visitor.one_step:
        return layer_step(visitor, leaf, given, states)
    x = given if isinstance(given, Operand) else _constant(visitor, node, given)
    if (found := layer_at_end(visitor, leaf, x, states)) is not None:
        return found
    if x.kind != STEP and x.time == 0:
        x = at_every_step(visitor.builder, x)
    if x.kind != STEP or x.time not in (0, 1):
        raise UnsupportedModelError(
            f"{leaf.name}: its input does not change from step to step: it is the same for the whole sequence;"
            " pack the layers that run along time alone"
        )
    if x.time == 1:
        return over_axis(visitor, leaf, x, states)
    if x.shape[1] != 1:
        return rows_over_time(visitor, leaf, x, states)

    def run(layer: int, direction: int, cell: AbstractCell, x: Operand, given: list) -> tuple[Operand, list[Operand]]:
        where = f"{leaf.name}: bidirectional"
        source = visitor.mover.backwards(x, where) if direction else x
        names = [functools.partial(n, layer, direction) for n in (leaf.part_name, leaf.state_name)]
        y, last = cells.lower_cell(visitor, cell, source, given, *names)
        last = visitor.mover.final(y, last)
        return visitor.mover.backwards(y, where) if direction else y, last

    y, after = run_layers(visitor, leaf, x, states, run)
    return [y, *after]


def _constant(visitor: Visitor, node: torch.fx.Node, x: Tensor) -> Operand:
    """An input that is constant, as that of a decoder of which only the initial state says something."""
    time = visitor.time_of(node.args[1])
    return visitor.materialize(visitor.mover.move([visitor.source(x)], lambda arrays: arrays[0], time))
