"""Fourier transforms, as products with constant matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...emit.address import LazyView
from ...emit.builder import Operand
from ...emit.convolution import Window, convolution
from ..folded import Node
from ..visitor import Visitor, handles
from .einsum import moved


@handles("STFT", lazy=True)
def _of_frames(
    visitor: Visitor, node: Node, x: Any, step: Any, window: Any = None, length: Any = None
) -> LazyView | None:
    """Y[b, t, k] = sum over n of window[n] x[b, t step + n] exp(-2 pi i k n / N), a convolution with a stride."""
    if not all(v is None or isinstance(v, np.ndarray) for v in (step, window, length)):
        return None
    n = int(length.ravel()[0]) if length is not None else 0 if window is None else len(window)
    if n < 1 or (window is not None and window.shape != (n,)) or (len(x.shape) == 3 and x.shape[2] != 1):
        return None
    weight = np.ones(n) if window is None else window
    kernel = np.stack(_waves(n, n, _bins(node, n, 1)), 1) * weight[:, None, None]  # (n, 2, bins)
    bins, before = kernel.shape[-1], _exact(visitor)
    x = visitor.timed(x, node.inputs[0])
    x = visitor.mover.move([x], lambda a: a[0].reshape(len(a[0]), 1, -1), None if x.time is None else 2 * x.time)
    strides = Window.of((n,), (int(step.ravel()[0]),))
    y = convolution(visitor.mover, x, kernel.reshape(n, -1).T[:, None], None, strides, 1, before[1])
    _keep(visitor, before)
    time = {None: None, 0: 0, 2: 1}[y.time]  # pyright: ignore[reportArgumentType]
    return visitor.mover.move([y], lambda a: a[0].reshape(len(a[0]), 2, bins, -1).transpose(0, 3, 2, 1), time)


@handles("DFT")
def _dft(visitor: Visitor, node: Node, x: Operand, length: Any = None, axis: Any = None) -> Operand | None:
    """Along an axis of a step, of real numbers or complex ones, (..., 2), which are padded or cut to the length."""
    if not isinstance(x, Operand) or not all(v is None or isinstance(v, np.ndarray) for v in (length, axis)):
        return None
    old = visitor.file.opsets.get("", 20) < 20
    along = node.get("axis", 1) if old else -2 if axis is None else int(axis.ravel()[0])
    along, rank, parts = along % len(x.shape), len(x.shape), x.shape[-1]
    inverse, one_sided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    whole = 2 * (x.shape[along] - 1) if inverse and one_sided else x.shape[along]
    n = whole if length is None else int(length.ravel()[0])
    if along == rank - 1 or x.time in (along, rank - 1) or parts not in (1, 2) or n < 1:
        return None
    if one_sided and parts != (2 if inverse else 1):
        return None
    given = min(_bins(node, n, 0) if inverse else n, x.shape[along])
    real, imaginary = _waves(given, n, n if inverse else _bins(node, n, 0), inverse)
    matrix = np.stack([np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)][:parts], 1)
    if inverse and one_sided:  # the other bins are conjugate, and the signal is real
        alone = np.isin(np.arange(given), (0, n / 2))
        matrix = np.where(alone, 1, 2)[:, None, None, None] * matrix[..., :1]
    results = matrix.shape[-1]
    matrix = matrix.reshape(given * parts, -1).T
    order = [*(d for d in range(rank - 1) if d != along), along, rank - 1]
    sizes = [x.shape[d] for d in order[:-2]]
    rows = moved(visitor, x, lambda t: np.take(t.transpose(order), range(given), -2).reshape(*sizes, -1))
    before = _exact(visitor)
    y = visitor.linear(node, rows, matrix, None, before[1])
    _keep(visitor, before)
    return moved(visitor, y, lambda t: t.reshape(*sizes, -1, results).transpose(np.argsort(order)))


def _bins(node: Node, n: int, default: int) -> int:
    return n // 2 + 1 if node.get("onesided", default) else n


def _waves(given: int, n: int, bins: int, inverse: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """cos and -sin of 2 pi k m / n, (given, bins) each; of the inverse transform cos and sin, divided by n."""
    angle = 2 * np.pi / n * (np.outer(np.arange(given), np.arange(bins)) % n)
    return (np.cos(angle) / n, np.sin(angle) / n) if inverse else (np.cos(angle), -np.sin(angle))


def _exact(visitor: Visitor) -> tuple[int, str]:
    """How many matrices there are, and a name for the next: as a transform is no weight, it is not quantized."""
    return len(visitor.builder.program.tensors), visitor.builder.where.partition(":")[0]


def _keep(visitor: Visitor, before: tuple[int, str]) -> None:
    visitor.builder.keep_exact(before[0], (), before[1])
