"""Elman recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class Elman(AbstractCell):
    """Elman (vanilla) RNN: `h' = f(W x + b + U h + b')`, f = tanh or relu.

    The step of `torch.nn.RNN`.

    >>> import torch
    >>> cell = Elman(8, 16, nonlinearity="relu")
    >>> y, (h,) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape
    torch.Size([2, 16])

    Source: Elman, "Finding Structure in Time", 1990.
    """

    states = (StateSpec("h", products_only=True),)
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
        nonlinearity: str = "tanh",
    ):
        super().__init__(input_size, hidden_size)
        if nonlinearity not in ("tanh", "relu"):
            raise invalid("nonlinearity", got=repr(nonlinearity), expected="'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        self.input = input_weight.build(hidden_size, input_size)
        self.hidden = hidden_weight.build(hidden_size, hidden_size)
        self.input_bias = new_bias(hidden_size, bias)
        self.hidden_bias = new_bias(hidden_size, bias)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        total = projected + self.hidden(h)
        if self.hidden_bias is not None:
            total = total + self.hidden_bias
        h = torch.tanh(total) if self.nonlinearity == "tanh" else torch.relu(total)
        return h, (h,)
