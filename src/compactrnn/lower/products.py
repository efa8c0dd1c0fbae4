"""Products of two values, and of values with a matrix each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..emit.builder import Operand
from ..runtime.program import Binary
from .blocks import array, products
from .pointwise import combine
from .reductions import reduced
from .visitor import Visitor, handles

_LARGEST = 1 << 16  # numbers that a product of two values is laid out in


@handles("addmm", "baddbmm")
def _addmm(visitor: Visitor, node: torch.fx.Node, bias: Any, x: Any, weight: Any, **kwargs: Any) -> Operand | None:
    """bias + x W."""
    if kwargs:
        return None
    if all(isinstance(v, Tensor) for v in (bias, weight)) and (bias.dim(), weight.dim()) == (1, 2):
        return products(visitor, node, x, [array(weight.T)], visitor.constant(bias), 2)
    product = _matmul(visitor, node, x, weight, 1)
    return product and combine(visitor.builder, Binary.ADD, product, visitor.spread(bias, node))


@handles("matmul", "mm", "mv", "bmm", "dot")
def _matmul(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, first: int = 0) -> Any:
    """With a constant matrix, with one for each of a batch, or of two values; `a` is the node's argument `first`."""
    if isinstance(b, Tensor) and b.dim() == 2:
        return products(visitor, node, a, [array(b.T)], None, first + 1)
    if (
        isinstance(a, Tensor)
        and isinstance(b, Operand)
        and a.dim() == 2
        and len(b.shape) > 1
        and b.time != len(b.shape) - 2
    ):
        y = products(visitor, node, _turned(visitor, b, node), [array(a)], None, first)
        return _turned(visitor, y, node)
    if isinstance(a, Operand) and isinstance(b, Tensor) and b.dim() == len(a.shape) == 3 and a.time != 0:
        rows = [visitor.piece(a, 0, i, node) for i in range(len(b))]
        parts = [products(visitor, node, x, [array(m.T)], None, first + 1) for x, m in zip(rows, b, strict=True)]
        return visitor.join(parts, 0, node)
    return _of_two(visitor, node, a, b)


def _turned(visitor: Visitor, x: Operand, node: torch.fx.Node) -> Operand:
    """The last two axes exchanged."""
    last = len(x.shape) - 1
    time = {last: last - 1, last - 1: last}.get(x.time, x.time) if x.time is not None else None
    return visitor.rearrange(x, lambda t: t.mT, time, node)


def _of_two(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Operand:
    """Every product of entries, laid out as (..., n, m, k), then summed over k: features of a step, or time."""
    left = list(a.shape) if len(a.shape) > 1 else [1, *a.shape]
    right = list(b.shape) if len(b.shape) > 1 else [*b.shape, 1]
    batch = list(torch.broadcast_shapes(left[:-2], right[:-2]))
    full = [*batch, left[-2], right[-1], left[-1]]

    def rows(t: Tensor) -> Tensor:
        return t.view(left).unsqueeze(-2).expand(full)

    def columns(t: Tensor) -> Tensor:
        return t.view(right).mT.unsqueeze(-3).expand(full)

    places = [_time(visitor, x, move, len(full)) for x, move in ((a, rows), (b, columns))]
    found = {p for p in places if p is not None}
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{visitor.where(node)}: multiplies every time step with every other, as attention over time does; an"
            " engine cannot. A weighted mean over time, (softmax(scores, 1) * h).sum(1), can be packed"
        )
    time = found.pop() if found else None
    if math.prod(n for d, n in enumerate(full) if d != time) > _LARGEST:
        raise UnsupportedModelError(
            f"{visitor.where(node)}: a product of {tuple(a.shape)} and {tuple(b.shape)} is too large"
        )
    x = visitor.settle(visitor.mover.move([a], lambda t: rows(t[0]), time, visitor.where(node)))
    y = visitor.settle(visitor.mover.move([b], lambda t: columns(t[0]), time, visitor.where(node)))
    product = combine(visitor.builder, Binary.MUL, x, y)
    return reduced(visitor, node, replace(product, shape=tuple(full), time=time), len(full) - 1, "sum")


def _time(visitor: Visitor, x: Any, move: Any, axes: int) -> int | None:
    """Where the time axis of `x` is after `move`."""
    if not isinstance(x, Operand) or x.time is None:
        return None
    step = torch.arange(x.shape[x.time]).view([-1 if d == x.time else 1 for d in range(len(x.shape))]).expand(x.shape)
    moved = move(step.contiguous())
    return next(
        (d for d in range(axes) if moved.shape[d] > 1 and (moved.narrow(d, 0, 1) != moved.narrow(d, 1, 1)).any()), None
    )
