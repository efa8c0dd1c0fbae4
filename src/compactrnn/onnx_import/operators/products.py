"""Matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...emit import products
from ...emit.attention import Scores
from ...emit.builder import Operand
from ...emit.pointwise import broadcast, scale
from ...runtime.program import Binary
from ..folded import Node
from ..visitor import Visitor, fits, handles
from .einsum import moved


@handles("MatMul")
def _matmul(visitor: Visitor, node: Node, a: Any, b: Any, bias: Any = None) -> Operand | Scores | None:
    """With a constant matrix, with one for each of a batch, or of two values; `bias` is joined by `fuse`."""
    mover = visitor.mover
    if isinstance(b, np.ndarray) and b.ndim > 2 and b.size == b.shape[-1] * b.shape[-2] and b.ndim <= len(a.shape):
        b = b.reshape(b.shape[-2:])
    if isinstance(b, np.ndarray) and b.ndim == 2:
        return _with_matrix(visitor, node, a, b.T, 1, bias)
    if isinstance(a, np.ndarray) and isinstance(b, Operand) and a.ndim == 2 and b.time != len(b.shape) - 2 >= 0:
        return products.turned(mover, _with_matrix(visitor, node, products.turned(mover, b), a, 0))
    if isinstance(a, Operand) and isinstance(b, np.ndarray) and b.ndim == len(a.shape) == 3 and a.time != 0:
        rows = [mover.piece(a, 0, i) for i in range(len(b))]
        return mover.join([_with_matrix(visitor, node, x, m.T, 1) for x, m in zip(rows, b, strict=True)], 0)
    return products.matmul(mover, a, b)


@handles("FusedMatMul")
def _fused(visitor: Visitor, node: Node, a: Any, b: Any) -> Operand | Scores | None:
    """alpha A B, A and B with their first axis before the last, or with their last two axes swapped, or not."""
    a, b = (x if not node.get(f"transBatch{side}", 0) else _rows_inside(visitor, x) for x, side in ((a, "A"), (b, "B")))
    a, b = (
        (x.swapaxes(-1, -2) if isinstance(x, np.ndarray) else products.turned(visitor.mover, x)) if turned else x
        for x, turned in ((a, node.get("transA", 0)), (b, node.get("transB", 0)))
    )
    product, alpha = _matmul(visitor, node, a, b), node.get("alpha", 1.0)
    if product is None or alpha == 1:
        return product
    if isinstance(product, Scores):
        return product.scaled(alpha, visitor.builder.where)
    return scale(visitor.builder, product, alpha)


def _rows_inside(visitor: Visitor, x: Any) -> Any:
    return np.moveaxis(x, 0, -2) if isinstance(x, np.ndarray) else moved(visitor, x, lambda t: np.moveaxis(t, 0, -2))


@handles("Gemm")
def _gemm(visitor: Visitor, node: Node, a: Any, b: Any, c: Any = None) -> Operand | Scores | None:
    """alpha A B + beta C, A and B transposed or not."""
    build, mover = visitor.builder, visitor.mover
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if c is not None and not fits(c.shape, visitor.type(node.outputs[0]).shape):
        return None
    if node.get("transA", 0):
        a = a.T if isinstance(a, np.ndarray) else products.turned(mover, a)
    if not isinstance(a, Operand):
        return None
    if isinstance(b, np.ndarray) and (c is None or isinstance(c, np.ndarray)):
        weight = b if node.get("transB", 0) else b.T
        bias = None if c is None else (beta * np.broadcast_to(c, (1, len(weight)))[0] if _is_row(c) else None)
        if c is None or bias is not None:
            return _with_matrix(visitor, node, a, alpha * weight, 1, bias)
    if node.get("transB", 0):
        b = b.T if isinstance(b, np.ndarray) else products.turned(mover, b)
    if isinstance(b, np.ndarray):
        product = _with_matrix(visitor, node, a, alpha * b.T, 1)
    else:
        product = products.matmul(mover, a, b)
        if isinstance(product, Scores):
            return product.scaled(alpha, build.where) if c is None else None
        product = scale(build, product, alpha)
    if c is None:
        return product
    c = beta * c if isinstance(c, np.ndarray) else scale(build, c, beta)
    return broadcast(mover, Binary.ADD, product, c, *visitor.result(node))


def _is_row(c: np.ndarray) -> bool:
    """Whether it is the same for all rows."""
    return c.ndim < 2 or len(c) == 1


def _with_matrix(
    visitor: Visitor, node: Node, x: Operand, weight: np.ndarray, number: int, bias: np.ndarray | None = None
) -> Operand:
    """`bias` + W x for every vector along the last axis; `number` is that of the input that W comes from."""
    if not isinstance(x, Operand):
        raise TypeError("a product of constants")
    return visitor.linear(node, x, weight, bias, visitor.weight_name(node, number))
