"""Products of a matrix with many vectors at once, in training."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from .._ordinary import why_not_native
from . import _products  # pyright: ignore[reportAttributeAccessIssue]

MANY = 64  # vectors, from which on the native products are worth a node of their own in the graph of gradients


def linear(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b`, as `torch.nn.functional.linear`; (..., n) -> (..., m) for W of shape (m, n).

    Where a gradient is recorded for many vectors in float32 on the CPU, the product and its gradients are made by the
    native core, in half of the time that torch takes for them on some processors (docs/performance.md).
    """
    recorded = torch.is_grad_enabled() and (matrix.requires_grad or x.requires_grad)
    if recorded and x.dim() > 2 and x.numel() >= MANY * x.shape[-1] > 0:
        given = (x, matrix) if bias is None else (x, matrix, bias)
        if not torch.is_autocast_enabled("cpu") and not why_not_native(given):
            return _Linear.apply(x, matrix, bias)  # pyright: ignore
    return nn.functional.linear(x, matrix, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, matrix)
        return _product(x, matrix, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, matrix = ctx.saved_tensors
        of_x, of_matrix, of_bias = ctx.needs_input_grad
        rows, read = grad.flatten(0, -2), x.flatten(0, -2)
        total = rows.sum(0) if of_bias else None
        if torch.is_grad_enabled() or why_not_native((grad,)):  # which sees torch's operations only
            return grad @ matrix if of_x else None, rows.mT @ read if of_matrix else None, total
        return _product(grad, matrix.mT) if of_x else None, outer(rows, read) if of_matrix else None, total


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


def _product(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = columns_together(x.flatten(0, -2))
    product = rows.new_empty(len(rows), len(matrix))
    bias = None if bias is None else bias.contiguous()
    place = rows.data_ptr(), rows.stride(0), len(rows)
    given = matrix.data_ptr(), *matrix.shape, *matrix.stride(), 0 if bias is None else bias.data_ptr()
    _products.linear(product.data_ptr(), *place, *given, *_how())
    return product.unflatten(0, x.shape[:-1])


def _how() -> tuple[int, str]:
    return torch.get_num_threads(), os.environ.get("CRNN_ISA", "")
