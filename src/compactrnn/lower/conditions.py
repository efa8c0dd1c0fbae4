"""Comparisons, `where`, logic and type conversions."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..emit.builder import Operand
from ..emit.pointwise import against, compare, floor_divide, power, rest, scale, select, trunc
from ..runtime.program import Binary, Unary
from .visitor import Visitor, handles

_COMPARISONS = {
    "eq": (Binary.EQUAL, False),
    "ne": (Binary.NOT_EQUAL, False),
    "lt": (Binary.LESS, False),
    "le": (Binary.LESS_EQUAL, False),
    "gt": (Binary.LESS, True),
    "ge": (Binary.LESS_EQUAL, True),
}


@handles(*_COMPARISONS)
def _compared(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Operand:
    """1 where it holds, else 0."""
    fn, swapped = _COMPARISONS[_name(node)]
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    return compare(visitor.builder, fn, *((b, a) if swapped else (a, b)))


@handles("where")
def _where(visitor: Visitor, node: torch.fx.Node, condition: Any, a: Any, b: Any) -> Operand:
    """`a` where the condition holds, else `b`."""
    return select(visitor.builder, *(visitor.spread(v, node) for v in (condition, a, b)))


@handles("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
def _both(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Operand | None:
    """Logical operations on booleans; on integers only `logical_*`, where non-zero is true."""
    logical = "logical" in _name(node)
    if not logical and visitor.values[node.name].dtype != torch.bool:
        return None
    fn = {"and": Binary.MIN, "or": Binary.MAX, "xor": Binary.NOT_EQUAL}[_name(node).split("_")[1]]
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    if logical:
        a, b = (against(visitor.builder, Binary.NOT_EQUAL, v, 0) for v in (a, b))
    return compare(visitor.builder, fn, a, b)


@handles("bitwise_not")
def _not(visitor: Visitor, node: torch.fx.Node, x: Operand) -> Operand:
    """Logical or bitwise not."""
    if visitor.values[node.name].dtype == torch.bool:
        return scale(visitor.builder, x, -1.0, 1.0)
    return scale(visitor.builder, x, -1.0, -1.0)


@handles("remainder", "fmod", "floor_divide")
def _remainder(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Operand:
    """Floor division, and remainders with the sign of `b` or of `a`."""
    build = visitor.builder
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    if _name(node) == "floor_divide":
        return floor_divide(build, a, b)
    if _name(node) == "remainder":
        return rest(build, a, b)
    left = rest(build, *(build.unary(Unary.ABS, v) for v in (a, b)))
    return select(build, against(build, Binary.LESS, a, 0), scale(build, left, -1.0), left)


@handles("pow")
def _power(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Operand | None:
    if isinstance(a, int | float) and a > 0:
        return visitor.builder.unary(Unary.EXP, scale(visitor.builder, b, math.log(a)))
    if not isinstance(b, int | float) or isinstance(a, int | float):
        return None
    return power(visitor.builder, a, b)


@handles("to", "_to_copy", "type_as")
def _cast(visitor: Visitor, node: torch.fx.Node, x: Operand, *args: Any, **kwargs: Any) -> Operand | None:
    """Type conversion: truncation to integers, `!= 0` for booleans."""
    before, after = visitor.values[node.args[0].name].dtype, visitor.values[node.name].dtype  # pyright: ignore
    if after == torch.bool:
        return x if before == torch.bool else against(visitor.builder, Binary.NOT_EQUAL, x, 0)
    if after.is_complex:
        return None
    return trunc(visitor.builder, x) if before.is_floating_point and not after.is_floating_point else x


@handles("copy")
def _copied(visitor: Visitor, node: torch.fx.Node, x: Any, source: Any, *args: Any) -> Any:
    """`copy_`: the value written over `x`."""
    return visitor.spread(source, node)


@handles("_assert_tensor_metadata")
def _assert(visitor: Visitor, node: torch.fx.Node, x: Operand, *args: Any, **kwargs: Any) -> Operand:
    """An assertion of torch.export; it has no effect."""
    return x


def _name(node: torch.fx.Node) -> str:
    return node.target._schema.name.split("::")[1]  # pyright: ignore
