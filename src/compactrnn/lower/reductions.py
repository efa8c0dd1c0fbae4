"""Sums, means, extremes and softmax: over features at every step, or over time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..emit.builder import LAST, Operand
from ..runtime.program import Binary, Code, Reduce, Ref, Top, Unary
from .conditions import against
from .pointwise import scale
from .visitor import Visitor, handles


def _last(visitor: Visitor, node: torch.fx.Node, x: Operand, dims: list[int]) -> tuple[Operand, int]:
    """`x` with the feature axes `dims` moved last, and how many entries they hold together."""
    order = [d for d in range(len(x.shape)) if d not in dims] + dims
    k = int(np.prod([x.shape[d] for d in dims], dtype=int))
    if order == list(range(len(x.shape))):
        return x, k
    time = None if x.time is None else order.index(x.time)
    return visitor.rearrange(x, lambda t: t.permute(order), time, node), k


@handles("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, *rest: Any, **kwargs: Any) -> Operand:
    build, dim = visitor.builder, dim % len(x.shape)
    log = "log" in str(node.target)
    if dim == x.time:
        return _softmax_over_time(visitor, node, x, log)
    rows, k = _last(visitor, node, x, [dim])
    y = build.compute(Code.LOG_SOFTMAX if log else Code.SOFTMAX, [rows], rows, a=rows.ref, k=k)
    order = [d for d in range(len(x.shape)) if d != dim] + [dim]
    if order == sorted(order):
        return replace(y, bounded=not log)
    back = [order.index(d) for d in range(len(order))]
    return visitor.rearrange(y, lambda t: t.permute(back), x.time, node)


def _softmax_over_time(visitor: Visitor, node: torch.fx.Node, x: Operand, log: bool) -> Operand:
    """exp(x - m) / sum over time of exp(x - m), m the maximum over time."""
    build = visitor.builder
    peak = _over_time(visitor, node, x, Binary.MAX, -math.inf)
    shifted = build.binary(Binary.SUB, x, replace(peak, shape=x.shape, time=x.time))
    powers = build.unary(Unary.EXP, shifted)
    total = replace(_over_time(visitor, node, powers, Binary.ADD, 0.0), shape=x.shape, time=x.time)
    if log:
        return build.binary(Binary.SUB, shifted, build.unary(Unary.LOG, total))
    return replace(build.binary(Binary.DIV, powers, total), bounded=True)


def _over_time(visitor: Visitor, node: torch.fx.Node, x: Operand, fn: Binary, start: float) -> Operand:
    """A running sum, maximum or minimum whose last value is the result."""
    build = visitor.builder
    build.place([x])
    state = build.buffer(x.width, "state", np.full(x.width, start))
    build.emit(Code.BINARY, state, x.width, a=state, b=x.ref, fn=int(fn), k=x.width)
    value = Operand(state, x.step_shape, None, LAST, build.segment)
    build.close(visitor.where(node))
    return build.unary(Unary.COPY, value)


@handles("sum", "mean", "amax", "amin")
def _reduce(
    visitor: Visitor, node: torch.fx.Node, x: Operand, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """Over features at every step, or over time; over both in turn."""
    return reduced(visitor, node, x, dim, str(node.target).split(".")[1])


@handles("any")
def _any(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: Any = None, keepdim: bool = False) -> Operand:
    """Whether any is not zero."""
    return reduced(visitor, node, against(visitor.builder, Binary.NOT_EQUAL, x, 0), dim, "amax")


def reduced(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: Any, name: str) -> Operand:
    """`x` reduced over `dim` to the shape of the node's result; `name` is sum, mean, amax or amin."""
    build = visitor.builder
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(x.shape)))
    dims = sorted(d % len(x.shape) for d in dims)
    fn = {"sum": Reduce.SUM, "mean": Reduce.SUM, "amax": Reduce.MAX, "amin": Reduce.MIN}[name]
    y, steps = x, 0
    features = [d for d in dims if d != x.time]
    if features:
        rows, k = _last(visitor, node, x, features)
        y = build.compute(Code.REDUCE, [rows], rows, width=rows.width // k, a=rows.ref, k=k, fn=int(fn))
        y = replace(y, shape=rows.shape[: len(rows.shape) - len(features)])
        y = scale(build, y, 1 / k) if name == "mean" else y
    if x.time in dims:
        steps = 1
        start = {Reduce.SUM: 0.0, Reduce.MAX: -math.inf, Reduce.MIN: math.inf}[fn]
        counter = _count(visitor, y) if name == "mean" else None
        over = {Reduce.SUM: Binary.ADD, Reduce.MAX: Binary.MAX, Reduce.MIN: Binary.MIN}[fn]
        y = _over_time(visitor, node, y, over, start)
        if counter is not None:
            build.place([y])
            dst = build.buffer(y.width)
            build.emit(Code.BINARY, dst, y.width, a=y.ref, b=counter, fn=int(Binary.DIV), k=1)
            y = replace(y, ref=dst, kind=build.place([y]), segment=build.segment)
    kept = tuple(self for self in visitor.values[node.name].shape)
    return replace(y, shape=kept, time=None if steps else visitor.time_axis(node))


def _largest(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, fn: Reduce) -> Operand:
    """The largest along the feature axis `dim` at every step, or its position."""
    build, axes = visitor.builder, visitor.axes[node.name]
    rows, k = _last(visitor, node, x, [dim])
    y = build.compute(Code.REDUCE, [rows], rows, width=rows.width // k, a=rows.ref, k=k, fn=int(fn))
    result = visitor.values[node.name]
    several = isinstance(result, list | tuple)
    shape = tuple((result[0] if several else result).shape)
    return replace(y, shape=shape, time=axes[0] if several else visitor.time_axis(node))


@handles("argmax", "argmin")
def _argmax(
    visitor: Visitor, node: torch.fx.Node, x: Operand, dim: Any = None, keepdim: bool = False
) -> Operand | None:
    if not isinstance(dim, int) or dim % len(x.shape) == x.time:
        return None
    signed = scale(visitor.builder, x, -1.0) if "argmin" in str(node.target) else x
    return _largest(visitor, node, signed, dim % len(x.shape), Reduce.ARGMAX)


@handles("topk")
def _topk(
    visitor: Visitor, node: torch.fx.Node, x: Operand, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list[Operand] | None:
    """The largest of a step's numbers, largest first, and their positions."""
    axis = dim % len(x.shape)
    if not largest or not sorted or axis == x.time or x.shape[axis] != x.width:
        return None
    build, (time, _) = visitor.builder, visitor.axes[node.name]
    found = [build.compute(Code.TOP, [x], x, width=k, a=x.ref, k=x.width, fn=int(fn)) for fn in Top]
    return [replace(y, shape=tuple(visitor.values[node.name][0].shape), time=time) for y in found]


def _count(visitor: Visitor, like: Operand) -> Ref:
    """A buffer that counts the steps so far."""
    build = visitor.builder
    build.place([like])
    state = build.buffer(1, "state", np.zeros(1))
    build.emit(Code.UNARY, state, 1, a=state, fn=int(Unary.SCALE_SHIFT), p0=1.0, p1=1.0)
    return state


_RUNNING = {"cumsum": (Binary.ADD, 0.0), "cumprod": (Binary.MUL, 1.0)}


@handles(*_RUNNING)
def _cumulative(visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, **kwargs: Any) -> Operand | None:
    """Running sum or product: over time a state, over features one after the other."""
    build, axis = visitor.builder, dim % len(x.shape)
    fn, start = _RUNNING[str(node.target).split(".")[1]]
    if axis == x.time:
        build.place([x])
        state = build.buffer(x.width, "state", np.full(x.width, start))
        build.emit(Code.BINARY, state, x.width, a=state, b=x.ref, fn=int(fn), k=x.width)
        running = replace(x, ref=state, segment=build.segment, bounded=False)
        return build.unary(Unary.COPY, running)
    if x.shape[axis] > 256:
        return None
    parts = [visitor.piece(x, axis, i, node) for i in range(x.shape[axis])]
    for i in range(1, len(parts)):
        parts[i] = build.binary(fn, parts[i - 1], parts[i])
    return visitor.join(parts, axis, node)


@handles("prod")
def _prod(
    visitor: Visitor, node: torch.fx.Node, x: Operand, dim: int, keepdim: bool = False, **kwargs: Any
) -> Operand | None:
    """The product over a feature axis."""
    axis = dim % len(x.shape)
    if axis == x.time or x.shape[axis] > 256:
        return None
    y = visitor.piece(x, axis, 0, node)
    for i in range(1, x.shape[axis]):
        y = visitor.builder.binary(Binary.MUL, y, visitor.piece(x, axis, i, node))
    return replace(y, shape=tuple(visitor.values[node.name].shape), time=visitor.time_axis(node))
