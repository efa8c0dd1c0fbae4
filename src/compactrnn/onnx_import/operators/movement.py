"""Operators that move entries: reshaping, slicing, joining, padding, writing into a cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...emit.address import LazyView
from ...emit.builder import Operand
from ...emit.products import lookup
from ..folded import Node
from ..model_file import refuse
from ..visitor import Visitor, handles

_FIRST = [
    "DepthToSpace", "Expand", "Flatten", "GatherElements", "GatherND", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "ReverseSequence",
]  # fmt: skip


@handles(*_FIRST, lazy=True)
def _moves(visitor: Visitor, node: Node, *given: Any) -> list[LazyView]:
    """Of the first input; the others say where entries go."""
    return visitor.move(node, given, [0])


@handles("ScatterND", "ScatterElements", lazy=True)
def _scatter(visitor: Visitor, node: Node, *given: Any) -> list[LazyView] | None:
    if node.get("reduction", "none") != "none":
        return None
    return visitor.move(node, given, [0, 2])


@handles("Concat", lazy=True)
def _concat(visitor: Visitor, node: Node, *given: Any) -> list[LazyView]:
    return visitor.move(node, given, range(len(given)))


@handles("Identity", "Dropout", lazy=True)
def _identity(visitor: Visitor, node: Node, x: Any, *rest: Any) -> Any:
    if len([o for o in node.outputs if o]) > 1:
        raise refuse(node.proto, "gives the mask of a training run")
    return x


@handles("Gather", lazy=True)
def _gather(visitor: Visitor, node: Node, table: Any, index: Any) -> Any:
    """By constant positions a movement; rows of a constant table by a token an embedding."""
    if isinstance(index, np.ndarray):
        return visitor.move(node, [table, index], [0])
    if not isinstance(table, np.ndarray) or node.get("axis", 0) % table.ndim:
        return None
    token = visitor.materialize(index)
    found = lookup(visitor.builder, token, table.reshape(len(table), -1), visitor.weight_name(node, 0))
    return found and visitor.shaped(found, node)


@handles("OneHot")
def _one_hot(visitor: Visitor, node: Node, token: Any, depth: Any, values: Any) -> Operand | None:
    """A row of a table that has the one value on its diagonal, the other elsewhere."""
    if isinstance(token, np.ndarray) or not isinstance(depth, np.ndarray) or not isinstance(values, np.ndarray):
        return None
    shape = visitor.type(node.outputs[0]).shape
    if node.get("axis", -1) % len(shape) != len(shape) - 1:
        return None
    count, (off, on) = int(depth.ravel()[0]), values.ravel()
    found = lookup(visitor.builder, token, np.where(np.eye(count, dtype=bool), on, off), node.proto.name)
    return found and visitor.shaped(found, node)


@handles("Pad", lazy=True)
def _pad(visitor: Visitor, node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    rank = len(x.shape)
    if value is not None and not isinstance(value, np.ndarray):
        return None
    for given in (pads, axes):
        if given is not None and not isinstance(given, np.ndarray):
            return None
    amounts = [int(n) for n in (node.get("pads", []) if pads is None else pads.ravel())]
    chosen = list(range(rank)) if axes is None else [int(a) % rank for a in axes.ravel()]
    if len(amounts) != 2 * len(chosen):
        return None
    pairs = [(0, 0)] * rank
    for number, axis in enumerate(chosen):
        pairs[axis] = (amounts[number], amounts[number + len(chosen)])
    mode, time = node.get("mode", "constant"), visitor.grown(node.inputs[0])
    if mode == "constant":
        number = float(value.ravel()[0]) if value is not None and value.size else float(node.get("value", 0.0))
        padded = visitor.mover.pad(x, pairs, number, time if isinstance(time, int) else None)
        return replace(padded, time=visitor.grown(node.outputs[0]), rate=visitor.rate(node.outputs[0]))
    if mode not in ("edge", "reflect", "wrap") or min(min(p) for p in pairs) < 0:
        return None
    time, rate = visitor.grown(node.outputs[0]), visitor.rate(node.outputs[0])
    return visitor.mover.move([x], lambda a: np.pad(a[0], pairs, mode), time, rate=rate)  # pyright: ignore


@handles("Where", lazy=True)
def _where(visitor: Visitor, node: Node, condition: Any, x: Any, y: Any) -> Any:
    """By a constant condition a movement, else a choice."""
    from ...emit.pointwise import select

    if isinstance(condition, np.ndarray):
        return visitor.move(node, [condition, x, y], [1, 2])
    three: list[Operand] = [visitor.spread(visitor.materialize(v), node) for v in (condition, x, y)]
    return select(visitor.builder, *three)
