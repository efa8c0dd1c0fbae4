"""Long short-term memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class LSTM(AbstractCell):
    """Long short-term memory with a forget gate, as in `torch.nn.LSTM`.

        i = sigmoid(Wi x + bi + Ui h + b'i)      f = sigmoid(Wf x + bf + Uf h + b'f)
        g = tanh(Wg x + bg + Ug h + b'g)         o = sigmoid(Wo x + bo + Uo h + b'o)
        c' = f * c + i * g
        h' = o * tanh(c')

    The gates stand in the order i, f, g, o, as in `torch.nn.LSTM`, whose `proj_size` is `Projected`.

    >>> import torch
    >>> cell = LSTM(8, 16)
    >>> y, (h, c) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape, h.shape, c.shape
    (torch.Size([2, 16]), torch.Size([2, 16]), torch.Size([2, 16]))

    Source: Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997.
    """

    kernel = "lstm"
    states = (StateSpec("h", products_only=True), StateSpec("c"))
    units = (
        UnitSet("h", written_by=("input", "hidden", "input_bias", "hidden_bias"), read_by=("hidden",), output=True),
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
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)
        self.hidden = hidden_weight.build(4 * hidden_size, hidden_size, gates=4)
        self.input_bias = new_bias(4 * hidden_size, bias)
        self.hidden_bias = new_bias(4 * hidden_size, bias)
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """W x and both biases, added up in the order of the engine."""
        projected = self.input(x)
        if self.input_bias is None or self.hidden_bias is None:
            return projected
        return projected + (self.input_bias + self.hidden_bias)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        gates = projected + self.hidden(h)
        i, f, g, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)
