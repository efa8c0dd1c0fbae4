"""Reductions and cumulative sums, over features at every step or over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.program import Binary, Code, Reduce, Ref, Top, Unary
from .builder import LAST, Builder, Operand
from .movement import Mover

_OVER_FEATURES = {"sum": Reduce.SUM, "mean": Reduce.SUM, "max": Reduce.MAX, "min": Reduce.MIN}
_OVER_TIME = {
    "sum": (Binary.ADD, 0.0),
    "mean": (Binary.ADD, 0.0),
    "max": (Binary.MAX, -math.inf),
    "min": (Binary.MIN, math.inf),
}
_RUNNING = {"sum": (Binary.ADD, 0.0), "product": (Binary.MUL, 1.0)}
LONGEST = 256  # entries of an axis that are combined one after the other


def moved_last(mover: Mover, x: Operand, dims: Sequence[int]) -> tuple[Operand, int]:
    """`x` with the feature axes `dims` moved last, and how many entries they hold together."""
    order = [d for d in range(len(x.shape)) if d not in dims] + list(dims)
    k = int(np.prod([x.shape[d] for d in dims], dtype=int))
    if order == list(range(len(x.shape))):
        return x, k
    time = None if x.time is None else order.index(x.time)
    return mover.rearrange(x, lambda t: t.transpose(order), time), k


def reduce(mover: Mover, x: Operand, dims: Sequence[int], name: str, keepdims: bool = False) -> Operand:
    """`x` reduced over the axes `dims`, of which one may be time; `name` is "sum", "mean", "max" or "min"."""
    build = mover.builder
    dims = sorted(d % len(x.shape) for d in dims)
    if x.rate > 1 and x.time in dims:
        return _over_frames(mover, x, dims, name, keepdims)
    y, features = x, [d for d in dims if d != x.time]
    if features:
        rows, k = moved_last(mover, x, features)
        fn = _OVER_FEATURES[name]
        y = build.compute(Code.REDUCE, [rows], rows, width=rows.width // k, a=rows.ref, k=k, fn=int(fn))
        y = replace(y, shape=rows.shape[: len(rows.shape) - len(features)])
        y = build.unary(Unary.SCALE_SHIFT, y, 1 / k) if name == "mean" else y
    if x.time in dims:
        counter = _count(build, y, mover.missing(y)) if name == "mean" else None
        y = over_time(mover, y, name)
        y = y if counter is None else _divided(build, y, counter)
    return without(y, x, dims, keepdims)


def _over_frames(mover: Mover, x: Operand, dims: Sequence[int], name: str, keepdims: bool) -> Operand:
    """The same where time is among the axes and a step has several frames: over these first."""
    time = x.time
    assert time is not None
    missing = mover.steps * x.rate - x.shape[time] if mover.steps else 0
    if missing % x.rate:  # the last step has some of its frames
        if name == "mean":
            build, others = mover.builder, math.prod(x.shape[d] for d in dims if d != time)
            counter = _count(build, x, missing, x.rate)
            total = _divided(build, _over_frames(mover, x, dims, "sum", keepdims), counter)
            return build.unary(Unary.SCALE_SHIFT, total, 1 / others)
        x = mover.whole(x, _OVER_TIME[name][1])
    y = reduce(mover, replace(x, shape=x.step_shape, time=None, rate=1), dims, name, keepdims=True)
    shape = tuple(x.shape[d] // x.rate if d == time else n for d, n in enumerate(y.shape))
    y = reduce(mover, replace(y, shape=shape, time=time), [time], name, keepdims=True)
    return y if keepdims else replace(y, shape=tuple(n for d, n in enumerate(y.shape) if d not in dims))


def without(y: Operand, x: Operand, dims: Sequence[int], keepdims: bool) -> Operand:
    """`y`, in the shape of `x` without the axes `dims`, or with one entry along each."""
    kept = [d for d in range(len(x.shape)) if keepdims or d not in dims]
    shape = tuple(1 if d in dims else x.shape[d] for d in kept)
    return replace(y, shape=shape, time=None if x.time is None or x.time in dims else kept.index(x.time))


def over_time(mover: Mover, x: Operand, name: str) -> Operand:
    """A running sum, maximum or minimum whose last value is the result."""
    build, (fn, start) = mover.builder, _OVER_TIME[name]
    x = mover.late(x, start)
    state = _accumulated(build, x, fn, start)
    value = Operand(state, x.step_shape, None, LAST, build.segment)
    build.close(build.where)
    return build.unary(Unary.COPY, value)


def _accumulated(build: Builder, x: Operand, fn: Binary, start: float) -> Ref:
    build.every_step([x])
    state = build.buffer(x.width, "state", np.full(x.width, start))
    build.emit(Code.BINARY, state, x.width, a=state, b=x.ref, fn=int(fn), k=x.width)
    return state


def _count(build: Builder, like: Operand, missing: int, rate: int = 1) -> Ref:
    """How many frames there were, `rate` a step, but for those that are `missing` at the end."""
    build.place([like])
    state = build.buffer(1, "state", np.full(1, -missing))
    build.emit(Code.UNARY, state, 1, a=state, fn=int(Unary.SCALE_SHIFT), p0=1.0, p1=float(rate))
    return state


def _divided(build: Builder, y: Operand, counter: Ref) -> Operand:
    build.place([y])
    dst = build.buffer(y.width)
    build.emit(Code.BINARY, dst, y.width, a=y.ref, b=counter, fn=int(Binary.DIV), k=1)
    return replace(y, ref=dst, kind=build.place([y]), segment=build.segment)


def argmax(mover: Mover, x: Operand, axis: int, keepdims: bool = False) -> Operand:
    """The place of the first of the largest entries along an axis, features or time; NaN is the largest."""
    axis = axis % len(x.shape)
    if axis == x.time:
        return without(_first_over_time(mover, x), x, [axis], keepdims)
    rows, k = moved_last(mover, x, [axis])
    fn = int(Reduce.ARGMAX)
    y = mover.builder.compute(Code.REDUCE, [rows], rows, width=rows.width // k, a=rows.ref, k=k, fn=fn)
    return without(y, x, [axis], keepdims)


def _first_over_time(mover: Mover, x: Operand) -> Operand:
    """The first of the places in time where the entry is the largest of the sequence."""
    build = mover.builder
    if x.rate > 1 or mover.missing(x):
        raise UnsupportedModelError(f"{build.where}: looks for a place in time where a step has not one entry of it")
    largest = replace(over_time(mover, x, "max"), shape=x.shape, time=x.time)
    found = build.binary(Binary.MAX, build.binary(Binary.EQUAL, x, largest), build.binary(Binary.NOT_EQUAL, x, x))
    at, never = places(mover, x), mover.constant(np.full(x.width, math.inf))
    place = build.compute(Code.SELECT, [found, at, never], x, a=at.ref, b=never.ref, c=found.ref)
    return over_time(mover, place, "min")


def places(mover: Mover, x: Operand) -> Operand:
    """For each entry of `x` its place in time."""
    time = x.time or 0
    steps = mover.builder.unary(Unary.SCALE_SHIFT, mover.clock(), 1.0, -1.0)
    steps = replace(steps, shape=tuple(n if d == time else 1 for d, n in enumerate(x.shape)), time=time)
    return mover.spread(steps, x.shape, time)


def top(mover: Mover, x: Operand, k: int, axis: int) -> list[Operand] | None:
    """Top-k along `axis`: values, largest first, and positions; None where a step has several rows of them.

    Over time the largest alone.
    """
    build, axis = mover.builder, axis % len(x.shape)
    if axis == x.time and k == 1:
        return [reduce(mover, x, [axis], "max", keepdims=True), argmax(mover, x, axis, keepdims=True)]
    if axis == x.time:
        raise UnsupportedModelError(
            f"{build.where}: gives the {k} largest numbers of the whole sequence; an engine gives the largest alone:"
            " take them from the numbers of all steps, outside of the model"
        )
    if x.shape[axis] != x.width:
        return None
    shape = tuple(k if d == axis else n for d, n in enumerate(x.shape))
    found = [build.compute(Code.TOP, [x], x, width=k, a=x.ref, k=x.width, fn=int(fn)) for fn in Top]
    return [replace(y, shape=shape) for y in found]


def running(mover: Mover, x: Operand, axis: int, name: str) -> Operand | None:
    """Running "sum" or "product": over time a state, over features one after the other; None where they are many."""
    build, (fn, start) = mover.builder, _RUNNING[name]
    if axis == x.time and x.rate > 1:
        raise UnsupportedModelError(f"{build.where}: runs over time where a step of the engine is {x.rate} frames")
    if axis == x.time:
        state = _accumulated(build, x, fn, start)
        return build.unary(Unary.COPY, replace(x, ref=state, segment=build.segment, bounded=False))
    if x.shape[axis] > LONGEST:
        return None
    parts = [mover.piece(x, axis, i) for i in range(x.shape[axis])]
    for i in range(1, len(parts)):
        parts[i] = build.binary(fn, parts[i - 1], parts[i])
    return mover.join(parts, axis)


def product(mover: Mover, x: Operand, axis: int, keepdims: bool = False) -> Operand | None:
    """The product over a feature axis; None where it is long."""
    if x.shape[axis] > LONGEST:
        return None
    y = mover.piece(x, axis, 0)
    for i in range(1, x.shape[axis]):
        y = mover.builder.binary(Binary.MUL, y, mover.piece(x, axis, i))
    return without(y, x, [axis], keepdims)
