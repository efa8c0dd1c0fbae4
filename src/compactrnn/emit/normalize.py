"""Softmax, layer norm and batch norm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..runtime.program import Binary, Code, Unary
from .builder import Builder, Operand
from .movement import Mover
from .reductions import moved_last, over_time, reduce


def softmax(mover: Mover, x: Operand, axis: int, log: bool = False) -> Operand:
    """exp(x) / sum of exp(x) along `axis`, features or time; with `log` its logarithm."""
    build, axis = mover.builder, axis % len(x.shape)
    if axis == x.time:
        return _softmax_over_time(mover, x, log)
    rows, k = moved_last(mover, x, [axis])
    y = build.compute(Code.LOG_SOFTMAX if log else Code.SOFTMAX, [rows], rows, a=rows.ref, k=k)
    order = [d for d in range(len(x.shape)) if d != axis] + [axis]
    if order == sorted(order):
        return replace(y, bounded=not log)
    back = [order.index(d) for d in range(len(order))]
    return mover.rearrange(y, lambda t: t.transpose(back), x.time)


def _softmax_over_time(mover: Mover, x: Operand, log: bool) -> Operand:
    """exp(x - m) / sum over time of exp(x - m), m the maximum over time."""
    build, time = mover.builder, x.time
    assert time is not None

    def of_all(y: Operand, name: str) -> Operand:
        if x.rate > 1:
            return mover.spread_like(reduce(mover, y, [time], name, keepdims=True), x)
        return replace(over_time(mover, y, name), shape=x.shape, time=time)

    shifted = build.binary(Binary.SUB, x, of_all(x, "max"))
    powers = build.unary(Unary.EXP, shifted)
    total = of_all(powers, "sum")
    if log:
        return build.binary(Binary.SUB, shifted, build.unary(Unary.LOG, total))
    return replace(build.binary(Binary.DIV, powers, total), bounded=True)


def layer_norm(
    build: Builder, x: Operand, k: int, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> Operand:
    """Layer norm over every `k` entries, with `weight` and `bias` of (k,)."""
    y = build.compute(Code.LAYER_NORM, [x], x, a=x.ref, k=k, p0=float(eps))
    y = y if weight is None else build.binary(Binary.MUL, y, build.constant(weight), period=k)
    return y if bias is None else build.binary(Binary.ADD, y, build.constant(bias), period=k)


def scale_axis(mover: Mover, x: Operand, axis: int, slope: np.ndarray, shift: np.ndarray) -> Operand:
    """`slope` x + `shift`, a number each for every entry of a feature axis: a batch norm with stored statistics."""
    view = [-1 if d == axis else 1 for d in range(len(x.shape))]

    def wide(vector: np.ndarray) -> Operand:
        return mover.spread_like(vector.reshape(view), x)

    scaled = mover.builder.binary(Binary.MUL, x, wide(slope))
    return mover.builder.binary(Binary.ADD, scaled, wide(shift))
