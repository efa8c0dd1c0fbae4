"""Gated recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class GRU(AbstractCell):
    """Gated recurrent unit with reset and update gates, as in `torch.nn.GRU`.

        r = sigmoid(Wr x + br + Ur h + b'r)
        z = sigmoid(Wz x + bz + Uz h + b'z)
        n = tanh(Wn x + bn + r * (Un h + b'n))
        h' = (1 - z) * n + z * h

    The gates stand in the order r, z, n, as in `torch.nn.GRU`, whose form this is: the product comes before the reset
    (Keras: `reset_after=True`, ONNX: `linear_before_reset=1`), unlike `tanh(W x + U (r * h))` of the first paper.

    >>> import torch
    >>> cell = GRU(8, 16)
    >>> y, (h,) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape
    torch.Size([2, 16])

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014.
    """

    kernel = "gru"
    states = (StateSpec("h"),)
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
        self.input = input_weight.build(3 * hidden_size, input_size, gates=3)
        self.hidden = hidden_weight.build(3 * hidden_size, hidden_size, gates=3)
        self.input_bias = new_bias(3 * hidden_size, bias)
        self.hidden_bias = new_bias(3 * hidden_size, bias)
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """W x and all biases but that of U_n h, added up in the order of the engine."""
        projected = self.input(x)
        if self.input_bias is None or self.hidden_bias is None:
            return projected
        gates, candidate = self.hidden_bias.tensor_split((2 * self.hidden.rows,))
        return projected + (self.input_bias + torch.cat([gates, torch.zeros_like(candidate)]))

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        reset_x, update_x, candidate_x = projected.chunk(3, dim=-1)
        reset_h, update_h, candidate_h = self.hidden(h).chunk(3, dim=-1)
        if self.hidden_bias is not None:
            candidate_h = candidate_h + self.hidden_bias[2 * self.hidden.rows :]
        reset = torch.sigmoid(reset_x + reset_h)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        h = (1 - update) * candidate + update * h
        return h, (h,)
