"""Reductions, normalization and softmax."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...emit import normalize, reductions
from ...emit.builder import Operand
from ...emit.pointwise import FUNCTIONS, broadcast, clamp, compare, select
from ...runtime.program import Binary, Code, Unary
from ..folded import Node
from ..visitor import Visitor, fits, handles

_TINY = float(np.finfo(np.float32).tiny)
_NAMES = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min"}
_BEFORE = {"ReduceSumSquare": "square", "ReduceL2": "square", "ReduceL1": "abs", "ReduceLogSumExp": "exp"}
_AFTER = {"ReduceL2": "sqrt", "ReduceLogSumExp": "log"}


@handles(*_NAMES, *_BEFORE)
def _reduce(visitor: Visitor, node: Node, x: Operand, axes: Any = None) -> Operand | None:
    """Over features, over time, or both."""
    if not isinstance(x, Operand) or (axes is not None and not isinstance(axes, np.ndarray)):
        return None
    chosen = node.get("axes", []) if axes is None else [int(a) for a in axes.ravel()]
    if not chosen and node.get("noop_with_empty_axes", 0):
        return x
    y = FUNCTIONS[_BEFORE[node.op]](visitor.builder, x) if node.op in _BEFORE else x
    assert y is not None
    dims = chosen or list(range(len(x.shape)))
    y = reductions.reduce(visitor.mover, y, dims, _NAMES.get(node.op, "sum"), bool(node.get("keepdims", 1)))
    return FUNCTIONS[_AFTER[node.op]](visitor.builder, y) if node.op in _AFTER else y


@handles("ArgMax", "ArgMin")
def _argmax(visitor: Visitor, node: Node, x: Operand) -> Operand | None:
    axis = node.get("axis", 0) % len(x.shape)
    if node.get("select_last_index", 0):
        return None
    signed = FUNCTIONS["neg"](visitor.builder, x) if node.op == "ArgMin" else x
    assert signed is not None
    return reductions.argmax(visitor.mover, signed, axis, bool(node.get("keepdims", 1)))


@handles("Hardmax")
def _hardmax(visitor: Visitor, node: Node, x: Operand) -> Operand | None:
    """1 at the first of the largest entries along an axis, else 0; before version 13 over all axes from one on."""
    old = visitor.file.opsets.get("", 13) < 13
    axis = node.get("axis", 1 if old else -1) % len(x.shape)
    if old and math.prod(x.shape[axis:]) != x.shape[axis]:
        return None
    first = reductions.argmax(visitor.mover, x, axis, keepdims=True)
    first = visitor.mover.spread_like(first, x)
    if axis == x.time:
        return visitor.builder.binary(Binary.EQUAL, reductions.places(visitor.mover, x), first)
    places = np.arange(x.shape[axis], dtype=np.float64).reshape([-1 if d == axis else 1 for d in range(len(x.shape))])
    return broadcast(visitor.mover, Binary.EQUAL, first, places, x.shape, x.time)


@handles("CumSum")
def _cumsum(visitor: Visitor, node: Node, x: Operand, axis: Any) -> Operand | None:
    """Of all entries up to each; those before it where it is exclusive, from the end on where it is reversed."""
    if not isinstance(axis, np.ndarray):
        return None
    along, mover = int(axis.ravel()[0]) % len(x.shape), visitor.mover

    def turned(y: Operand) -> Operand:
        return mover.rearrange(y, lambda t: np.flip(t, along), y.time) if node.get("reverse", 0) else y

    y = reductions.running(mover, turned(x), along, "sum")
    if y is None:
        return None
    if node.get("exclusive", 0):
        pads = [(1, -1) if d == along else (0, 0) for d in range(len(x.shape))]
        y = mover.materialize(mover.pad(y, pads, 0.0, x.time))
    return turned(y)


@handles("Softmax", "LogSoftmax")
def _softmax(visitor: Visitor, node: Node, x: Operand) -> Operand | None:
    """Along one axis; before version 13 over all axes from one on."""
    old = visitor.file.opsets.get("", 13) < 13
    axis, log = node.get("axis", 1 if old else -1) % len(x.shape), node.op == "LogSoftmax"
    k = math.prod(x.shape[axis:])
    if old and k != x.shape[axis]:
        if x.time is not None and x.time >= axis:
            return None
        return visitor.builder.compute(Code.LOG_SOFTMAX if log else Code.SOFTMAX, [x], x, a=x.ref, k=k)
    y = normalize.softmax(visitor.mover, x, axis, log)
    if node.get("safe", 0):  # zero where it is NaN
        zeros = visitor.mover.spread_like(0.0, y)
        return select(visitor.builder, compare(visitor.builder, Binary.NOT_EQUAL, y, y), zeros, y)
    return y


@handles("BatchNormalization")
def _batch_norm(visitor: Visitor, node: Node, x: Operand, *statistics: Any) -> Operand | None:
    """With stored statistics."""
    if any(not isinstance(v, np.ndarray) for v in statistics) or node.get("training_mode", 0) or x.time == 1:
        return None
    if len(statistics) != 4 or len(x.shape) < 2 or any(v.shape != (x.shape[1],) for v in statistics):
        return None
    weight, bias, mean, variance = statistics
    slope = weight / np.sqrt(variance + node.get("epsilon", 1e-5))
    return normalize.scale_axis(visitor.mover, x, 1, slope, bias - mean * slope)


@handles("LayerNormalization")
def _layer_norm(visitor: Visitor, node: Node, x: Operand, weight: Any = None, bias: Any = None) -> Operand | None:
    axis = node.get("axis", -1) % len(x.shape)
    if len([o for o in node.outputs if o]) > 1 or any(
        v is not None and not isinstance(v, np.ndarray) for v in (weight, bias)
    ):
        return None
    if x.time is not None and x.time >= axis:
        return None
    shape, k = x.shape[axis:], math.prod(x.shape[axis:])
    if any(v is not None and not fits(v.shape, shape) for v in (weight, bias)):
        return None
    weight, bias = (None if v is None else np.broadcast_to(v, shape).ravel() for v in (weight, bias))
    return normalize.layer_norm(visitor.builder, x, k, weight, bias, node.get("epsilon", 1e-5))


@handles("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(visitor: Visitor, node: Node, x: Operand, weight: Any) -> Operand | None:
    """x / sqrt(mean of the squares + epsilon) over all axes from one on, times a weight."""
    axis, build, mover = node.get("axis", -1) % len(x.shape), visitor.builder, visitor.mover
    if len([o for o in node.outputs if o]) > 1 or not isinstance(weight, np.ndarray):
        return None
    if (x.time is not None and x.time >= axis) or not fits(weight.shape, x.shape[axis:]):
        return None
    squares = build.binary(Binary.MUL, x, x)
    mean = reductions.reduce(mover, squares, range(axis, len(x.shape)), "mean", True)
    size = build.unary(Unary.SQRT, build.unary(Unary.SCALE_SHIFT, mean, 1.0, node.get("epsilon", 1e-5)))
    y = broadcast(mover, Binary.DIV, x, size, x.shape, x.time)
    return broadcast(mover, Binary.MUL, y, weight, x.shape, x.time)


@handles("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_norm(visitor: Visitor, node: Node, x: Any, skip: Any, weight: Any, *more: Any) -> list[Any] | None:
    """The norm of x + skip + bias along the last axis, and as the fourth result that sum."""
    whole = node.op == "SkipLayerNormalization"
    shift, bias = [*more, None, None][:2] if whole else [None, *more, None][:2]
    if any(node.outputs[1:3]) or not all(v is None or isinstance(v, np.ndarray) for v in (weight, shift, bias)):
        return None
    shape, time = visitor.result(node)
    total = broadcast(visitor.mover, Binary.ADD, x, skip, shape, time)
    total = total if bias is None else broadcast(visitor.mover, Binary.ADD, total, bias, shape, time)
    if not isinstance(total, Operand) or weight is None or weight.shape != shape[-1:]:
        return None
    if whole:
        y = normalize.layer_norm(visitor.builder, total, shape[-1], weight, shift, node.get("epsilon", 1e-12))
    else:
        y = _rms_norm(visitor, Node(node.proto, node.inputs, node.outputs[:1]), total, weight)
    return [y, None, None, total]


@handles("InstanceNormalization", "GroupNormalization")
def _group_norm(visitor: Visitor, node: Node, x: Operand, weight: Any, bias: Any) -> Operand | None:
    """Over the entries of each channel, or group of channels, within a step or over time, too. Channels are axis 1."""
    fixed = isinstance(weight, np.ndarray) and isinstance(bias, np.ndarray)
    if not fixed or x.time == 1 or (x.time != 0 and x.shape[0] != 1):
        return None
    channels = x.shape[1]
    groups = channels if node.op == "InstanceNormalization" else node.get("num_groups", 1)
    if groups < 1 or channels % groups or any(v.ndim != 1 or not len(v) or channels % len(v) for v in (weight, bias)):
        return None
    weight, bias = (np.repeat(v, channels // len(v)) for v in (weight, bias))
    epsilon = node.get("epsilon", 1e-5)
    if x.time in (None, 0):
        y = normalize.layer_norm(visitor.builder, x, x.width // groups, None, None, epsilon)
    else:
        y = _over_time(visitor, x, groups, epsilon)
    return normalize.scale_axis(visitor.mover, y, 1, weight, bias)


def _over_time(visitor: Visitor, x: Operand, groups: int, epsilon: float) -> Operand:
    """Each group of channels standardized over all its entries, of all steps."""
    assert x.time is not None
    shape, time = (1, groups, x.shape[1] // groups, *x.shape[2:]), x.time + 1
    each = visitor.mover.rearrange(x, lambda t: t.reshape(shape), time)
    y = _standardized(visitor, each, range(2, len(shape)), epsilon)
    return visitor.mover.rearrange(y, lambda t: t.reshape(x.shape), x.time)


def _standardized(visitor: Visitor, x: Operand, axes: Iterable[int], epsilon: float) -> Operand:
    """(x - mean) / sqrt(variance + epsilon), both over `axes`, time among them."""
    build, axes = visitor.builder, list(axes)
    mean = reductions.reduce(visitor.mover, x, axes, "mean", True)
    x = build.binary(Binary.SUB, x, visitor.mover.spread_like(mean, x))
    variance = reductions.reduce(visitor.mover, build.binary(Binary.MUL, x, x), axes, "mean", True)
    deviation = build.unary(Unary.SQRT, build.unary(Unary.SCALE_SHIFT, variance, 1.0, epsilon))
    return build.binary(Binary.DIV, x, visitor.mover.spread_like(deviation, x))


@handles("LpNormalization")
def _lp_norm(visitor: Visitor, node: Node, x: Operand) -> Operand | None:
    axis, order, build = node.get("axis", -1) % len(x.shape), node.get("p", 2), visitor.builder
    if order not in (1, 2):
        return None
    powers = FUNCTIONS["abs" if order == 1 else "square"](build, x)
    assert powers is not None
    size = reductions.reduce(visitor.mover, powers, [axis], "sum", True)
    size = clamp(build, size if order == 1 else build.unary(Unary.SQRT, size), _TINY, None)  # zeros stay zeros
    return build.binary(Binary.DIV, x, visitor.mover.spread_like(size, x))


@handles("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(visitor: Visitor, node: Node, x: Operand) -> Operand:
    name = "mean" if node.op == "GlobalAveragePool" else "max"
    return reductions.reduce(visitor.mover, x, range(2, len(x.shape)), name, True)


@handles("TopK")
def _top(visitor: Visitor, node: Node, x: Operand, k: Any) -> list[Operand] | None:
    if not isinstance(k, np.ndarray) or not node.get("largest", 1):
        return None
    return reductions.top(visitor.mover, x, int(k.ravel()[0]), node.get("axis", -1))
