"""Minimal LSTM (minLSTM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .forget_bias import ForgetBias


class MinLSTM(AbstractCell):
    """LSTM whose gates depend on the input only and are divided by their sum, so that it is linear in the state.

        f = sigmoid(Wf x + bf)        i = sigmoid(Wi x + bi)        n = Wn x + bn
        h' = f / (f + i) * h + i / (f + i) * n

    f / (f + i) is computed as sigmoid(log f - log i), where nothing underflows. The weight `input` has Wf, Wi, Wn. bf
    starts at `forget_bias`, a number or "chrono" with `steps`, the longest dependence expected (see `ForgetBias`), bi
    at its negative, bn at zero.

    >>> import torch
    >>> cell = MinLSTM(8, 16)
    >>> y, (h,) = cell(torch.randn(2, 8))
    >>> y.shape
    torch.Size([2, 16])

    Source: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, "Were RNNs All We Needed?", 2024, section 3.2.
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
        self.input = input_weight.build(3 * hidden_size, input_size, gates=3)  # forget gate, input gate, candidate
        self.input_bias = new_bias(3 * hidden_size, bias)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        forget, write, candidate = projected.chunk(3, dim=-1)
        keep = torch.sigmoid(nn.functional.logsigmoid(forget) - nn.functional.logsigmoid(write))
        h = keep * h + (1 - keep) * candidate
        return h, (h,)

    def reset_parameters(self) -> None:
        """Wf, Wi, Wn from U(-a, a), a = input_size ** -0.5; bf and bi as `forget_bias` says, bn = 0."""
        self.input.reset_parameters()
        if self.input_bias is not None:
            forget, write, candidate = self.input_bias.detach().chunk(3)
            self.forget_bias.draw_(forget)
            write.copy_(-forget)
            candidate.zero_()
