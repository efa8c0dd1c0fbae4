"""What is done with the scores of every two steps, and the operator Attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...emit import attention, normalize, products
from ...emit.attention import Scores
from ...emit.builder import Operand
from ...emit.pointwise import against, broadcast, scale
from ...runtime.program import Binary
from ..evaluate import evaluate
from ..folded import Node
from ..visitor import Visitor, handles, handles_scores
from .einsum import moved, read_terms


@handles_scores("Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
def _moves(visitor: Visitor, node: Node, x: Any, *fixed: Any) -> Scores | None:
    if not isinstance(x, Scores) or not all(v is None or isinstance(v, np.ndarray) for v in fixed):
        return None
    given: Any = [visitor.folded.values[name] if name else None for name in node.inputs[1:]]
    return x.moved(lambda entries: evaluate(visitor.file, node.proto, [entries, *given])[0])


@handles_scores("Cast", "Dropout")
def _same(visitor: Visitor, node: Node, x: Any, *rest: Any) -> Scores | None:
    plain = visitor.type(node.outputs[0]).dtype.kind == "f" and not any(node.outputs[1:])
    return x if plain and isinstance(x, Scores) else None


@handles_scores("Mul", "Div")
def _scaled(visitor: Visitor, node: Node, a: Any, b: Any) -> Scores | None:
    x, factor = (a, _number(b)) if isinstance(a, Scores) else (b, _number(a))
    divides = node.op == "Div"
    if factor is None or (divides and (x is b or factor == 0)):
        return None
    return x.scaled(1 / factor if divides else factor, visitor.builder.where)


@handles_scores("Add", "Sub")
def _added(visitor: Visitor, node: Node, a: Any, b: Any) -> Scores | None:
    if isinstance(a, Scores):
        return _masked(visitor, a, b, node.inputs[1], -1.0 if node.op == "Sub" else 1.0)
    return _masked(visitor, b, a, node.inputs[0], 1.0) if node.op == "Add" else None


def _masked(visitor: Visitor, x: Scores, mask: Any, name: str, sign: float) -> Scores | None:
    """`x` + `sign` `mask`, a number, which softmax takes away, or the constant `name` of zeros and very low numbers.

    Or what is computed from data, a number for each key.
    """
    if isinstance(mask, Operand) and not x.softmax:
        return x.plus(visitor.mover, mask, sign)
    if x.softmax or not isinstance(mask, np.ndarray):
        return None
    if (n := _number(mask)) is not None and math.isfinite(n):
        return x
    counts, longer = attention.counting(sign * mask), visitor.longest(name)
    if counts is None or longer is None:
        return None
    attention.check_mask(counts, attention.counting(sign * longer), visitor.builder.where)
    return x.masked(counts, visitor.builder.where, attention.highest(sign * mask, counts))


@handles_scores("Where")
def _where(visitor: Visitor, node: Node, condition: Any, a: Any, b: Any) -> Scores | None:
    """Scores where a condition holds, else a very low number; or the other way round."""
    x, other = (a, b) if isinstance(a, Scores) else (b, a)
    if isinstance(condition, Operand) and isinstance(x, Scores):
        low = _number(other)
        if low is None or not low <= attention.MASKED:
            return None
        out = condition if x is b else against(visitor.builder, Binary.EQUAL, condition, 0)
        return x.masked_by(visitor.mover, out, low)
    longer = visitor.longest(node.inputs[0])
    if not isinstance(x, Scores) or not all(isinstance(v, np.ndarray) for v in (condition, other, longer)):
        return None
    if not bool((other <= attention.MASKED).all()):
        return None
    counts, long = (np.equal(v != 0, x is a) for v in (condition, longer))
    attention.check_mask(counts, long, visitor.builder.where)
    return x.masked(counts, visitor.builder.where, float(other.max()))


@handles_scores("Softmax")
def _softmax(visitor: Visitor, node: Node, x: Scores) -> Scores | None:
    """Along one axis; before version 13 over all axes from one on."""
    old = visitor.file.opsets.get("", 13) < 13
    axis = node.get("axis", 1 if old else -1) % len(x.shape)
    if old and axis != len(x.shape) - 1:
        return None
    return x.softmax_over(axis, visitor.builder.where, safe=bool(node.get("safe", 0)))


@handles_scores("MatMul")
def _weighted(visitor: Visitor, node: Node, a: Any, b: Any) -> Operand | None:
    if not all(isinstance(v, Scores | Operand) for v in (a, b)):
        return None
    return attention.weighted(visitor.mover, a, b)


@handles_scores("Einsum")
def _einsum(visitor: Visitor, node: Node, *given: Any) -> Operand | None:
    """Of weights and values, which have the axis of the keys in common."""
    found = read_terms(node, given)
    if found is None or not any(isinstance(v, Operand) for v in given):
        return None
    names, result = found
    (a, b), (x, y) = (names, given) if isinstance(given[0], Scores) else (names[::-1], given[::-1])
    groups, keys = [c for c in a if c in b and c in result], [c for c in a if c in b and c not in result]
    queries, rest = [c for c in a if c not in b], [c for c in b if c not in a]
    if len(keys) != 1 or len(queries) != 1 or {*result} != {*groups, *queries, *rest}:
        return None
    size = {c: n for term, v in ((a, x), (b, y)) for c, n in zip(term, v.shape, strict=True)}
    shape = [size[c] for c in (*groups, *queries, *rest)]
    weights = x.moved(lambda t: t.transpose([a.index(c) for c in (*groups, *queries, *keys)]))
    order = [b.index(c) for c in (*groups, *keys, *rest)]
    values = moved(visitor, y, lambda t: t.transpose(order).reshape(*(size[c] for c in (*groups, *keys)), -1))
    product = attention.weighted(visitor.mover, weights, values)
    back = [[*groups, *queries, *rest].index(c) for c in result]
    return moved(visitor, product, lambda t: t.reshape(shape).transpose(back))


@handles("Attention")
def _attention(visitor: Visitor, node: Node, q: Any, k: Any, v: Any, mask: Any = None, *past: Any) -> Operand | None:
    """softmax(scale Q K^T + mask) V for each head, over the steps or within each."""
    build, mover = visitor.builder, visitor.mover
    plain = not (node.get("softcap", 0.0) or any(p is not None for p in past) or any(node.outputs[1:]))
    if not plain or not all(isinstance(x, Operand) for x in (q, k, v)):
        return None
    heads, shared = node.get("q_num_heads", 0), node.get("kv_num_heads", 0)
    flat = len(q.shape) == 3
    if flat:
        q, k, v = (_of_heads(visitor, x, n) for x, n in ((q, heads), (k, shared), (v, shared)))
    if q.shape[1] % k.shape[1]:
        return None
    k, v = (moved(visitor, x, lambda t: t.repeat(q.shape[1] // k.shape[1], 1)) for x in (k, v))
    factor, causal = node.get("scale", 1 / math.sqrt(q.shape[-1])), bool(node.get("is_causal", 0))
    product: Any = products.matmul(mover, q, products.turned(mover, k))
    if isinstance(product, Scores):
        product = product.scaled(factor, build.where)
        if mask is not None:
            product = _boolean(visitor, product, mask, node.inputs[3])
        if product is None:
            return None
        if causal:
            product = product.masked(np.tri(q.shape[-2], dtype=bool), build.where)
        y = attention.weighted(mover, product.softmax_over(-1, build.where), v)
    else:
        product = scale(build, product, factor)
        if mask is not None and not isinstance(mask, np.ndarray):
            return None
        if causal:
            product = _plus(visitor, product, np.tri(*product.shape[-2:], dtype=bool))
        product = product if mask is None else _plus(visitor, product, _as_typed(visitor, node.inputs[3], mask))
        y = products.matmul(mover, normalize.softmax(mover, product, -1), v)
    assert isinstance(y, Operand)
    return moved(visitor, y, lambda t: t.swapaxes(1, 2).reshape(t.shape[0], t.shape[2], -1)) if flat else y


def _as_typed(visitor: Visitor, name: str, mask: np.ndarray) -> np.ndarray:
    return mask != 0 if visitor.type(name).dtype.kind == "b" else mask


def _plus(visitor: Visitor, x: Operand, mask: np.ndarray) -> Operand:
    """`x` + `mask`; -infinity where it is false."""
    added = np.where(mask, 0.0, -np.inf) if mask.dtype.kind == "b" else mask
    return broadcast(visitor.mover, Binary.ADD, x, added, x.shape, x.time)


def _boolean(visitor: Visitor, x: Scores, mask: Any, name: str) -> Scores | None:
    if visitor.type(name).dtype.kind == "b" and isinstance(mask, Operand):
        return x.masked_by(visitor.mover, against(visitor.builder, Binary.EQUAL, mask, 0), -math.inf)
    if not isinstance(mask, np.ndarray) or visitor.type(name).dtype.kind != "b":
        return _masked(visitor, x, mask, name, 1.0)
    longer = visitor.longest(name)
    if longer is None:
        return None
    attention.check_mask(mask != 0, longer != 0, visitor.builder.where)
    return x.masked(mask != 0, visitor.builder.where)


def _of_heads(visitor: Visitor, x: Operand, heads: int) -> Operand:
    """(batch, steps, heads * n) as (batch, heads, steps, n)."""
    return moved(visitor, x, lambda t: t.reshape(*t.shape[:2], heads, -1).swapaxes(1, 2))


def _number(x: Any) -> float | None:
    return float(x.reshape(-1)[0]) if isinstance(x, np.ndarray) and x.size == 1 else None
