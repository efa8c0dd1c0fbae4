"""Memory blocks: filters over the past of each unit, along a delay line."""

from __future__ import annotations

import torch
from torch import Tensor

FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


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
