"""FastRNN: an Elman network with a weighted residual connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class FastRNN(AbstractCell):
    """Elman network with a residual connection over time that has two trained numbers.

        h' = sigmoid(alpha) * tanh(W x + b + U h) + sigmoid(beta) * h

    The scalars alpha and beta start from -3 and 3, b from 1: sigmoid(beta) = 0.95 keeps gradients alive over many
    steps. |h| stays below sigmoid(alpha) / (1 - sigmoid(beta)).

    >>> import torch
    >>> from compactrnn.weights import LowRank
    >>> cell = FastRNN(8, 16, hidden_weight=LowRank(rank=4))
    >>> y, (h,) = cell(torch.randn(2, 8))
    >>> y.shape
    torch.Size([2, 16])

    Source: Kusupati, Singh, Bhatia, Kumar, Jain, Varma, "FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized
    Gated Recurrent Neural Network", 2018, section 3.1; initial values of its implementation in EdgeML.
    """

    states = (StateSpec("h"),)
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
        self.input = input_weight.build(hidden_size, input_size)
        self.input_bias = new_bias(hidden_size, bias)
        self.hidden = hidden_weight.build(hidden_size, hidden_size)
        self.alpha, self.beta = nn.Parameter(torch.empty(())), nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices as in every cell; alpha, beta and the biases as in EdgeML."""
        super().reset_parameters()
        for parameter, value in ((self.alpha, -3.0), (self.beta, 3.0), (self.input_bias, 1.0)):
            if parameter is not None:
                nn.init.constant_(parameter, value)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        candidate = torch.tanh(projected + self.hidden(h))
        h = torch.sigmoid(self.alpha) * candidate + torch.sigmoid(self.beta) * h
        return h, (h,)
