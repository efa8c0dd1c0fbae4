"""Linear recurrences over time by a native scan, with gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._errors import invalid
from .._ordinary import why_not_native
from . import _linear_scan  # pyright: ignore[reportAttributeAccessIssue]


def linear_scan(decay: Tensor, x: Tensor, initial: Tensor, *, reverse: bool = False) -> Tensor:
    """All states of a diagonal linear recurrence, `h_t = decay_t * h_(t-1) + x_t`.

        h_t = decay_t * h_{t-1} + x_t,    h_0 = initial
        G_t = decay_{t+1} * G_{t+1} + dh_t,    ddecay_t = h_{t-1} * G_t,    dx = G,    dinitial = decay_1 * G_1

    Shapes: x (T, B, n); initial (B, n); decay (T, B, n), or (B, n) or (n,) where it is the same at all times; the
    result (T, B, n). With `reverse` time runs from T to 1 and `initial` is the state after T.

    Float32 on the CPU runs natively, with its gradient in one sweep, and on torch's threads where that is faster; all
    else, such as doubles and tensors on a GPU, in torch, by about 2 sqrt(T) operations instead of T. Any number of
    derivatives may be taken. Where threads share out the time the last bits depend on how many there are.

    Raises:
        ValueError: shapes, dtypes or devices that do not go together, or no steps.

    >>> import torch
    >>> linear_scan(torch.tensor([0.5]), torch.ones(3, 1, 1), torch.zeros(1, 1)).flatten()
    tensor([1.0000, 1.5000, 1.7500])

    Source: Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", 2018.
    """
    decay = _checked(decay, x, initial)
    if x.numel() == 0:
        return x.new_empty(x.shape)
    if not why_not_native([decay, x, initial]):
        return _LinearScan.apply(decay.contiguous(), x.contiguous(), initial.contiguous(), reverse)  # pyright: ignore
    if not reverse:
        return _scan_in_torch(decay, x, initial)
    return _scan_in_torch(decay.flip(0) if decay.dim() == 3 else decay, x.flip(0), initial).flip(0)


class _LinearScan(torch.autograd.Function):
    """`linear_scan` of contiguous tensors, `decay` (T, B, n) or (B, n)."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, x: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        h = torch.empty_like(x)
        _linear_scan.states(
            decay.data_ptr(),
            decay.dim() == 2,
            x.data_ptr(),
            initial.data_ptr(),
            h.data_ptr(),
            len(x),
            initial.numel(),
            reverse,
            _threads(h),
        )
        ctx.save_for_backward(decay, initial, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        decay, initial, h = ctx.saved_tensors
        if torch.is_grad_enabled() or why_not_native([dh]):
            return *_differentiable_gradients(decay, initial, h, dh, ctx.reverse), None
        dh = dh.contiguous()
        ddecay = torch.zeros_like(decay) if decay.dim() == 2 else torch.empty_like(decay)
        dx, dinitial = torch.empty_like(dh), torch.empty_like(initial)
        _linear_scan.gradients(
            decay.data_ptr(),
            decay.dim() == 2,
            initial.data_ptr(),
            h.data_ptr(),
            dh.data_ptr(),
            ddecay.data_ptr(),
            dx.data_ptr(),
            dinitial.data_ptr(),
            len(h),
            initial.numel(),
            ctx.reverse,
            _threads(h),
        )
        return ddecay, dx, dinitial, None


def _threads(h: Tensor) -> int:
    """Number of threads: torch's setting for work of some milliseconds or more, else one.

    Two threads of one processor core share its way to memory, and are slower than one where they share out columns.
    """
    threads, columns = torch.get_num_threads(), h[0].numel()
    return threads if h.numel() >= 1 << 22 and (columns < 32 or threads > 2) else 1


def _differentiable_gradients(
    decay: Tensor, initial: Tensor, h: Tensor, dh: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of decay, x and initial by differentiable operations, for higher derivatives."""
    constant, none = decay.dim() == 2, torch.zeros_like(initial)
    if reverse:
        after = decay if constant else torch.cat([none[None], decay[:-1]])
        before, first = torch.cat([h[1:], initial[None]]), -1
    else:
        after = decay if constant else torch.cat([decay[1:], none[None]])
        before, first = torch.cat([initial[None], h[:-1]]), 0
    dx = linear_scan(after, dh, none, reverse=not reverse)
    ddecay = before * dx
    return ddecay.sum(0) if constant else ddecay, dx, (decay if constant else decay[first]) * dx[first]


def _scan_in_torch(decay: Tensor, x: Tensor, initial: Tensor) -> Tensor:
    """Chunked scan: each chunk from a zero state, then the initial state of each chunk, then all states."""
    steps = len(x)
    length = math.isqrt(steps - 1) + 1
    chunks = -(-steps // length)
    full = chunks * length - steps
    decay = decay.expand_as(x)
    shape = (chunks, length, *x.shape[1:])
    factors = torch.cat([decay, decay.new_ones(full, *decay.shape[1:])]).reshape(shape).unbind(1)
    terms = torch.cat([x, x.new_zeros(full, *x.shape[1:])]).reshape(shape).unbind(1)
    local, product = torch.zeros_like(terms[0]), torch.ones_like(terms[0])
    for a, b in zip(factors, terms, strict=True):
        local, product = a * local + b, a * product
    starts = [initial]
    for a, b in zip(product[:-1].unbind(0), local[:-1].unbind(0), strict=True):
        # zero stays zero, also where the product of large factors is infinite
        starts.append(b + torch.where(starts[-1] == 0, starts[-1], a * starts[-1]))
    h = torch.stack(starts)
    states = []
    for a, b in zip(factors, terms, strict=True):
        h = a * h + b
        states.append(h)
    return torch.stack(states, 1).reshape(chunks * length, *x.shape[1:])[:steps]


def _checked(decay: Tensor, x: Tensor, initial: Tensor) -> Tensor:
    """`decay`, (T, B, n) or (B, n)."""
    if x.dim() != 3 or len(x) == 0:
        raise invalid("linear_scan x", got=f"shape {tuple(x.shape)}", expected="(T, B, n) with at least one step")
    steps, batch, size = x.shape
    if tuple(initial.shape) != (batch, size):
        raise invalid("linear_scan initial", got=f"shape {tuple(initial.shape)}", expected=str((batch, size)))
    shapes = {(steps, batch, size), (batch, size), (size,)}
    if tuple(decay.shape) not in shapes:
        wanted = f"{(steps, batch, size)}, or {(batch, size)} or {(size,)} for all times"
        raise invalid("linear_scan decay", got=f"shape {tuple(decay.shape)}", expected=wanted)
    for name, tensor in (("decay", decay), ("initial", initial)):
        if tensor.dtype != x.dtype or tensor.device != x.device:
            got = f"{tensor.dtype} on {tensor.device}"
            raise invalid(f"linear_scan {name}", got=got, expected=f"{x.dtype} on {x.device}, as x")
    if not x.is_floating_point():
        raise invalid("linear_scan x", got=x.dtype, expected="a floating-point dtype")
    return decay.expand(batch, size) if decay.dim() == 1 else decay
