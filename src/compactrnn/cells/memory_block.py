"""Memory blocks: filters over the past of each unit, along a delay line."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import AbstractWeight

FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def check_block(hidden_size: int, projection_size: int | None, nonlinearity: str) -> int:
    """The width of the projection, a quarter of `hidden_size` unless given; `ValueError` for what cannot be."""
    if nonlinearity not in FUNCTIONS:
        raise invalid("nonlinearity", got=repr(nonlinearity), expected=f"one of {sorted(FUNCTIONS)}")
    return check_positive(-(-hidden_size // 4) if projection_size is None else projection_size, "projection_size")


def reset_affine_(weight: AbstractWeight, bias: Tensor | None) -> None:
    """A matrix and its bias as torch draws those of a linear layer."""
    weight.reset_parameters()
    if bias is not None:
        nn.init.uniform_(bias, -(weight.in_features**-0.5), weight.in_features**-0.5)


def reset_taps_(filters: Tensor, taps: int) -> None:
    """Filters of so many taps, the present step's 1 among them, as torch draws those of a convolution."""
    nn.init.uniform_(filters, -(taps**-0.5), taps**-0.5)


def remembered(p: Tensor, line: Tensor, taps: Tensor, stride: int) -> Tensor:
    """`p_t + sum of a_i * p_(t - i stride)`, i from 1 on: p (batch, n), the delay line of p, `taps` the a_i in a row.

    >>> remembered(torch.tensor([[1.0]]), torch.tensor([[10.0, 20.0]]), torch.tensor([0.5]), stride=2)
    tensor([[11.]])
    """
    size = p.shape[-1]
    for i, tap in enumerate(taps.split(size), 1):
        first = (i * stride - 1) * size
        p = p + tap * line[:, first : first + size]
    return p
