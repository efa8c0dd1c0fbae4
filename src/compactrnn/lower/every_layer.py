"""All layers and directions of a recurrent module, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..cells import AbstractCell
from ..emit.builder import Operand
from ..graph.leaf import Leaf
from . import cell as cells
from .visitor import Visitor

# (layer, direction, cell, x, states) to an output and new states
RunCell = Callable[[int, int, AbstractCell, Operand, list[Any]], tuple[Operand, list[Operand]]]


def run_layers(
    visitor: Visitor, leaf: Leaf, x: Operand, states: Sequence[Any], run: RunCell
) -> tuple[Operand, list[Operand]]:
    """What `run` makes of `x` in every layer and direction of a leaf, and the states that the module returns.

    `states` are those that the module is called with, in torch's order; without any, each cell starts from its own.
    """
    flat, after = iter(states), []
    for layer, row in enumerate(leaf.cells):
        outputs = []
        for direction, cell in enumerate(row):
            count = len(cell.outer_states())
            given = [next(flat) for _ in range(count)] if states else []
            y, last = run(layer, direction, cell, x, cells.initial_states(cell, given))
            outputs.append(y)
            after += last[:count]
        x = outputs[0]
        if len(outputs) > 1:
            joined = visitor.mover.move(outputs, lambda a: np.concatenate(a, -1), x.time, leaf.name)
            x = visitor.materialize(joined)
    return x, after
