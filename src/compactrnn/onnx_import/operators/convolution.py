"""Convolution and pooling in any number of dimensions, as products with windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...emit.address import LazyView
from ...emit.builder import Operand
from ...emit.movement import float32
from ...emit.pointwise import combine
from ...emit.reductions import reduce
from ...runtime.program import Binary
from ..folding import Node
from ..model_file import refuse
from ..visitor import MOST_ROWS, Visitor, handles

_FEW = 4  # entries of a channel's group up to which products are made entry by entry


@dataclass(frozen=True)
class _Window:
    """Sizes of a window along each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, node: Node, size: Sequence[int], kernel: Sequence[int]) -> _Window:
        rank = len(kernel)
        strides, dilations = (tuple(node.get(name, []) or [1] * rank) for name in ("strides", "dilations"))
        flat, auto = node.get("pads", []) or [0] * (2 * rank), node.get("auto_pad", "NOTSET")
        pads = list(zip(flat[:rank], flat[rank:], strict=True))
        if auto.startswith("SAME"):
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
            over = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, strides, reach, strict=True)]
            pads = [(n - n // 2, n // 2) if auto == "SAME_LOWER" else (n // 2, n - n // 2) for n in over]
        elif auto == "VALID":
            pads = [(0, 0)] * rank
        return cls(tuple(kernel), strides, dilations, tuple(pads))


@handles("Conv", lazy=True)
def _convolution(visitor: Visitor, node: Node, x: Any, weight: Any, bias: Any = None) -> Operand | None:
    if not isinstance(weight, np.ndarray) or (bias is not None and not isinstance(bias, np.ndarray)):
        return None
    window = _Window.of(node, x.shape[2:], weight.shape[2:])
    return _convolved(visitor, node, x, window, weight, bias)


@handles("ConvTranspose", lazy=True)
def _transposed(visitor: Visitor, node: Node, x: Any, weight: Any, bias: Any = None) -> Operand | None:
    """A convolution of the input with zeros between its entries, by the kernel turned round."""
    if not isinstance(weight, np.ndarray) or (bias is not None and not isinstance(bias, np.ndarray)):
        return None
    time, groups, rank = visitor.grown(node.inputs[0]), node.get("group", 1), weight.ndim - 2
    if node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape", [0]) != [0] or time not in (None, 0):
        return None
    plain = _Window.of(node, x.shape[2:], weight.shape[2:])
    reach = [(k - 1) * d for k, d in zip(plain.kernel, plain.dilations, strict=True)]
    after = node.get("output_padding", [0] * rank)
    ends = zip(plain.pads, reach, after, strict=True)
    pads = tuple((r - begin, r - end + more) for (begin, end), r, more in ends)
    spaced = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], plain.strides, strict=True))

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        moved, zero = arrays
        wide = np.full((*moved.shape[:2], *spaced), int(zero))
        wide[(..., *(slice(None, None, s) for s in plain.strides))] = moved
        return wide

    moved = visitor.mover.move([x, float32(0.0)], run, time)
    window = _Window(plain.kernel, (1,) * rank, plain.dilations, pads)
    parts = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    turned = parts.reshape(-1, *parts.shape[2:])[(..., *(slice(None, None, -1),) * rank)]
    return _convolved(visitor, node, moved, window, turned, bias)


def _convolved(
    visitor: Visitor, node: Node, x: Any, window: _Window, weight: np.ndarray, bias: np.ndarray | None
) -> Operand:
    groups, name = node.get("group", 1), visitor.weight_name(node, 1)
    moved = _windows(visitor, node, x, window, 0.0)
    count = weight.shape[1]
    if groups == 1:
        rows = visitor.mover.materialize(_channels_last(visitor, moved), passing=True)
        y = visitor.linear(node, rows, _matrix(weight), bias, name)
        return _channels_second(visitor, node, y)
    per = len(weight) // groups
    if count <= _FEW and per <= _FEW:
        return _by_entries(visitor, node, moved, weight, bias, groups)
    parts = []
    for group in range(groups):
        part = visitor.mover.move([moved], lambda a, g=group: a[0][:, g * count : (g + 1) * count], moved.time)
        rows = visitor.mover.materialize(_channels_last(visitor, part), passing=True)
        chosen = slice(group * per, (group + 1) * per)
        own = None if bias is None else bias[chosen]
        parts.append(visitor.linear(node, rows, _matrix(weight[chosen]), own, f"{name}.group{group}"))
    return _channels_second(visitor, node, visitor.mover.join(parts, -1))


def _matrix(weight: np.ndarray) -> np.ndarray:
    """The kernel as the matrix of a window, whose last entry comes first."""
    taps = np.moveaxis(weight, 1, -1).reshape(len(weight), -1, weight.shape[1])
    return taps[:, ::-1].reshape(len(weight), -1)


def _by_entries(
    visitor: Visitor, node: Node, moved: LazyView, weight: np.ndarray, bias: np.ndarray | None, groups: int
) -> Operand:
    """The sum of products of entries: for groups of few channels, where matrices would be tiny."""
    build, mover, (shape, time) = visitor.builder, visitor.mover, visitor.result(node)
    count, per, taps = weight.shape[1], len(weight) // groups, math.prod(weight.shape[2:])
    flat, total = weight.reshape(len(weight), count, taps), None
    view = (1, len(weight), *[1] * (len(shape) - 2))
    for channel in range(count):
        chosen = np.repeat(np.arange(groups) * count + channel, per)
        for tap in range(taps):
            one = mover.materialize(mover.move([moved], lambda a, t=tap, c=chosen: a[0][..., taps - 1 - t][:, c], time))
            product = build.binary(Binary.MUL, one, mover.spread(flat[:, channel, tap].reshape(view), shape, time))
            total = product if total is None else combine(build, Binary.ADD, total, product)
    assert total is not None
    if bias is None:
        return total
    return combine(build, Binary.ADD, total, mover.spread(bias.reshape(view), shape, time))


@handles("MaxPool", "AveragePool", lazy=True)
def _pool(visitor: Visitor, node: Node, x: Any) -> Operand | None:
    kernel = node.get("kernel_shape", [1])
    if node.get("ceil_mode", 0) or node.get("storage_order", 0) or len([o for o in node.outputs if o]) > 1:
        return None
    window, largest = _Window.of(node, x.shape[2:], kernel), node.op == "MaxPool"
    if not largest and not node.get("count_include_pad", 0) and any(any(p) for p in window.pads):
        return None
    moved = visitor.mover.materialize(_windows(visitor, node, x, window, -np.inf if largest else 0.0))
    return reduce(visitor.mover, moved, [len(moved.shape) - 1], "max" if largest else "mean")


def _windows(visitor: Visitor, node: Node, x: Any, window: _Window, filling: float) -> LazyView:
    """(N, C, *out, taps): the entries under each window, the last one first."""
    time = visitor.grown(node.inputs[0])
    shape, after = visitor.result(node)
    count = math.prod(n for d, n in enumerate(shape) if d not in (1, after))
    if count > MOST_ROWS:
        raise refuse(node.proto, f"has {count} windows within each step; at most {MOST_ROWS} are taken")
    rank = len(window.kernel)
    if len(x.shape) != rank + 2 or not rank:
        raise refuse(node.proto, f"does not fit an input of shape {tuple(x.shape)}")
    if isinstance(time, str) or time == 1:
        raise refuse(node.proto, "runs over channels that are time")
    if time is not None and time >= 2 and (window.strides[time - 2] != 1 or after != time):
        raise refuse(node.proto, "changes the number of steps; an engine gives one result for each")
    padded = visitor.mover.pad(x, [(0, 0), (0, 0), *window.pads], filling, time)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        wide = arrays[0]
        for axis in range(rank):
            taps = np.arange(window.kernel[axis]) * window.dilations[axis]
            places = (np.arange(shape[axis + 2]) * window.strides[axis])[:, None] + taps
            wide = np.moveaxis(np.take(wide, places, 2 + axis), 3 + axis, -1)
        return wide.reshape(*wide.shape[: rank + 2], -1)[..., ::-1]

    return visitor.mover.move([padded], run, time)


def _channels_last(visitor: Visitor, moved: LazyView) -> LazyView:
    """(N, *out, taps and channels) of (N, C, *out, taps)."""
    time = moved.time
    assert not isinstance(time, str)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        last = np.moveaxis(arrays[0], 1, -1)
        return last.reshape(*last.shape[:-2], -1)

    return visitor.mover.move([moved], run, time - 1 if time else time)


def _channels_second(visitor: Visitor, node: Node, y: Operand) -> Operand:
    return visitor.mover.rearrange(y, lambda t: np.moveaxis(t, -1, 1), visitor.result(node)[1])
