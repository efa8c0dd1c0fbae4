"""Long short-term memory with coupled input and forget gates."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class CoupledLSTM(AbstractCell):
    """LSTM that writes as much as it forgets, i = 1 - f (CIFG): three quarters of the matrices of an LSTM.

        f = sigmoid(Wf x + bf + Uf h)
        g = tanh(Wg x + bg + Ug h)
        o = sigmoid(Wo x + bo + Uo h)
        c' = f * c + (1 - f) * g
        h' = o * tanh(c')

    The gates stand in the order f, g, o. c is a mean of what was written, so that |c| stays below 1.

    >>> import torch
    >>> cell = CoupledLSTM(8, 16)
    >>> y, (h, c) = cell(torch.randn(2, 8))
    >>> y.shape, c.shape, cell.hidden.out_features
    (torch.Size([2, 16]), torch.Size([2, 16]), 48)

    Source: Greff, Srivastava, Koutnik, Steunebrink, Schmidhuber, "LSTM: A Search Space Odyssey", 2017.
    """

    states = (StateSpec("h", products_only=True), StateSpec("c"))
    units = (UnitSet("h", written_by=("input", "input_bias", "hidden"), read_by=("hidden",), output=True),)

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
        self.input = input_weight.build(3 * hidden_size, input_size, gates=3)  # f, g, o
        self.input_bias = new_bias(3 * hidden_size, bias)
        self.hidden = hidden_weight.build(3 * hidden_size, hidden_size, gates=3)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        f, g, o = (projected + self.hidden(h)).chunk(3, dim=-1)
        c = torch.lerp(torch.tanh(g), c, torch.sigmoid(f))
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)
