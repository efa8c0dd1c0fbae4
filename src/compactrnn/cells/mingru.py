"""Minimal GRU (minGRU)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .forget_bias import ForgetBias


class MinGRU(AbstractCell):
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

    states = (StateSpec("h"),)
    units = (UnitSet("h", written_by=("input", "input_bias"), read_by=(), output=True),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        bias: bool = True,
        forget_bias: float | str = 1.0,
        steps: int | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.forget_bias = ForgetBias(forget_bias, steps, bias)
        self.input = input_weight.build(2 * hidden_size, input_size, gates=2)  # update, candidate
        self.input_bias = new_bias(2 * hidden_size, bias)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        update, candidate = projected.chunk(2, dim=-1)
        update = torch.sigmoid(update)
        h = (1 - update) * h + update * candidate
        return h, (h,)

    def reset_parameters(self) -> None:
        """Wz, Wn from U(-a, a), a = input_size ** -0.5; bz as `forget_bias` says, bn = 0."""
        self.input.reset_parameters()
        if self.input_bias is not None:
            update, candidate = self.input_bias.detach().chunk(2)
            self.forget_bias.draw_(update)
            update.neg_()
            candidate.zero_()
