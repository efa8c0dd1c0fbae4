"""Convolution in any number of dimensions, as products with windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.program import Binary
from .address import LazyView
from .builder import Operand
from .movement import Mover, float32
from .products import depthwise, over_windows
from .reductions import reduce

MOST_ROWS = 4096  # windows, or vectors that are multiplied, within a step
_FEW = 4  # entries of a channel's group up to which products are made entry by entry


@dataclass(frozen=True)
class Window:
    """Sizes of a window along each spatial axis.

    >>> Window.of((2, 3), strides=(1, 2), pads=((1, 0), (1, 1))).outputs((9, 8))
    (9, 4)
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        strides: Sequence[int] = (),
        dilations: Sequence[int] = (),
        pads: Sequence[tuple[int, int]] = (),
    ) -> Window:
        """A window of this size; without strides, dilations or pads along an axis, of one, one and zero."""
        ones = (1,) * len(kernel)
        zeros = tuple((0, 0) for _ in kernel)
        return cls(tuple(kernel), tuple(strides) or ones, tuple(dilations) or ones, tuple(pads) or zeros)

    def to_the_end(self, sizes: Sequence[int]) -> Window:
        """The same with padding behind such that windows which end outside of the sizes count, too.

        >>> Window.of((3,), strides=(2,)).to_the_end((8,)).outputs((8,))
        (4,)
        """
        pads = []
        for n, (begin, end), reach, stride in zip(sizes, self.pads, self.reach, self.strides, strict=True):
            last = min(-(-(n + begin + end - reach - 1) // stride), (n + begin - 1) // stride) * stride
            pads.append((begin, max(end, last + reach + 1 - n - begin)))
        return replace(self, pads=tuple(pads))

    @property
    def reach(self) -> tuple[int, ...]:
        """Along each axis, how far its last entry is from its first."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True))

    def outputs(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many windows there are along each axis of these sizes."""
        of = zip(sizes, self.pads, self.reach, self.strides, strict=True)
        return tuple((n + begin + end - reach - 1) // stride + 1 for n, (begin, end), reach, stride in of)


def convolution(
    mover: Mover,
    x: Operand | LazyView,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    window: Window | None = None,
    groups: int = 1,
    name: str = "",
) -> LazyView:
    """Convolution over all axes but the first two: one product with each window, over time the newest step first.

    Over time it is causal where all padding comes first; what padding behind adds to the number of steps can be cut
    off. Without padding there are fewer steps.

    Args:
        mover: what moves and writes.
        x: (N, channels in, *sizes), also moved entries that are not yet in place; time may be N or one of the sizes.
        weight: (channels out, channels in / groups, *kernel).
        bias: (channels out,).
        window: strides, dilations and zeros around `x`; one over time is its stride.
        groups: of channels, each of which is convolved for itself.
        name: of the weights in the model.

    Raises:
        UnsupportedModelError: it adds steps, or has too many windows.
    """
    window = window or Window.of(weight.shape[2:])
    moved = windows(mover, x, window, 0.0)
    time = moved.time
    assert not isinstance(time, str)
    count, per = weight.shape[1], len(weight) // groups
    if groups > 1 and count <= _FEW and per <= _FEW:
        parts = [_by_entries(mover, moved, weight, bias, groups)]
    else:
        parts = []
        for group in range(groups):
            part = mover.move([moved], lambda a, g=group: a[0][:, g * count : (g + 1) * count], time)
            chosen = slice(group * per, (group + 1) * per)
            matrix, own = _matrix(weight[chosen], time is not None), None if bias is None else bias[chosen]
            called = name if groups == 1 else f"{name}.group{group}"
            parts.append(over_windows(mover, _channels_last(mover, part), matrix, own, called))
    y = mover.move(parts, lambda arrays: np.moveaxis(np.concatenate(arrays, -1), -1, 1), time)
    return _with_all(mover, x, y, window)


def pooled(mover: Mover, x: Operand | LazyView, window: Window, name: str) -> LazyView:
    """The "max" or "mean" of each window, as `convolution` takes them."""
    moved = mover.materialize(windows(mover, x, window, -np.inf if name == "max" else 0.0))
    y = reduce(mover, moved, [len(moved.shape) - 1], name)
    return _with_all(mover, x, mover.move([y], lambda arrays: arrays[0], y.time), window)


def _with_all(mover: Mover, x: Operand | LazyView, y: LazyView, window: Window) -> LazyView:
    """`y` with what padding behind adds to the number of steps, which is not known."""
    if not isinstance(y.time, int) or y.time < 2:
        return y
    added = window.outputs(x.shape[2:])[y.time - 2] - y.shape[y.time]
    return mover.beyond(y, added) if added else y


def transposed(
    mover: Mover,
    x: Operand | LazyView,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    window: Window | None = None,
    after: Sequence[int] = (),
    groups: int = 1,
    name: str = "",
) -> LazyView:
    """Transposed convolution: one of the input with zeros between its entries, by the kernel turned round.

    Args:
        mover: what moves and writes.
        x: as in `convolution`.
        weight: (channels in, channels out / groups, *kernel).
        bias: (channels out,).
        window: strides, dilations, and what is cut off at both ends.
        after: entries that are added at the end of each axis.
        groups: as in `convolution`, and so is `name`.
        name: of the weights in the model.
    """
    window = window or Window.of(weight.shape[2:])
    rank, time = len(window.kernel), x.time
    after = tuple(after) or (0,) * rank
    rate = x.rate * (window.strides[time - 2] if isinstance(time, int) and time >= 2 else 1)
    if rate > x.rate and mover.steps is None:
        raise UnsupportedModelError(f"{mover.builder.where}: gives several results for each step")
    ends = zip(window.pads, window.reach, after, strict=True)
    pads = [(reach - begin, reach - end + more) for (begin, end), reach, more in ends]
    spaced = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], window.strides, strict=True))

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        moved, zero = arrays
        wide = np.full((*moved.shape[:2], *spaced), int(zero))
        wide[(..., *(slice(None, None, s) for s in window.strides))] = moved
        return wide

    moved = x if all(s == 1 for s in window.strides) else mover.move([x, float32(0.0)], run, time, rate=rate)
    parts = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    turned = parts.reshape(-1, *parts.shape[2:])[(..., *(slice(None, None, -1),) * rank)]
    return convolution(mover, moved, turned, bias, Window.of(window.kernel, (), window.dilations, pads), groups, name)


def windows(mover: Mover, x: Operand | LazyView, window: Window, filling: float) -> LazyView:
    """(N, C, *out, taps): the entries under each window, over time the last one first and as many as there are steps.

    Raises:
        UnsupportedModelError: as in `convolution`.
    """
    time, where, rank = x.time, mover.builder.where, len(window.kernel)
    if len(x.shape) != rank + 2 or not rank:
        raise UnsupportedModelError(f"{where}: does not fit an input of shape {tuple(x.shape)}")
    if isinstance(time, str) or time == 1:
        raise UnsupportedModelError(f"{where}: runs over channels that are time")
    outputs = list(window.outputs(x.shape[2:]))
    rate = x.rate
    if time is not None and time >= 2:
        steps, stride = mover.frames(x), window.strides[time - 2]
        if rate % stride:
            raise UnsupportedModelError(
                f"{where}: has a stride of {stride} over time where a step of the engine is {rate} frames; expected a"
                " multiple of the stride"
            )
        outputs[time - 2], rate = min(outputs[time - 2], steps // stride), rate // stride
    rows = (x.shape[0], *outputs)
    count = math.prod(n for axis, n in enumerate(rows) if time is None or axis != max(time - 1, 0))
    count *= rate if time is not None else 1
    if count > MOST_ROWS:
        raise UnsupportedModelError(f"{where}: has {count} windows within each step; at most {MOST_ROWS} are taken")
    padded = mover.pad(x, [(0, 0), (0, 0), *window.pads], filling, time)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        wide = arrays[0]
        for axis in range(rank):
            taps = np.arange(window.kernel[axis]) * window.dilations[axis]
            places = (np.arange(outputs[axis]) * window.strides[axis])[:, None] + taps
            wide = np.moveaxis(np.take(wide, places, 2 + axis), 3 + axis, -1)
        wide = wide.reshape(*wide.shape[: rank + 2], -1)
        return wide if time is None else wide[..., ::-1]

    return mover.move([padded], run, time, rate=rate)


def _matrix(weight: np.ndarray, over_time: bool) -> np.ndarray:
    """The kernel as the matrix of a window, of whose entries over time the last one comes first."""
    taps = np.moveaxis(weight, 1, -1).reshape(len(weight), -1, weight.shape[1])
    return float32((taps[:, ::-1] if over_time else taps).reshape(len(weight), -1))


def _by_entries(mover: Mover, moved: LazyView, weight: np.ndarray, bias: np.ndarray | None, groups: int) -> Operand:
    """(N, *out, C): the sum of products of entries, for groups of few channels, where matrices would be tiny."""
    build = mover.builder
    count, per, channels = weight.shape[1], len(weight) // groups, len(weight)
    kernel, total = _matrix(weight, moved.time is not None).reshape(channels, -1, weight.shape[-1], count), None
    for channel in range(count):
        chosen = np.repeat(np.arange(groups) * count + channel, per)
        part = _channels_last(mover, mover.move([moved], lambda a, c=chosen: a[0][:, c], moved.time))
        for line in range(kernel.shape[1]):
            taps = slice(line * kernel.shape[2] * channels, (line + 1) * kernel.shape[2] * channels)
            entries = mover.move([part], lambda a, t=taps: a[0][..., t], part.time)
            total = _add_line(mover, entries, kernel[:, line, :, channel].T, total)
    assert total is not None
    return total if bias is None else build.binary(Binary.ADD, total, mover.constant(bias), period=channels)


def _add_line(mover: Mover, moved: LazyView, taps: np.ndarray, total: Operand | None) -> Operand:
    """`total`, (N, *out, C), and the products of `taps`, (taps, C), with `moved`, (N, *out, taps and C).

    Over time, and where windows are one step apart, these are vectors at equal distances, and the products one
    operation.
    """
    places, channels = taps.shape
    shape = (*moved.shape[:-1], channels)
    if moved.time is not None:
        assert isinstance(moved.time, int)

        def places_first(arrays: list[np.ndarray]) -> np.ndarray:
            return np.moveaxis(arrays[0].reshape(*moved.shape[:-1], places, channels), -2, 0)

        x = mover.materialize(mover.move([moved], places_first, moved.time + 1))
        return depthwise(mover.builder, x, shape, moved.time, taps, total)
    flat = moved.address.reshape(-1, moved.shape[-1])
    if np.array_equal(flat[:-1, channels:], flat[1:, :-channels]):
        whole = np.concatenate([flat[0], flat[1:, -channels:].ravel()])
        x = mover.materialize(LazyView(moved.operands, whole, None, moved.where))
        return depthwise(mover.builder, x, shape, None, taps, total)
    for number, tap in enumerate(taps):
        columns = slice(number * channels, (number + 1) * channels)
        x = mover.materialize(mover.move([moved], lambda a, c=columns: a[0][..., c], None))
        total = depthwise(mover.builder, x, shape, None, tap[None], total)
    assert total is not None
    return total


def _channels_last(mover: Mover, moved: LazyView) -> LazyView:
    """(N, *out, taps and channels) of (N, C, *out, taps)."""
    time = moved.time
    assert not isinstance(time, str)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        last = np.moveaxis(arrays[0], 1, -1)
        return last.reshape(*last.shape[:-2], -1)

    return mover.move([moved], run, time - 1 if time else time)
