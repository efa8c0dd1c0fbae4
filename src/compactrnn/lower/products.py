"""Linear layers, matrix products and embeddings."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..emit import products
from ..emit.attention import Scores
from ..emit.builder import Operand
from ..emit.pointwise import combine
from ..runtime.program import Binary
from ..weights.terms import unflatten
from .attention import masked
from .factors import factor
from .visitor import Visitor, array, handles


@handles("linear")
def _linear(visitor: Visitor, node: torch.fx.Node, x: Any, weight: Any, bias: Any = None) -> Operand | None:
    if not isinstance(x, Operand) or not isinstance(weight, Tensor) or isinstance(bias, Operand):
        return None
    return _with_matrix(visitor, node, x, weight, 1, bias)


def _with_matrix(
    visitor: Visitor, node: torch.fx.Node, x: Operand, weight: Tensor, argument: int, bias: Tensor | None = None
) -> Operand:
    """`bias` + W x for every vector along the last axis; `argument` is the number of the node's that W comes from."""
    name = visitor.weight_name(node, node.args[argument])
    return products.linear(visitor.builder, x, [array(weight)], None if bias is None else array(bias), name)


@handles("multiply")
def _multiply(
    visitor: Visitor, node: torch.fx.Node, x: Any, tensors: list[Tensor], rest: str, rows: int
) -> Operand | None:
    if not isinstance(x, Operand):
        return None
    name = visitor.weight_name(node, node.args[1][0])  # pyright: ignore
    return products.linear(visitor.builder, x, [factor(unflatten(tensors, json.loads(rest)))], None, name)


@handles("addmm", "baddbmm")
def _addmm(visitor: Visitor, node: torch.fx.Node, bias: Any, x: Any, weight: Any, **kwargs: Any) -> Any:
    """bias + x W."""
    if kwargs:
        return None
    if all(isinstance(v, Tensor) for v in (bias, weight)) and (bias.dim(), weight.dim()) == (1, 2):
        return _with_matrix(visitor, node, x, weight.T, 2, bias)
    product = _matmul(visitor, node, x, weight, 1)
    if isinstance(product, Scores):
        return masked(visitor, product, bias, node.args[0], 1.0)
    return product and combine(visitor.builder, Binary.ADD, product, visitor.spread(bias, node))


@handles("matmul", "mm", "mv", "bmm", "dot")
def _matmul(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, first: int = 0) -> Any:
    """With a constant matrix, with one for each of a batch, or of two values; `a` is the node's argument `first`."""
    mover = visitor.mover
    if isinstance(b, Tensor) and b.dim() == 2:
        return _with_matrix(visitor, node, a, b.T, first + 1)
    if isinstance(a, Tensor) and isinstance(b, Operand) and a.dim() == 2 and b.time != len(b.shape) - 2 >= 0:
        return products.turned(mover, _with_matrix(visitor, node, products.turned(mover, b), a, first))
    if isinstance(a, Operand) and isinstance(b, Tensor) and b.dim() == len(a.shape) == 3 and a.time != 0:
        rows = [mover.piece(a, 0, i) for i in range(len(b))]
        return mover.join([_with_matrix(visitor, node, x, m.T, first + 1) for x, m in zip(rows, b, strict=True)], 0)
    return products.matmul(mover, visitor.source(a), visitor.source(b))


@handles("embedding")
def _embedding(visitor: Visitor, node: torch.fx.Node, table: Any, token: Any, *rest: Any) -> Operand | None:
    if not isinstance(table, Tensor) or not isinstance(token, Operand):
        return None
    found = products.lookup(visitor.builder, token, array(table), visitor.weight_name(node, node.args[0]))
    if found is None:
        raise UnsupportedModelError(
            f"{visitor.builder.where}: looks up {token.width} tokens at every step, too many; give the embedded tokens,"
            " and look them up outside"
        )
    return found


@handles("index")
def _index(visitor: Visitor, node: torch.fx.Node, table: Any, indices: list[Any]) -> Operand | None:
    """A row of a constant table, by a position that was computed."""
    if not isinstance(table, Tensor) or len(indices) != 1:
        return None
    found = _embedding(visitor, node, table.reshape(table.shape[0], -1), indices[0])
    return found and visitor.shaped(found, node)


@handles("one_hot")
def _one_hot(visitor: Visitor, node: torch.fx.Node, token: Operand, classes: int = -1) -> Operand | None:
    return _embedding(visitor, node, torch.eye(classes), token) if classes > 0 else None
