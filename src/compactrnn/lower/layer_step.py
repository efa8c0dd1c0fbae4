"""Lowering of recurrent layers and cells inside a one-step model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells import AbstractCell
from ..emit.builder import CONSTANT, Operand
from ..graph.leaf import Leaf
from . import cell as cells
from .every_layer import run_layers
from .inner import FICTION, over_axis, rows_of_step
from .visitor import Visitor, array


def layer_step(
    visitor: Visitor, leaf: Leaf, given_x: Operand | Tensor, states: Sequence[Operand | Tensor]
) -> list[Operand]:
    """The output, (1, 1, output), and the states after the step, (1, size) each; by default from the layer's own."""
    build, layer_name = visitor.builder, leaf.name or type(leaf.module).__name__
    x = _operand(visitor, given_x)
    steps, rows, width = x.shape
    if steps != 1 and not states and rows == 1:
        return over_axis(visitor, leaf, x, states)
    if steps != 1:
        raise UnsupportedModelError(
            f"{layer_name}: gets {steps} steps, and with states=... forward is one: give an"
            " example of one step (x[:, :1], or x[:1] with time first), and the sequence to Stream.run, which keeps the"
            " states from step to step"
        )
    if ahead := max(cell.steps_ahead for row in leaf.cells for cell in row):
        raise UnsupportedModelError(
            f"{layer_name}: reads {ahead} later steps, and with states=... forward is one step: pack the model without"
            " states, for whole sequences"
        )
    if rows != 1:
        return rows_of_step(visitor, leaf, x, states)
    build.place([x])
    x = replace(x, shape=(FICTION, 1, width), time=0, segment=build.segment)

    def run(layer: int, direction: int, cell: AbstractCell, x: Operand, given: list) -> tuple[Operand, list[Operand]]:
        name = functools.partial(leaf.part_name, layer, direction)
        return cells.cell_step(visitor, cell, x, [_operand(visitor, s) for s in given], name)

    y, after = run_layers(visitor, leaf, x, states, run)
    return [replace(y, shape=(1, 1, y.width), time=None), *after]


def _operand(visitor: Visitor, value: Operand | Tensor) -> Operand:
    if isinstance(value, Operand):
        return value
    return Operand(visitor.builder.constant(array(value)), tuple(value.shape), None, CONSTANT, 0)
