"""Convolution and pooling in any number of dimensions, as products with windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...emit.address import LazyView
from ...emit.builder import Operand
from ...emit.movement import Mover, float32
from ...emit.pointwise import combine
from ...emit.products import over_windows
from ...emit.reductions import reduce
from ...runtime.program import Binary, Ref
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
def _convolution(visitor: Visitor, node: Node, x: Any, weight: Any, bias: Any = None) -> LazyView | None:
    if not isinstance(weight, np.ndarray) or (bias is not None and not isinstance(bias, np.ndarray)):
        return None
    window = _Window.of(node, x.shape[2:], weight.shape[2:])
    return _convolved(visitor, node, x, window, weight, bias)


@handles("ConvTranspose", lazy=True)
def _transposed(visitor: Visitor, node: Node, x: Any, weight: Any, bias: Any = None) -> LazyView | None:
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
) -> LazyView:
    groups, name, mover = node.get("group", 1), visitor.weight_name(node, 1), visitor.mover
    moved = _windows(visitor, node, x, window, 0.0)
    count, per = weight.shape[1], len(weight) // groups
    if groups > 1 and count <= _FEW and per <= _FEW:
        return _channels_second(visitor, node, [_by_entries(visitor, node, moved, weight, bias, groups)])
    parts = []
    for group in range(groups):
        part = mover.move([moved], lambda a, g=group: a[0][:, g * count : (g + 1) * count], moved.time)
        chosen = slice(group * per, (group + 1) * per)
        matrix, own = _matrix(weight[chosen], moved.time is not None), None if bias is None else bias[chosen]
        called = name if groups == 1 else f"{name}.group{group}"
        parts.append(over_windows(mover, _channels_last(visitor, part), matrix, own, called))
    return _channels_second(visitor, node, parts)


def _matrix(weight: np.ndarray, over_time: bool) -> np.ndarray:
    """The kernel as the matrix of a window, of whose entries over time the last one comes first."""
    taps = np.moveaxis(weight, 1, -1).reshape(len(weight), -1, weight.shape[1])
    return float32((taps[:, ::-1] if over_time else taps).reshape(len(weight), -1))


def _by_entries(
    visitor: Visitor, node: Node, moved: LazyView, weight: np.ndarray, bias: np.ndarray | None, groups: int
) -> Operand:
    """(N, *out, C): the sum of products of entries, for groups of few channels, where matrices would be tiny."""
    build, mover = visitor.builder, visitor.mover
    count, per, channels = weight.shape[1], len(weight) // groups, len(weight)
    kernel, total = _matrix(weight, moved.time is not None).reshape(channels, -1, weight.shape[-1], count), None
    for channel in range(count):
        chosen = np.repeat(np.arange(groups) * count + channel, per)
        part = _channels_last(visitor, mover.move([moved], lambda a, c=chosen: a[0][:, c], moved.time))
        for line in range(kernel.shape[1]):
            taps = slice(line * kernel.shape[2] * channels, (line + 1) * kernel.shape[2] * channels)
            windows = mover.move([part], lambda a, t=taps: a[0][..., t], part.time)
            for tap, x in enumerate(_entries(mover, windows, channels)):
                weights = mover.constant(kernel[:, line, tap, channel])
                product = build.binary(Binary.MUL, x, weights, period=channels)
                total = product if total is None else combine(build, Binary.ADD, total, product)
    assert total is not None
    return total if bias is None else build.binary(Binary.ADD, total, mover.constant(bias), period=channels)


def _entries(mover: Mover, windows: LazyView, channels: int) -> list[Operand]:
    """For each place of `windows`, (N, *out, places and channels), its entries under all of them, (N, *out, channels).

    Where windows are one step apart these are parts of one vector.
    """
    shape, places = (*windows.shape[:-1], channels), windows.shape[-1] // channels
    flat = windows.address.reshape(-1, windows.shape[-1])
    if windows.time is None and np.array_equal(flat[:-1, channels:], flat[1:, :-channels]):
        whole = np.concatenate([flat[0], flat[1:, -channels:].ravel()])
        x = mover.materialize(LazyView(windows.operands, whole, None, windows.where))
        at = [Ref(x.ref.buffer, x.ref.offset + place * channels) for place in range(places)]
        return [replace(x, ref=ref, shape=shape) for ref in at]
    parts = [slice(place * channels, (place + 1) * channels) for place in range(places)]
    return [mover.materialize(mover.move([windows], lambda a, p=part: a[0][..., p], windows.time)) for part in parts]


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
    """(N, C, *out, taps): the entries under each window, over time the last one first."""
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
        wide = wide.reshape(*wide.shape[: rank + 2], -1)
        return wide if time is None else wide[..., ::-1]

    return visitor.mover.move([padded], run, time)


def _channels_last(visitor: Visitor, moved: LazyView) -> LazyView:
    """(N, *out, taps and channels) of (N, C, *out, taps)."""
    time = moved.time
    assert not isinstance(time, str)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        last = np.moveaxis(arrays[0], 1, -1)
        return last.reshape(*last.shape[:-2], -1)

    return visitor.mover.move([moved], run, time - 1 if time else time)


def _channels_second(visitor: Visitor, node: Node, parts: list[Operand]) -> LazyView:
    """(N, C, *out) of channels that come last, in several parts."""
    return visitor.mover.move(
        parts, lambda arrays: np.moveaxis(np.concatenate(arrays, -1), -1, 1), visitor.result(node)[1]
    )
