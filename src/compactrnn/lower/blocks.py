"""Products with weights, norms, softmax, reductions and recurrent layers."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..runtime.program import Binary, Code, Reduce, Ref, Top, Unary
from . import cell as cells
from .builder import LAST, STEP, Value
from .pointwise import scale
from .visitor import Convolution, Visitor, convolves, handles


def _products(
    visitor: Visitor, node: torch.fx.Node, x: Value, factors: list[np.ndarray], init: Ref | None, weight: int
) -> Value:
    """`init + F1 F2 ... x` for every vector along the last axis; `weight` is the number of the node's argument."""
    build, name = visitor.builder, visitor.weight_name(node, node.args[weight])
    if x.time == len(x.shape) - 1:
        raise UnsupportedModelError(f"{visitor.where(node)}: multiplies along the time axis")
    inner, outer = factors[-1].shape[1], factors[0].shape[0]
    count = x.width // inner
    kind = build.place([x])
    rows = []
    for i in range(count):
        row = replace(x, ref=Ref(x.ref.buffer, x.ref.offset + i * inner), shape=(inner,), time=None)
        rows.append(build.chain(factors, row, init, name))
    shape = (*x.shape[:-1], outer)
    if count == 1:
        return Value(rows[0], shape, x.time, kind, build.segment)
    dst = build.buffer(count * outer)
    for i, row in enumerate(rows):
        build.emit(Code.UNARY, Ref(dst.buffer, i * outer), outer, a=row, fn=int(Unary.COPY))
    return Value(dst, shape, x.time, kind, build.segment)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()


@handles("linear")
def _linear(visitor: Visitor, node: torch.fx.Node, x: Any, weight: Any, bias: Any = None) -> Value | None:
    if not isinstance(x, Value) or not isinstance(weight, Tensor) or isinstance(bias, Value):
        return None
    return _products(visitor, node, x, [_array(weight)], None if bias is None else visitor.constant(bias), 1)


@handles("addmm")
def _addmm(visitor: Visitor, node: torch.fx.Node, bias: Any, x: Any, weight: Any, **kwargs: Any) -> Value | None:
    if kwargs or not isinstance(x, Value) or not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        return None
    return _products(visitor, node, x, [_array(weight.T)], visitor.constant(bias), 2) if bias.dim() == 1 else None


@handles("matmul", "mm", "mv")
def _matmul(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Value | None:
    if isinstance(a, Value) and isinstance(b, Tensor) and b.dim() == 2:
        return _products(visitor, node, a, [_array(b.T)], None, 1)
    return None


@convolves
def _convolution(visitor: Visitor, node: torch.fx.Node, x: Any, weight: Any, bias: Any, options: Convolution) -> Any:
    """A window that slides over time, (1, channels, T): a product with the steps in the window, the latest first."""
    if not isinstance(weight, Tensor) or isinstance(bias, Value) or weight.dim() != 3 or options.groups != 1:
        return None
    if options.stride != 1 or (time := visitor.time_axis(node)) != 2:
        return None
    taps = torch.arange(weight.shape[2]).flip(0) * options.dilation

    def windows(tensors: list[Tensor]) -> Tensor:
        padded = torch.constant_pad_nd(tensors[0], [options.padding, options.padding], int(tensors[1]))
        starts = torch.arange(padded.shape[2] - int(taps[0]))
        return padded[:, :, starts[:, None] + taps].permute(0, 2, 3, 1).flatten(2)

    moved = visitor.mover.move([x, visitor.mover.edge(0.0)], windows, 1, visitor.where(node))
    kernel = _array(weight.flip(2).transpose(1, 2).flatten(1))
    init = None if bias is None else visitor.constant(bias)
    y = _products(visitor, node, visitor.mover.settle(moved, passing=True), [kernel], init, 1)
    return visitor.rearrange(y, lambda t: t.transpose(1, 2), time, node)


@handles("embedding")
def _embedding(visitor: Visitor, node: torch.fx.Node, table: Any, token: Any, *rest: Any) -> Value | None:
    if not isinstance(table, Tensor) or not isinstance(token, Value) or token.width != 1:
        return None
    build = visitor.builder
    kind = build.place([token])
    vocabulary, n = table.shape
    dst = build.buffer(n)
    name = visitor.weight_name(node, node.args[0])
    build.emit(Code.EMBED, dst, n, a=token.ref, tensor=build.tensor(_array(table)), name=name)
    inputs = build.program.inputs
    for i, given in enumerate(inputs):
        if given.buffer == token.ref.buffer:
            inputs[i] = replace(given, vocabulary=min(given.vocabulary or vocabulary, vocabulary))
    return Value(dst, (*token.shape, n), token.time, kind, build.segment)


@handles("one_hot")
def _one_hot(visitor: Visitor, node: torch.fx.Node, token: Value, classes: int = -1) -> Value | None:
    return _embedding(visitor, node, torch.eye(classes), token) if classes > 0 else None


def _last(visitor: Visitor, node: torch.fx.Node, x: Value, dims: list[int]) -> tuple[Value, int]:
    """`x` with the feature axes `dims` moved last, and how many entries they hold together."""
    order = [d for d in range(len(x.shape)) if d not in dims] + dims
    k = int(np.prod([x.shape[d] for d in dims], dtype=int))
    if order == list(range(len(x.shape))):
        return x, k
    time = None if x.time is None else order.index(x.time)
    return visitor.rearrange(x, lambda t: t.permute(order), time, node), k


@handles("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(visitor: Visitor, node: torch.fx.Node, x: Value, dim: int, *rest: Any, **kwargs: Any) -> Value:
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


def _softmax_over_time(visitor: Visitor, node: torch.fx.Node, x: Value, log: bool) -> Value:
    """exp(x - m) / sum over time of exp(x - m), m the maximum over time."""
    build = visitor.builder
    peak = _over_time(visitor, node, x, Binary.MAX, -3.0e38)
    shifted = build.binary(Binary.SUB, x, replace(peak, shape=x.shape, time=x.time))
    powers = build.unary(Unary.EXP, shifted)
    total = replace(_over_time(visitor, node, powers, Binary.ADD, 0.0), shape=x.shape, time=x.time)
    if log:
        return build.binary(Binary.SUB, shifted, build.unary(Unary.LOG, total))
    return replace(build.binary(Binary.DIV, powers, total), bounded=True)


def _over_time(visitor: Visitor, node: torch.fx.Node, x: Value, fn: Binary, start: float) -> Value:
    """A running sum, maximum or minimum whose last value is the result."""
    build = visitor.builder
    build.place([x])
    state = build.buffer(x.width, "state", np.full(x.width, start))
    build.emit(Code.BINARY, state, x.width, a=state, b=x.ref, fn=int(fn), k=x.width)
    value = Value(state, x.step_shape, None, LAST, build.segment)
    build.close(visitor.where(node))
    return build.unary(Unary.COPY, value)


@handles("layer_norm")
def _layer_norm(visitor: Visitor, node: torch.fx.Node, x: Value, shape: list[int], weight: Any = None, bias: Any = None,
                eps: float = 1e-5, *rest: Any) -> Value | None:  # fmt: skip
    k = int(np.prod(shape, dtype=int))
    if x.time is not None and x.time >= len(x.shape) - len(shape):
        return None
    build = visitor.builder
    y = build.compute(Code.LAYER_NORM, [x], x, a=x.ref, k=k, p0=float(eps))
    y = y if weight is None else build.binary(Binary.MUL, y, visitor.constant(weight), period=k)
    return y if bias is None else build.binary(Binary.ADD, y, visitor.constant(bias), period=k)


@handles("_native_batch_norm_legit_no_training")
def _batch_norm(
    visitor: Visitor, node: torch.fx.Node, x: Value, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any
) -> list[Value] | None:
    """(x - mean) / sqrt(variance + eps) * weight + bias with the stored statistics of axis 1."""
    if len(x.shape) < 2 or x.time == 1:
        return None
    slope = (variance + rest[-1]).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * slope
    view = [-1 if d == 1 else 1 for d in range(len(x.shape))]

    def wide(vector: Tensor) -> Value:
        constant = vector.detach().view(view)
        moved = visitor.mover.move([constant], lambda t: t[0].expand(x.shape), x.time, visitor.where(node))
        return visitor.settle(moved)

    return [visitor.builder.binary(Binary.ADD, visitor.builder.binary(Binary.MUL, x, wide(slope)), wide(shift))]


@handles("sum", "mean", "amax", "amin")
def _reduce(
    visitor: Visitor, node: torch.fx.Node, x: Value, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """Over features at every step, or over time; over both in turn."""
    return _reduced(visitor, node, x, dim, str(node.target).split(".")[1])


@handles("linalg_vector_norm")
def _norm(
    visitor: Visitor, node: torch.fx.Node, x: Value, order: float = 2, dim: Any = None, *rest: Any, **kwargs: Any
) -> Any:
    """sqrt(sum x^2), sum |x| or max |x|."""
    build = visitor.builder
    if order == 2:
        return build.unary(Unary.SQRT, _reduced(visitor, node, build.binary(Binary.MUL, x, x), dim, "sum"))
    if order in (1, float("inf")):
        return _reduced(visitor, node, build.unary(Unary.ABS, x), dim, "sum" if order == 1 else "amax")
    return None


def _reduced(visitor: Visitor, node: torch.fx.Node, x: Value, dim: Any, name: str) -> Value:
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
        start = {Reduce.SUM: 0.0, Reduce.MAX: -3.0e38, Reduce.MIN: 3.0e38}[fn]
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


def _largest(visitor: Visitor, node: torch.fx.Node, x: Value, dim: int, fn: Reduce) -> Value:
    """The largest along the feature axis `dim` at every step, or its position."""
    build, axes = visitor.builder, visitor.axes[node.name]
    rows, k = _last(visitor, node, x, [dim])
    y = build.compute(Code.REDUCE, [rows], rows, width=rows.width // k, a=rows.ref, k=k, fn=int(fn))
    result = visitor.values[node.name]
    several = isinstance(result, list | tuple)
    shape = tuple((result[0] if several else result).shape)
    return replace(y, shape=shape, time=axes[0] if several else visitor.time_axis(node))


@handles("argmax", "argmin")
def _argmax(visitor: Visitor, node: torch.fx.Node, x: Value, dim: Any = None, keepdim: bool = False) -> Value | None:
    if not isinstance(dim, int) or dim % len(x.shape) == x.time:
        return None
    signed = scale(visitor.builder, x, -1.0) if "argmin" in str(node.target) else x
    return _largest(visitor, node, signed, dim % len(x.shape), Reduce.ARGMAX)


@handles("max")
def _max(visitor: Visitor, node: torch.fx.Node, x: Value, dim: Any = None, keepdim: bool = False) -> list[Value] | None:
    """The largest along an axis, and their positions."""
    if not isinstance(dim, int) or dim % len(x.shape) == x.time:
        return None
    return [_largest(visitor, node, x, dim % len(x.shape), fn) for fn in (Reduce.MAX, Reduce.ARGMAX)]


@handles("topk")
def _topk(
    visitor: Visitor, node: torch.fx.Node, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list[Value] | None:
    """The largest of a step's numbers, largest first, and their positions."""
    axis = dim % len(x.shape)
    if not largest or not sorted or axis == x.time or x.shape[axis] != x.width:
        return None
    build, (time, _) = visitor.builder, visitor.axes[node.name]
    found = [build.compute(Code.TOP, [x], x, width=k, a=x.ref, k=x.width, fn=int(fn)) for fn in Top]
    return [replace(y, shape=tuple(visitor.values[node.name][0].shape), time=time) for y in found]


def _count(visitor: Visitor, like: Value) -> Ref:
    """A buffer that counts the steps so far."""
    build = visitor.builder
    build.place([like])
    state = build.buffer(1, "state", np.zeros(1))
    build.emit(Code.UNARY, state, 1, a=state, fn=int(Unary.AFFINE), p0=1.0, p1=1.0)
    return state


@handles("recurrent")
def _recurrent(visitor: Visitor, node: torch.fx.Node, key: int, x: Value, states: list[Any]) -> list[Value]:
    leaf, build = visitor.trace.leaves[key], visitor.builder
    if x.kind != STEP or x.time != 0:
        raise UnsupportedModelError(f"{leaf.name}: its input does not change from step to step")
    if x.shape[1] != 1:
        raise UnsupportedModelError(
            f"{leaf.name}: runs over {x.shape[1]} rows of each sequence, as a layer that bands or agents share does; an"
            " engine runs one: give the rows as sequences of their own, or a layer to each"
        )
    if any(isinstance(s, Value) for s in states):
        raise UnsupportedModelError(
            f"{leaf.name}: its initial state is computed from input data; wanted zeros or parameters."
            " The stream keeps the states: leave them out of example_inputs, and let the model start from zeros"
        )
    flat, after = iter(states), []
    for layer, row in enumerate(leaf.cells):
        outputs = []
        for direction, cell in enumerate(row):
            given = [next(flat) for _ in cell.states] if states else None
            source = visitor.mover.flip(x, f"{leaf.name}: bidirectional") if direction else x
            name = functools.partial(leaf.part_name, layer, direction)
            y, last = cells.lower_cell(build, cell, source, cells.initial_states(cell, given), name)
            outputs.append(visitor.mover.flip(y, f"{leaf.name}: bidirectional") if direction else y)
            after += last
        x = outputs[0]
        if len(outputs) > 1:
            x = visitor.settle(visitor.mover.move(list(outputs), lambda t: torch.cat(t, -1), 0, leaf.name))
    return [x, *after]
