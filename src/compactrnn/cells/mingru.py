"""Minimal GRU (minGRU)."""

from __future__ import annotations

import torch
from torch import Tensor

from .input_gated import AbstractInputGated


class MinGRU(AbstractInputGated):
    """GRU whose gate and candidate depend on the input only, so that it is linear in the state.

        z = sigmoid(Wz x + bz)
        n = Wn x + bn
        h' = (1 - z) * h + z * n

    The weight `input` holds Wz, then Wn. -bz, which decides what 1 - z keeps, starts at `forget_bias`, a number or
    "chrono" with `steps`, the longest dependence expected (see `ForgetBias`).

    >>> import torch
    >>> cell = MinGRU(8, 16)
    >>> y, (h,) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape
    torch.Size([2, 16])

    Source: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, "Were RNNs All We Needed?", 2024, section 3.1.
    """

    keeps = (-1,)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        update, candidate = projected.chunk(2, dim=-1)
        update = torch.sigmoid(update)
        h = (1 - update) * h + update * candidate
        return h, (h,)
