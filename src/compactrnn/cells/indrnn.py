"""Independently recurrent neural network (IndRNN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .independent import IndependentWeights


class IndRNN(AbstractCell):
    """IndRNN with one recurrent weight per unit: `h' = f(W x + b + u * h)`, f = relu or tanh.

    u, `recurrent`, is a vector of hidden_size entries; units meet in the next layer only. In training u is kept in
    `|u| <= magnitude ** (1 / steps)`, `steps` being the length of the training sequences ([-1, 1] without it), by
    `constrain_` before every sequence. It starts from `recurrent_init`: "uniform", U(0, 1); in the last layer of a
    model of which the last output alone is read, "one" or `(1 / bound, bound)` is better, and only there.

    b starts at zero, W from U(-a, a), `a = 0.3 * input_size ** -0.5` as in the authors' code. That is an eighth of the
    usual a for ReLU: what is positive is summed up over time, and in layers upon layers the sums grow. Over 784 steps
    the sixth layer of 128 units gives at most ten times as much as the first; with the usual a, 70,000 times as much.

    >>> import torch
    >>> cell = IndRNN(8, 16, steps=1000)
    >>> y, (h,) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape, cell.recurrent.shape
    (torch.Size([2, 16]), torch.Size([16]))

    Source: Li, Li, Cook, Zhu, Gao, "Independently Recurrent Neural Network (IndRNN): Building A Longer and Deeper RNN",
    2018, and the authors' code, Sunnydreamrain/IndRNN_pytorch.
    """

    states = (StateSpec("h"),)
    units = (UnitSet("h", written_by=("input", "input_bias", "recurrent"), read_by=(), output=True),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        bias: bool = True,
        nonlinearity: str = "relu",
        steps: int | None = None,
        magnitude: float = 5.0,
        recurrent_init: str | tuple[float, float] = "uniform",
    ):
        super().__init__(input_size, hidden_size)
        if nonlinearity not in ("relu", "tanh"):
            raise invalid("nonlinearity", got=repr(nonlinearity), expected="'relu' or 'tanh'")
        self.nonlinearity = nonlinearity
        self.independent = IndependentWeights(steps, magnitude, recurrent_init)
        self.input = input_weight.build(hidden_size, input_size)
        self.input_bias = new_bias(hidden_size, bias)
        self.recurrent = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        total = projected + self.recurrent * h
        h = torch.relu(total) if self.nonlinearity == "relu" else torch.tanh(total)
        return h, (h,)

    def reset_parameters(self) -> None:
        """Initialize W and u as above; b = 0."""
        self.input.reset_parameters(0.3 * self.input_size**-0.5)
        if self.input_bias is not None:
            nn.init.zeros_(self.input_bias)
        self.independent.draw_(self.recurrent)

    def constrain_(self) -> None:
        """Clamp u to its bound."""
        self.independent.clamp_(self.recurrent)
