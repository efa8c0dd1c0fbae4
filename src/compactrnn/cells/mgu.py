"""Minimal gated unit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class MGU(AbstractCell):
    """Minimal gated unit: one gate serves as forget and reset gate.

        f = sigmoid(Wf x + bf + Uf h)
        c = tanh(Wc x + bc + Uc (f * h))
        h' = (1 - f) * h + f * c

    >>> import torch
    >>> from compactrnn.weights import LowRank
    >>> cell = MGU(8, 16, hidden_weight=LowRank(rank=4))
    >>> y, states = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape
    torch.Size([2, 16])

    Source: Zhou, Wu, Zhang, Zhou, "Minimal Gated Unit for Recurrent Neural Networks", 2016.
    """

    states = (StateSpec("h"),)
    units = (
        UnitSet(
            "h",
            written_by=("input", "input_bias", "forget", "candidate"),
            read_by=("forget", "candidate"),
            output=True,
        ),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        bias: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        self.input = input_weight.build(2 * hidden_size, input_size, gates=2)  # forget, candidate
        self.input_bias = new_bias(2 * hidden_size, bias)
        self.forget = hidden_weight.build(hidden_size, hidden_size)
        self.candidate = hidden_weight.build(hidden_size, hidden_size)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        forget_x, candidate_x = projected.chunk(2, dim=-1)
        forget = torch.sigmoid(forget_x + self.forget(h))
        candidate = torch.tanh(candidate_x + self.candidate(forget * h))
        h = torch.lerp(h, candidate, forget)
        return h, (h,)
