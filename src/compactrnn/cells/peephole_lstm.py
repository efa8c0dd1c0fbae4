"""Long short-term memory with peepholes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class PeepholeLSTM(AbstractCell):
    """LSTM whose gates also see the memory of their own unit, by one weight each.

        i = sigmoid(Wi x + bi + Ui h + pi * c)       f = sigmoid(Wf x + bf + Uf h + pf * c)
        g = tanh(Wg x + bg + Ug h)
        c' = f * c + i * g
        o = sigmoid(Wo x + bo + Uo h + po * c')
        h' = o * tanh(c')

    The gates stand in the order i, f, g, o, as in `LSTM`; `peephole` has pi, pf, po, hidden_size numbers each.

    >>> import torch
    >>> cell = PeepholeLSTM(8, 16)
    >>> y, (h, c) = cell(torch.randn(2, 8))
    >>> y.shape, c.shape, cell.peephole.shape
    (torch.Size([2, 16]), torch.Size([2, 16]), torch.Size([48]))

    Source: Gers, Schraudolph, Schmidhuber, "Learning Precise Timing with LSTM Recurrent Networks", 2002; the form of
    Greff, Srivastava, Koutnik, Steunebrink, Schmidhuber, "LSTM: A Search Space Odyssey", 2017.
    """

    states = (StateSpec("h", products_only=True), StateSpec("c"))
    units = (UnitSet("h", written_by=("input", "input_bias", "hidden", "peephole"), read_by=("hidden",), output=True),)

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
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)  # i, f, g, o
        self.input_bias = new_bias(4 * hidden_size, bias)
        self.hidden = hidden_weight.build(4 * hidden_size, hidden_size, gates=4)
        self.peephole = nn.Parameter(torch.empty(3 * hidden_size))  # i, f, o
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        i, f, g, o = (projected + self.hidden(h)).chunk(4, dim=-1)
        to_i, to_f, to_o = self.peephole.chunk(3)
        c = torch.sigmoid(f + to_f * c) * c + torch.sigmoid(i + to_i * c) * torch.tanh(g)
        h = torch.sigmoid(o + to_o * c) * torch.tanh(c)
        return h, (h, c)
