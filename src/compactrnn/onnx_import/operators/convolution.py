"""Convolution and pooling in any number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...emit.address import LazyView
from ...emit.convolution import Window, convolution, pooled, transposed
from ..folded import Node
from ..visitor import Visitor, handles


def _window(node: Node, size: Sequence[int], kernel: Sequence[int]) -> Window:
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
    return Window.of(kernel, strides, dilations, pads)


@handles("Conv", lazy=True)
def _convolution(visitor: Visitor, node: Node, x: Any, weight: Any, bias: Any = None) -> LazyView | None:
    if not isinstance(weight, np.ndarray) or (bias is not None and not isinstance(bias, np.ndarray)):
        return None
    window = _window(node, x.shape[2:], weight.shape[2:])
    x = visitor.timed(x, node.inputs[0])
    return convolution(visitor.mover, x, weight, bias, window, node.get("group", 1), visitor.weight_name(node, 1))


@handles("ConvTranspose", lazy=True)
def _transposed(visitor: Visitor, node: Node, x: Any, weight: Any, bias: Any = None) -> LazyView | None:
    if not isinstance(weight, np.ndarray) or (bias is not None and not isinstance(bias, np.ndarray)):
        return None
    if node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape", [0]) != [0]:
        return None
    window, after = _window(node, x.shape[2:], weight.shape[2:]), node.get("output_padding", [])
    groups, name = node.get("group", 1), visitor.weight_name(node, 1)
    x = visitor.timed(x, node.inputs[0])
    return transposed(visitor.mover, x, weight, bias, window, after, groups, name)


@handles("MaxPool", "AveragePool", lazy=True)
def _pool(visitor: Visitor, node: Node, x: Any) -> LazyView | None:
    kernel = node.get("kernel_shape", [1])
    window, largest = _window(node, x.shape[2:], kernel), node.op == "MaxPool"
    whole = node.get("ceil_mode", 0)
    if (whole and not largest) or node.get("storage_order", 0) or len([o for o in node.outputs if o]) > 1:
        return None
    if not largest and not node.get("count_include_pad", 0) and any(any(p) for p in window.pads):
        return None
    window = window.to_the_end(x.shape[2:]) if whole else window
    return pooled(visitor.mover, visitor.timed(x, node.inputs[0]), window, "max" if largest else "mean")
