"""Products of a matrix with many vectors at once, in training."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from .._ordinary import why_not_native
from . import _products  # pyright: ignore[reportAttributeAccessIssue]

MANY = 64  # vectors, from which on the native products are worth a node of their own in the graph of gradients


def linear(x: Tensor, matrix: Tensor) -> Tensor:
    """`x W^T`, as `torch.nn.functional.linear`; (..., n) -> (..., m) for W of shape (m, n).

    Where a gradient is recorded for many vectors in float32 on the CPU, the product and its gradients are made by the
    native core, in half of the time that torch takes for them on some processors (docs/performance.md).
    """
    recorded = torch.is_grad_enabled() and (matrix.requires_grad or x.requires_grad)
    if recorded and not x.is_nested and x.dim() > 2 and x.numel() >= MANY * x.shape[-1] > 0:
        fits = matrix.shape[1:] == x.shape[-1:]
        if fits and not torch.is_autocast_enabled("cpu") and not why_not_native((x, matrix)):
            return _Linear.apply(x, matrix)  # pyright: ignore
    return nn.functional.linear(x, matrix)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        of_x, of_matrix = ctx.needs_input_grad
        ctx.save_for_backward(x if of_matrix else None, matrix if of_x else None)
        return _product(x, matrix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore
        x, matrix = ctx.saved_tensors
        # reshape and t, as a batch of gradients knows them
        rows = grad.reshape(grad.shape[:-1].numel(), grad.shape[-1])
        read = None if x is None else x.flatten(0, -2)
        if torch.is_grad_enabled() or why_not_native(t for t in (grad, x, matrix) if t is not None):
            return None if matrix is None else grad @ matrix, None if read is None else rows.t() @ read
        return None if matrix is None else _product(grad, matrix.mT), None if read is None else outer(rows, read)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """The sum over all rows of their outer products, (rows, m) and (rows, n) -> (m, n): the gradient of a matrix.

    Of float32 on the CPU; not recorded.
    """
    left, right = columns_together(left), columns_together(right)
    total = left.new_empty(left.shape[-1], right.shape[-1])
    if not len(left):
        return total.zero_()
    places = [(t.data_ptr(), t.stride(0)) for t in (left, right)]
    _products.outer(total.data_ptr(), *places[0], *places[1], len(left), *total.shape, *_how())
    return total


def columns_together(tensor: Tensor) -> Tensor:
    """The tensor, its columns side by side in memory."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    rows = columns_together(x.flatten(0, -2))
    product = rows.new_empty(*x.shape[:-1], len(matrix))  # no view, which may not be changed in place
    place = rows.data_ptr(), rows.stride(0), len(rows)
    _products.linear(product.data_ptr(), *place, matrix.data_ptr(), *matrix.shape, *matrix.stride(), *_how())
    return product


def _how() -> tuple[int, str]:
    return torch.get_num_threads(), os.environ.get("CRNN_ISA", "")
