"""FastGRNN: gate and candidate share their matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class FastGRNN(AbstractCell):
    """Gate and candidate share their products, so that a gated unit costs no more weights than a plain one.

        a = W x + U h
        z = sigmoid(a + gate_bias)
        h' = (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * tanh(a + candidate_bias) + z * h

    zeta and nu are trainable scalars, which start from 1 and -4, the biases from 1.

    >>> import torch
    >>> from compactrnn.weights import LowRank
    >>> cell = FastGRNN(8, 16, hidden_weight=LowRank(rank=4))
    >>> y, states = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape
    torch.Size([2, 16])

    Source: Kusupati, Singh, Bhatia, Kumar, Jain, Varma, "FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized
    Gated Recurrent Neural Network", 2018; initial values of its implementation in EdgeML.
    """

    states = (StateSpec("h"),)
    units = (
        UnitSet("h", written_by=("input", "hidden", "gate_bias", "candidate_bias"), read_by=("hidden",), output=True),
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
        self.input = input_weight.build(hidden_size, input_size)
        self.hidden = hidden_weight.build(hidden_size, hidden_size)
        self.gate_bias, self.candidate_bias = new_bias(hidden_size, bias), new_bias(hidden_size, bias)
        self.zeta, self.nu = nn.Parameter(torch.empty(())), nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices as in every cell; zeta, nu and the biases as in EdgeML."""
        super().reset_parameters()
        for parameter, value in ((self.zeta, 1.0), (self.nu, -4.0), (self.gate_bias, 1.0), (self.candidate_bias, 1.0)):
            if parameter is not None:
                nn.init.constant_(parameter, value)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        a = projected + self.hidden(h)
        z = torch.sigmoid(a if self.gate_bias is None else a + self.gate_bias)
        candidate = torch.tanh(a if self.candidate_bias is None else a + self.candidate_bias)
        zeta, nu = torch.sigmoid(self.zeta), torch.sigmoid(self.nu)
        h = (zeta + nu - zeta * z) * candidate + z * h
        return h, (h,)
