"""Reference outputs of the torch model, and their own rounding error."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..graph.copy import copy_module
from .lowering import Lowered
from .outputs import Port

Rows = list[list[np.ndarray]]  # by sequence and output: time first, no batch axis

_ROUNDING = 2.0**-23  # of one float32 number
_COARSE = 2.0**-17  # of weights, so that thresholds are crossed at another step far more often than by rounding


class Reference:
    """The torch model in float32, and in float64 to bound the error of float32."""

    def __init__(self, lowered: Lowered):
        self.lowered = lowered
        self._model = lowered.model
        self._known: dict[int, tuple[tuple[Tensor, ...], Rows]] = {}

    def run(self, inputs: tuple[Tensor, ...]) -> Rows:
        """The outputs for every sequence of a batch; computed once for the same batch."""
        if id(inputs) not in self._known:
            self._known[id(inputs)] = inputs, self._run(self._model, inputs)
        return self._known[id(inputs)][1]

    def exact(self, inputs: tuple[Tensor, ...]) -> list[Rows]:
        """Bound of the float32 rounding error, from float64 runs with exact and rounded weights.

        Where the model cannot run in float64, float32 with rounded weights alone.
        """
        try:
            return [self._run(m, inputs) for m in self._double]
        except (RuntimeError, TypeError, ValueError):
            return [self._run(_rounded(self._model), inputs)]

    def crossed(self, inputs: tuple[Tensor, ...]) -> Rows:
        """The outputs with coarsely rounded weights, where small differences cross thresholds many times."""
        return self._run(_rounded(self._model, _COARSE), inputs)

    @functools.cached_property
    def _double(self) -> list[nn.Module]:
        double = copy_module(self._model).double()
        return [double, _rounded(double)]

    @torch.no_grad()
    def _run(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Rows:
        rows = self.lowered.axes.rows(inputs)
        if rows > 1 and any(port.batch is None for port in self.lowered.ports):
            batches = self.lowered.axes.batches
            alone = (
                tuple(x if b is None else x.narrow(b, i, 1) for x, b in zip(inputs, batches, strict=True))
                for i in range(rows)
            )
            return [row for one in alone for row in self._run(model, one)]
        with default_dtype(dtype := dtype_of(model)):
            leaves = pytree.tree_leaves(model(*in_dtype(inputs, dtype)))
        return [[_row(leaves[port.place], port, row) for port in self.lowered.ports] for row in range(rows)]


def _row(y: Tensor, port: Port, row: int) -> np.ndarray:
    if port.time is not None:
        y = y.movedim(port.time, 0)
    if port.batch is not None:
        y = y.select(port.batch + (port.time is not None and port.time > port.batch), row)
    if port.rate > 1:
        y = y.unflatten(0, (-1, port.rate))
    return y.numpy()


def dtype_of(model: nn.Module) -> torch.dtype:
    """Dtype of the model."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def in_dtype(inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The inputs, numbers in `dtype`."""
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that the model makes itself have the dtype of its weights.

    And attention gives the same as in training: zeros and not NaN where a mask leaves no step, as the fast path would.
    """
    before, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.set_default_dtype(dtype)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.backends.mha.set_fastpath_enabled(fast)


@torch.no_grad()
def _rounded(model: nn.Module, rounding: float = _ROUNDING) -> nn.Module:
    """A copy with weights perturbed by rounding, by default that of float32."""
    twin, generator = copy_module(model), torch.Generator().manual_seed(0)
    for p in twin.parameters():
        if p.is_floating_point():
            p *= 1 + rounding * (2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1)
    return twin
