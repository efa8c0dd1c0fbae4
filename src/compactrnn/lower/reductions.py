"""Reductions over features or over time."""

from __future__ import annotations

from typing import Any

import torch

from ..emit import reductions
from ..emit.builder import Operand
from ..emit.pointwise import against, scale
from ..runtime.program import Binary
from .visitor import Visitor, handles

_NAMES = {"amax": "max", "amin": "min", "cumsum": "sum", "cumprod": "product"}


@handles("sum", "mean", "amax", "amin")
def _reduce(
    visitor: Visitor, node: torch.fx.Node, x: Operand, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Operand:
    """Reduce over features, over time, or both."""
    name = _name(node)
    return reductions.reduce(visitor.mover, x, _dims(x, dim), _NAMES.get(name, name), keepdim)


@handles("any")
def _any(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: Any = None, keepdim: bool = False) -> Operand:
    """Whether any is not zero."""
    true = against(visitor.builder, Binary.NOT_EQUAL, x, 0)
    return reductions.reduce(visitor.mover, true, _dims(x, dim), "max", keepdim)


def _dims(x: Operand, dim: Any) -> list[int]:
    return [dim] if isinstance(dim, int) else list(dim or range(len(x.shape)))


@handles("argmax", "argmin")
def _argmax(
    visitor: Visitor, node: torch.fx.Node, x: Operand, dim: Any = None, keepdim: bool = False
) -> Operand | None:
    if not isinstance(dim, int):
        return None
    return reductions.argmax(
        visitor.mover, scale(visitor.builder, x, -1.0) if _name(node) == "argmin" else x, dim, keepdim
    )


@handles("topk")
def _topk(
    visitor: Visitor, node: torch.fx.Node, x: Operand, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list[Operand] | None:
    """Top-k at every step; the largest over time."""
    return reductions.top(visitor.mover, x, k, dim) if largest and sorted else None


@handles("cumsum", "cumprod")
def _running(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, **kwargs: Any) -> Operand | None:
    return reductions.running(visitor.mover, x, dim % len(x.shape), _NAMES[_name(node)])


@handles("prod")
def _product(
    visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, keepdim: bool = False, **kwargs: Any
) -> Operand | None:
    """Over a feature axis."""
    axis = dim % len(x.shape)
    return None if axis == x.time else reductions.product(visitor.mover, x, axis, keepdim)


def _name(node: torch.fx.Node) -> str:
    return str(node.target).split(".")[1]
