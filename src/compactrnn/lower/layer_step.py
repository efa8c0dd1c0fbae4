"""Lowering of recurrent layers and cells inside a one-step model, and of those that run after a sequence."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells import AbstractCell
from ..emit.builder import CONSTANT, LAST, ONCE, STEP, Operand
from ..graph.leaf import Leaf
from . import cell as cells
from .every_layer import run_layers
from .inner import FICTION, over_axis, rows_of_step
from .visitor import Visitor, array


def layer_step(
    visitor: Visitor, leaf: Leaf, given_x: Operand | Tensor, states: Sequence[Operand | Tensor]
) -> list[Operand]:
    """The output, (1, 1, output), and the states after the step, (1, size) each; by default from the layer's own."""
    layer_name = leaf.name or type(leaf.module).__name__
    x = _operand(visitor, given_x)
    steps, rows, _ = x.shape
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
    return _one_step(visitor, leaf, x, states)


def layer_at_end(
    visitor: Visitor, leaf: Leaf, given: Operand | Tensor, states: Sequence[Operand | Tensor]
) -> list[Operand] | None:
    """A layer over steps of its own, (steps, 1, inputs), that begins with what a whole sequence has given.

    Such are the steps of a forecast, whose number is fixed. The outputs, and the states after them, are known where the
    last of what it begins with is. None where all of that is known before.
    """
    build, steps_ahead = visitor.builder, max(cell.steps_ahead for row in leaf.cells for cell in row)
    if (isinstance(given, Operand) and given.time is not None) or given.shape[1] != 1 or steps_ahead:
        return None
    kinds = {value.kind for value in (given, *states) if isinstance(value, Operand)}
    if kinds.isdisjoint((LAST, ONCE)) or STEP in kinds:
        return None
    values = [_operand(visitor, value) for value in (given, *states)]  # puts constants into the program
    kind = build.place(values)
    here = build.place([])
    x, *starts = (replace(value, kind=here, segment=build.segment) for value in values)
    found = (_one_step if x.shape[0] == 1 else over_axis)(visitor, leaf, x, starts)
    return [replace(value, kind=kind, segment=build.segment) for value in found]


def _one_step(visitor: Visitor, leaf: Leaf, x: Operand, states: Sequence[Operand | Tensor]) -> list[Operand]:
    """The output, (1, 1, output), and the states after a step of `x`, (1, 1, inputs), in the current segment."""
    build = visitor.builder
    build.place([x])
    x = replace(x, shape=(FICTION, 1, x.width), time=0, segment=build.segment)

    def run(layer: int, direction: int, cell: AbstractCell, x: Operand, given: list) -> tuple[Operand, list[Operand]]:
        name = functools.partial(leaf.part_name, layer, direction)
        return cells.cell_step(visitor, cell, x, [_operand(visitor, s) for s in given], name)

    y, after = run_layers(visitor, leaf, x, states, run)
    return [replace(y, shape=(1, 1, y.width), time=None), *after]


def _operand(visitor: Visitor, value: Operand | Tensor) -> Operand:
    if isinstance(value, Operand):
        return value
    return Operand(visitor.builder.constant(array(value)), tuple(value.shape), None, CONSTANT, 0)
