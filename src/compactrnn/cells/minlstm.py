"""Minimal LSTM (minLSTM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .input_gated import AbstractInputGated


class MinLSTM(AbstractInputGated):
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

    keeps = (1, -1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        forget, write, candidate = projected.chunk(3, dim=-1)
        keep = torch.sigmoid(nn.functional.logsigmoid(forget) - nn.functional.logsigmoid(write))
        h = keep * h + (1 - keep) * candidate
        return h, (h,)
