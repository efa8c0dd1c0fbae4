"""Softmax, layer norm and batch norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..emit import normalize
from ..emit.builder import Operand
from ..graph.aten import argument
from ..graph.trace import operation
from .visitor import Visitor, array, handles, handles_lazily


@handles("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, *rest: Any, **kwargs: Any) -> Operand:
    return normalize.softmax(visitor.mover, x, dim, "log" in str(node.target))


@handles("layer_norm")
def _layer_norm(
    visitor: Visitor,
    node: torch.fx.Node,
    x: Operand,
    shape: list[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Operand | None:
    k = int(np.prod(shape, dtype=int))
    if x.time is not None and x.time >= len(x.shape) - len(shape):
        return None
    if isinstance(weight, Operand) or isinstance(bias, Operand):
        return None
    weight, bias = (None if v is None else array(v) for v in (weight, bias))
    return normalize.layer_norm(visitor.builder, x, k, weight, bias, eps)


_BATCH_NORM = "_native_batch_norm_legit_no_training"


@handles_lazily(_BATCH_NORM)
def _joined(visitor: Visitor, node: torch.fx.Node, x: Any, *statistics: Any) -> list[Any] | None:
    """One that is in the weights of the convolution before it."""
    return [x] if node.name in visitor.done else None


@handles(_BATCH_NORM)
def _batch_norm(visitor: Visitor, node: torch.fx.Node, x: Operand, *statistics: Any) -> list[Operand] | None:
    """(x - mean) / sqrt(variance + eps) * weight + bias with the stored statistics of axis 1."""
    norm = batch_norm_of(visitor, node)
    if norm is None or len(x.shape) < 2 or x.time == 1:
        return None
    return [normalize.scale_axis(visitor.mover, x, 1, *norm)]


def batch_norm_of(visitor: Visitor, node: torch.fx.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of each channel, where `node` is a batch norm with stored statistics; None where it is not."""
    if operation(node) != _BATCH_NORM:
        return None
    known, names = visitor.trace.constants, [getattr(n, "name", None) for n in node.args[1:5]]
    if any(name is not None and name not in known for name in names) or None in names[2:]:
        return None
    weight, bias, mean, variance = (None if name is None else known[name].double() for name in names)
    assert mean is not None and variance is not None
    slope = (variance + argument(node, "eps")).rsqrt()
    slope = slope if weight is None else slope * weight
    shift = -mean * slope if bias is None else bias - mean * slope
    return array(slope), array(shift)
