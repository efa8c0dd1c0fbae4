"""Element-wise operations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..emit.builder import Operand
from ..emit.pointwise import FUNCTIONS, broadcast, combine, floor_divide, prelu, scale, trunc
from ..runtime.program import Binary, Unary
from .visitor import Visitor, handles
from .visitor import number as number


def _handler(name: str):
    def lower(visitor: Visitor, node: torch.fx.Node, x: Any, *args: Any, **kwargs: Any) -> Operand | None:
        args, kwargs = pytree.tree_map_only(Tensor, lambda v: v if number(v) is None else number(v), (args, kwargs))
        numbers = all(isinstance(v, int | float | str) or v is None for v in (*args, *kwargs.values()))
        if not isinstance(x, Operand) or not numbers:
            return None
        return FUNCTIONS[name](visitor.builder, x, *args, **kwargs)

    return lower


for _name in FUNCTIONS:
    handles(_name)(_handler(_name))


@handles("add", "sub", "rsub")
def _sum(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, *, alpha: float = 1, **kwargs: Any) -> Operand:
    """Sums and differences `a + alpha b`; logical or for booleans."""
    build, name = visitor.builder, node.target._schema.name  # pyright: ignore
    if name.endswith("rsub"):
        a, b = b, a
    if visitor.values[node.name].dtype == torch.bool:
        return combine(build, Binary.MAX, visitor.spread(a, node), visitor.spread(b, node))
    sign = -alpha if "sub" in name else alpha
    if (n := number(b)) is not None:
        return scale(build, visitor.spread(a, node), 1.0, sign * n)
    if (n := number(a)) is not None:
        return scale(build, visitor.spread(b, node), float(sign), n)
    if abs(sign) != 1:
        b, sign = scale(build, visitor.spread(b, node), float(sign)), 1
    return _broadcast(visitor, node, Binary.ADD if sign > 0 else Binary.SUB, a, b)


@handles("mul", "div", "maximum", "minimum")
def _product(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, **kwargs: Any) -> Operand | None:
    """`a b`, `a / b`, max and min."""
    build, rounding = visitor.builder, kwargs.get("rounding_mode")
    name = node.target._schema.name.split("::")[1]  # pyright: ignore
    for x, other in ((a, b), (b, a)) if name == "mul" else ():
        if (n := number(other)) is not None:
            return scale(build, visitor.spread(x, node), n)
    if name == "div" and rounding is None:
        above, below = number(a), number(b)
        if below is not None and below and math.frexp(below)[0] in (0.5, -0.5):  # a power of two divides exactly
            return scale(build, visitor.spread(a, node), 1 / below)
        if above == 1:
            return build.unary(Unary.RECIPROCAL, visitor.spread(b, node))
    fn = {"mul": Binary.MUL, "div": Binary.DIV, "maximum": Binary.MAX, "minimum": Binary.MIN}[name]
    if rounding is None:
        return _broadcast(visitor, node, fn, a, b)
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    if rounding == "floor":
        return floor_divide(build, a, b)
    return trunc(build, combine(build, fn, a, b))


def _broadcast(visitor: Visitor, node: torch.fx.Node, fn: Binary, a: Any, b: Any) -> Operand:
    """`f(a, b)` in the shape of the node's result."""
    shape, time = tuple(visitor.values[node.name].shape), visitor.axes[node.name]
    spread = all(isinstance(x, Operand) and x.shape == shape for x in (a, b))
    return broadcast(
        visitor.mover, fn, visitor.source(a), visitor.source(b), shape, time if spread else visitor.time_axis(node)
    )


@handles("lerp")
def _lerp(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, weight: Any) -> Operand:
    """a + weight (b - a)."""
    build = visitor.builder
    a, b, w = (visitor.spread(v, node) for v in (a, b, weight))
    return combine(build, Binary.ADD, a, combine(build, Binary.MUL, w, combine(build, Binary.SUB, b, a)))


@handles("addcmul")
def _addcmul(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, c: Any, *, value: float = 1) -> Operand:
    """a + value b c."""
    build = visitor.builder
    a, b, c = (visitor.spread(v, node) for v in (a, b, c))
    return combine(build, Binary.ADD, a, scale(build, combine(build, Binary.MUL, b, c), float(value)))


@handles("prelu")
def _prelu(visitor: Visitor, node: torch.fx.Node, x: Operand, slope: Any) -> Operand | None:
    """A slope for all entries, or one for each of axis 1."""
    if not isinstance(slope, Tensor):
        return None
    view = [-1 if d == 1 else 1 for d in range(len(x.shape))] if slope.numel() > 1 else [1] * len(x.shape)
    return prelu(visitor.mover, x, slope.detach().double().numpy().reshape(view), x.shape, x.time)
