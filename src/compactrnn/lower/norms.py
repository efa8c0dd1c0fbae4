"""Softmax, layer norm and batch norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..emit import normalize
from ..emit.builder import Operand
from .visitor import Visitor, array, handles


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


@handles("_native_batch_norm_legit_no_training")
def _batch_norm(
    visitor: Visitor, node: torch.fx.Node, x: Operand, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any
) -> list[Operand] | None:
    """(x - mean) / sqrt(variance + eps) * weight + bias with the stored statistics of axis 1."""
    if len(x.shape) < 2 or x.time == 1:
        return None
    slope = (variance + rest[-1]).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * slope
    return [normalize.scale_axis(visitor.mover, x, 1, array(slope), array(shift))]
