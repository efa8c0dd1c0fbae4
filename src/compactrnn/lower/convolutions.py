"""Convolutions and transposed convolutions, each with the batch norm after it; pooling and repeated entries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..emit.address import LazyView
from ..emit.convolution import Window, convolution, pooled, transposed
from ..graph.aten import argument
from ..graph.trace import operation
from .norms import batch_norm_of
from .visitor import Visitor, array, handles_lazily

_OF = [f"{name}{rank}d" for name in ("conv", "conv_transpose") for rank in (1, 2, 3)]


@handles_lazily("convolution", *_OF)
def _convolution(visitor: Visitor, node: torch.fx.Node, x: Any, weight: Any, bias: Any = None, *rest: Any) -> Any:
    """Within a step in any way, over time a step at a time."""
    if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, Tensor)) or isinstance(x, Tensor):
        return None
    rank, name = weight.dim() - 2, visitor.weight_name(node, node.args[1])
    strides, dilations, after = (
        _per_axis(argument(node, option, default), rank)
        for option, default in (("stride", 1), ("dilation", 1), ("output_padding", 0))
    )
    window = Window.of(weight.shape[2:], strides, dilations)
    window = replace(window, pads=_pads(argument(node, "padding", 0), window))
    turned = "transpose" in operation(node) or argument(node, "transposed", False)
    groups = argument(node, "groups", 1)
    weight, bias = _with_norm(visitor, node, array(weight), None if bias is None else array(bias), turned, groups)
    x = _timed(visitor, node, x)
    if turned:
        return transposed(visitor.mover, x, weight, bias, window, after, groups, name)
    return convolution(visitor.mover, x, weight, bias, window, groups, name)


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(values * rank if len(values) == 1 else values)


def _pads(padding: Any, window: Window) -> tuple[tuple[int, int], ...]:
    """What torch pads with: as many at both ends, or, for "same", what keeps the size."""
    if padding == "same":
        return tuple((reach // 2, reach - reach // 2) for reach in window.reach)
    amounts = _per_axis(0 if padding == "valid" else padding, len(window.kernel))
    return tuple((n, n) for n in amounts)


def _with_norm(
    visitor: Visitor, node: torch.fx.Node, weight: np.ndarray, bias: np.ndarray | None, turned: bool, groups: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias with scale and shift of a batch norm that alone reads the result."""
    users = list(node.users)
    norm = batch_norm_of(visitor, users[0]) if len(users) == 1 and node not in visitor.trace.outputs else None
    if norm is None:
        return weight, bias
    visitor.done.add(users[0].name)
    slope, shift = norm
    shift = shift if bias is None else shift + slope * bias
    ones = [1] * (weight.ndim - 2)
    if turned:
        parts = weight.reshape(groups, -1, *weight.shape[1:]) * slope.reshape(groups, 1, -1, *ones)
        return parts.reshape(weight.shape), shift
    return weight * slope.reshape(-1, 1, *ones), shift


@handles_lazily("max_pool2d", "max_pool3d", "avg_pool2d", "avg_pool3d")
def _pool(visitor: Visitor, node: torch.fx.Node, x: Any, *rest: Any) -> LazyView | None:
    """As convolutions."""
    name, rank, given = operation(node), len(x.shape) - 2, partial(argument, node)
    padding, largest = given("padding", 0), name.startswith("max")
    padded = any(padding if isinstance(padding, list | tuple) else [padding])
    whole = given("ceil_mode", False)
    if int(name[-2]) != rank or (whole and not largest) or given("divisor_override") is not None:
        return None
    if padded and not largest and not given("count_include_pad", True):
        return None
    kernel = _per_axis(given("kernel_size"), rank)
    window = Window.of(kernel, _per_axis(given("stride") or kernel, rank), _per_axis(given("dilation", 1), rank))
    window = replace(window, pads=_pads(padding, window))
    window = window.to_the_end(x.shape[2:]) if whole else window
    return pooled(visitor.mover, _timed(visitor, node, x), window, "max" if largest else "mean")


def _timed(visitor: Visitor, node: torch.fx.Node, x: Any) -> Any:
    """`x` with the time axis that it has however many steps were added to it."""
    return replace(x, time=visitor.time_of(node.args[0])) if isinstance(x, LazyView) else x


@handles_lazily("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _repeated(visitor: Visitor, node: torch.fx.Node, x: Any, *rest: Any) -> LazyView | None:
    """Every entry a whole number of times."""
    shape = tuple(visitor.values[node.name].shape)
    times = [m // n for n, m in zip(x.shape, shape, strict=True)]
    if any(n * count != m for n, m, count in zip(x.shape, shape, times, strict=True)):
        return None

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        found = arrays[0]
        for axis, count in enumerate(times):
            found = np.repeat(found, count, axis)
        return found

    return visitor.mover.move([x], run, visitor.axes[node.name], rate=visitor.rates[node.name])
