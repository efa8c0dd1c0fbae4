"""Norms and recurrent layers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from .._errors import UnsupportedModelError
from ..emit import normalize
from ..emit.builder import STEP, Operand
from . import cell as cells
from .layer_step import layer_step
from .visitor import Visitor, array, handles


@handles("layer_norm")
def _layer_norm(
    visitor: Visitor,
    node: torch.fx.Node,
    x: Operand,
    shape: list[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Operand | None:
    k = int(np.prod(shape, dtype=int))
    if x.time is not None and x.time >= len(x.shape) - len(shape):
        return None
    if isinstance(weight, Operand) or isinstance(bias, Operand):
        return None
    weight, bias = (None if v is None else array(v) for v in (weight, bias))
    return normalize.layer_norm(visitor.builder, x, k, weight, bias, eps)


@handles("_native_batch_norm_legit_no_training")
def _batch_norm(
    visitor: Visitor, node: torch.fx.Node, x: Operand, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any
) -> list[Operand] | None:
    """(x - mean) / sqrt(variance + eps) * weight + bias with the stored statistics of axis 1."""
    if len(x.shape) < 2 or x.time == 1:
        return None
    slope = (variance + rest[-1]).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * slope
    return [normalize.scale_axis(visitor.mover, x, 1, array(slope), array(shift))]


@handles("recurrent")
def _recurrent(visitor: Visitor, node: torch.fx.Node, key: int, x: Operand, states: list[Any]) -> list[Operand]:
    leaf, build = visitor.trace.leaves[key], visitor.builder
    if visitor.one_step:
        return layer_step(visitor, leaf, x, states)
    if x.kind != STEP or x.time != 0:
        raise UnsupportedModelError(
            f"{leaf.name}: its input does not change from step to step: it is the same for the whole sequence, or time"
            " is another of its axes; pack the layers that run along time alone"
        )
    if x.shape[1] != 1:
        raise UnsupportedModelError(
            f"{leaf.name}: runs over {x.shape[1]} rows of each sequence, as a layer that bands or agents share does; an"
            " engine runs one: give the rows as sequences of their own, or a layer to each"
        )
    if any(isinstance(s, Operand) for s in states):
        raise UnsupportedModelError(
            f"{leaf.name}: its initial state is computed from input data; wanted zeros or parameters."
            " The stream keeps the states: leave them out of example_inputs, and let the model start from zeros, or"
            " pack the model as one step that takes and returns them, with states=[...]"
        )
    flat, after = iter(states), []
    for layer, row in enumerate(leaf.cells):
        outputs = []
        for direction, cell in enumerate(row):
            given = [next(flat) for _ in cell.states] if states else None
            source = visitor.mover.flip(x, f"{leaf.name}: bidirectional") if direction else x
            names = [functools.partial(n, layer, direction) for n in (leaf.part_name, leaf.state_name)]
            y, last = cells.lower_cell(build, cell, source, cells.initial_states(cell, given), *names)
            outputs.append(visitor.mover.flip(y, f"{leaf.name}: bidirectional") if direction else y)
            after += last
        x = outputs[0]
        if len(outputs) > 1:
            x = visitor.mover.join(outputs, -1, leaf.name)
    return [x, *after]
