"""Block-diagonal linear recurrences over time (for example complex states), with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._ordinary import why_not_native
from . import _linear_scan  # pyright: ignore[reportAttributeAccessIssue]


def block_scan(decay: Tensor, x: Tensor, initial: Tensor, *, reverse: bool = False) -> Tensor:
    """All states of `h_t = A_t h_{t-1} + x_t`, `h_0 = initial`, where every column has its own k x k matrix A_t.

    Shapes: x (k, T, B, n); initial (k, B, n); decay (k, k, T, B, n), or (k, k, B, n) or (k, k, n) where it is the same
    at all times; the result (k, T, B, n). With `reverse` time runs from T to 1 and `initial` is the state after T.

    Float32 on the CPU runs natively, all else in torch, step by step; any number of derivatives may be taken. Of one
    state, k = 1, `linear_scan` is the faster form.

    >>> rotation = torch.tensor([[[0.0], [-1.0]], [[1.0], [0.0]]])  # multiplication by i
    >>> h = block_scan(rotation, torch.zeros(2, 3, 1, 1), torch.tensor([[[1.0]], [[0.0]]]))
    >>> h.squeeze().T
    tensor([[ 0.,  1.],
            [-1.,  0.],
            [ 0., -1.]])
    """
    decay = decay.unsqueeze(2).expand(*decay.shape[:2], *initial.shape[1:]) if decay.dim() == 3 else decay
    return _BlockScan.apply(decay, x, initial, reverse)  # pyright: ignore


class _BlockScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, x: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        run = _in_torch if why_not_native([decay, x, initial]) else _natively
        h = run(decay, x, initial, reverse)
        ctx.save_for_backward(decay, initial, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        decay, initial, h = ctx.saved_tensors
        first, constant = -1 if ctx.reverse else 0, decay.dim() == 4
        after = decay.transpose(0, 1)
        if not constant:  # the matrix of the next step; nothing follows the last one
            after = _shifted(after, torch.zeros_like(after[:, :, 0]), 2, not ctx.reverse)
        dx = block_scan(after, dh, torch.zeros_like(initial), reverse=not ctx.reverse)
        ddecay = dx[:, None] * _shifted(h, initial, 1, ctx.reverse)
        dinitial = ((decay if constant else decay[:, :, first]) * dx[:, None, first]).sum(0)
        return ddecay.sum(2) if constant else ddecay, dx, dinitial, None


def _shifted(x: Tensor, edge: Tensor, axis: int, back: bool) -> Tensor:
    """Entry t - 1 of `x` along `axis` in the place of t, and `edge` first; `back`: entry t + 1, and `edge` last."""
    steps, edge = x.shape[axis] - 1, edge.unsqueeze(axis)
    parts = [x.narrow(axis, 1, steps), edge] if back else [edge, x.narrow(axis, 0, steps)]
    return torch.cat(parts, axis)


def _natively(decay: Tensor, x: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    decay, x, initial = decay.contiguous(), x.contiguous(), initial.contiguous()
    h = torch.empty_like(x)
    size, steps = x.shape[:2]
    arrays = (t.data_ptr() for t in (decay, x, initial, h))
    _linear_scan.blocks(*arrays, decay.dim() == 4, size, steps, initial[0].numel(), reverse)
    return h


def _in_torch(decay: Tensor, x: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    h, states = initial, []
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        h = ((decay if decay.dim() == 4 else decay[:, :, t]) * h).sum(1) + x[:, t]
        states.append(h)
    return torch.stack(states[::-1] if reverse else states, 1)
