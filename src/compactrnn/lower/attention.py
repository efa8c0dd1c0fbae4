"""What is done with the scores of every two steps: attention over time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..emit import attention, normalize, reductions
from ..emit.attention import Scores
from ..emit.builder import Operand
from ..emit.pointwise import against, select
from ..runtime.program import Binary
from .pointwise import number
from .visitor import Visitor, handles, handles_scores


@handles_scores("mul", "div")
def _scaled(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, **kwargs: Any) -> Scores | None:
    divides = "div" in str(node.target)
    x, factor = (a, number(b)) if isinstance(a, Scores) else (b, number(a))
    if factor is None or kwargs or (divides and (x is b or factor == 0)):
        return None
    return x.scaled(1 / factor if divides else factor, visitor.builder.where)


@handles_scores("add", "sub")
def _added(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, *, alpha: float = 1) -> Scores | None:
    subtracts = "sub" in str(node.target)
    if not isinstance(a, Scores):
        return None if subtracts or alpha != 1 else masked(visitor, b, a, node.args[0], 1.0)
    return masked(visitor, a, b, node.args[1], -alpha if subtracts else alpha)


def masked(visitor: Visitor, x: Scores, mask: Any, source: Any, sign: float) -> Scores | None:
    """`x` + `sign` `mask`, a number, which softmax takes away, or a constant of zeros and very low numbers.

    Or what is computed from data, a number for each key. `source` is the node that gives the mask.
    """
    if x.softmax:
        return None
    if (n := number(mask)) is not None and math.isfinite(n):
        return x
    if isinstance(mask, Operand):
        return x.plus(visitor.mover, mask, sign)
    if not isinstance(mask, Tensor):
        return None
    counts = attention.counting(sign * _numbers(mask))
    longer = None if counts is None else visitor.longest(source)
    if counts is None or longer is None:
        return None
    attention.check_mask(counts, attention.counting(sign * _numbers(longer)), visitor.builder.where)
    return x.masked(counts, visitor.builder.where, attention.highest(sign * _numbers(mask), counts))


@handles_scores("where")
def _where(visitor: Visitor, node: torch.fx.Node, condition: Any, a: Any, b: Any) -> Scores | None:
    """Scores where a condition holds, else a very low number; or the other way round."""
    x, other = (a, b) if isinstance(a, Scores) else (b, a)
    low = number(other)
    if low is None or not low <= attention.MASKED or not isinstance(x, Scores):
        return None
    if isinstance(condition, Operand):
        out = condition if x is b else against(visitor.builder, Binary.EQUAL, condition, 0)
        return x.masked_by(visitor.mover, out, low)
    if not isinstance(condition, Tensor):
        return None
    longer = visitor.longest(node.args[0])  # pyright: ignore
    if longer is None:
        return None
    counts, long = (_numbers(v) != 0 for v in (condition, longer))
    if x is b:
        counts, long = ~counts, ~long
    attention.check_mask(counts, long, visitor.builder.where)
    return x.masked(counts, visitor.builder.where, low)


def _numbers(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


@handles_scores("softmax", "_softmax", "_safe_softmax")
def _softmax(visitor: Visitor, node: torch.fx.Node, x: Scores, dim: int, *rest: Any, **kwargs: Any) -> Scores:
    return x.softmax_over(dim, visitor.builder.where, safe="_safe" in str(node.target))


@handles_scores("matmul", "mm", "bmm")
def _weighted(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Operand | None:
    if not all(isinstance(v, Scores | Operand) for v in (a, b)):
        return None
    return attention.weighted(visitor.mover, a, b)


@handles_scores("to", "_to_copy", "type_as")
def _cast(visitor: Visitor, node: torch.fx.Node, x: Any, *rest: Any, **kwargs: Any) -> Scores | None:
    return x if isinstance(x, Scores) and visitor.values[node.name].is_floating_point() else None


@handles("_safe_softmax")
def _safe_softmax(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, *rest: Any, **kwargs: Any) -> Operand:
    """Softmax; zeros where all are -infinity."""
    build, mover = visitor.builder, visitor.mover
    y = normalize.softmax(mover, x, dim)
    none = against(build, Binary.EQUAL, reductions.reduce(mover, x, [dim], "max", True), -math.inf)
    none, zeros = (mover.spread(v, y.shape, y.time) for v in (none, 0.0))
    return select(build, none, zeros, y)
