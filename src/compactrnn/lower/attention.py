"""What is done with the scores of every two steps: attention over time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..emit import attention, normalize, reductions
from ..emit.attention import Scores
from ..emit.builder import Operand
from ..emit.pointwise import against, select
from ..graph.trace import operation
from ..runtime.program import Binary
from .masks import Mask, combined
from .pointwise import number
from .visitor import HANDLERS, Visitor, handles, handles_masks, handles_scores


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
    if isinstance(mask, Mask):
        return _masked_by_all(visitor, x, mask) if sign == 1 else None
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
    if isinstance(condition, Mask):
        return _masked_by_all(visitor, x, condition, low) if condition.keeps == (x is a) else None
    return _where_it_counts(visitor, x, condition, node.args[0], x is a, low)


def _where_it_counts(
    visitor: Visitor, x: Scores, condition: Any, source: Any, keeps: bool, low: float
) -> Scores | None:
    """`x` where a condition is as true as `keeps`, else `low`; `source` is the node that gives the condition."""
    if isinstance(condition, Operand):
        out = against(visitor.builder, Binary.EQUAL, condition, 0) if keeps else condition
        return x.masked_by(visitor.mover, out, low)
    if not isinstance(condition, Tensor) or (longer := visitor.longest(source)) is None:
        return None
    counts, long = ((_numbers(v) != 0) == keeps for v in (condition, longer))
    attention.check_mask(counts, long, visitor.builder.where)
    return x.masked(counts, visitor.builder.where, low)


def _masked_by_all(visitor: Visitor, x: Scores, mask: Mask, low: float | None = None) -> Scores | None:
    """`x` with a mask of several parts, one after the other; with `low` it is of conditions."""
    found: Scores | None = x
    for part in mask.plain() or [None]:
        if part is None or found is None:
            return None
        value, lowest = visitor.materialize_rows(part.value), part.low if low is None else low
        if part.keeps is None:
            found = masked(visitor, found, value, part.source, 1.0) if low is None else None
        else:
            found = None if lowest is None else _where_it_counts(visitor, found, value, part.source, part.keeps, lowest)
    return found


@handles_masks("add")
def _sum_of_masks(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, *, alpha: float = 1) -> Mask | None:
    return combined(node, tuple(visitor.values[node.name].shape), [a, b], None) if alpha == 1 else None


@handles_masks("logical_and", "bitwise_and", "mul", "logical_or", "bitwise_or")
def _both_conditions(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Mask | None:
    """Scores count where both are true; or, with `or`, where none is."""
    value = visitor.values[node.name]
    if value.dtype != torch.bool:
        return None
    return combined(node, tuple(value.shape), [a, b], not operation(node).endswith("or"))


@handles_masks("logical_not", "bitwise_not")
def _opposite(visitor: Visitor, node: torch.fx.Node, x: Any) -> Mask | None:
    return None if not isinstance(x, Mask) or x.keeps is None else replace(x, keeps=not x.keeps)


@handles_masks("where")
def _numbers_where(visitor: Visitor, node: torch.fx.Node, condition: Any, a: Any, b: Any) -> Mask | None:
    """What a mask adds to scores: zero where they count, a very low number where not."""
    if not isinstance(condition, Mask) or condition.keeps is None:
        return None
    kept, low = (number(v) for v in ((a, b) if condition.keeps else (b, a)))
    if kept != 0 or low != -math.inf:
        return None
    parts = tuple(replace(part, low=low) for part in condition.parts)
    return replace(condition, parts=parts, keeps=None)


@handles_masks("baddbmm")
def _added_to_products(visitor: Visitor, node: torch.fx.Node, mask: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    if not isinstance(mask, Mask):
        return None
    return HANDLERS["baddbmm"](visitor, node, mask, visitor.materialize(a), visitor.materialize(b), **kwargs)


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
    none, zeros = (mover.spread_like(v, y) for v in (none, 0.0))
    return select(build, none, zeros, y)
