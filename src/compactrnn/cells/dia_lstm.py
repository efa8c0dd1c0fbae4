"""Long short-term memory of dense-and-implicit attention, with bottlenecks before its gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import check_positive
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class DIALSTM(AbstractCell):
    """LSTM that reads its input and h through bottlenecks with relu, and whose output lies between 0 and 1.

        u = relu(W x + b)        v = relu(U h + d)
        i, f, g, o = V u + R v + a
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * sigmoid(c')

    u has `input_bottleneck` numbers and v `hidden_bottleneck`, each a quarter of hidden_size (rounded up) unless given:
    with as many inputs as units, 2.5 hidden_size^2 parameters in the place of 8. The gates stand in the order i, f, g,
    o.

    Made for attention over the depth of a network, where a step is a block of it and one cell serves all: h scales the
    channels of what the block adds, `h, states = cell(a.mean((2, 3)), states)`, `x = relu(x + a * h[..., None, None])`
    (examples/attention_over_depth.py). It runs over time like any other cell.

    >>> import torch
    >>> cell = DIALSTM(16, 16)
    >>> y, (h, c) = cell(torch.randn(2, 16))
    >>> y.shape, bool((0 < y).all() and (y < 1).all()), cell.hidden.out_features
    (torch.Size([2, 16]), True, 4)

    Source: Huang, Liang, Liang, Yang, "DIANet: Dense-and-Implicit Attention Network", 2020; without its dropout.
    """

    states = (StateSpec("h", products_only=True), StateSpec("c"))
    units = (
        UnitSet("u", written_by=("input", "input_bias"), read_by=("gates_of_input",)),
        UnitSet("v", written_by=("hidden", "hidden_bias"), read_by=("gates_of_hidden",)),
        UnitSet("h", written_by=("gates_of_input", "gate_bias", "gates_of_hidden"), read_by=("hidden",), output=True),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        input_bottleneck: int | None = None,
        hidden_bottleneck: int | None = None,
        bias: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        quarter = -(-hidden_size // 4)
        u = check_positive(quarter if input_bottleneck is None else input_bottleneck, "input_bottleneck")
        v = check_positive(quarter if hidden_bottleneck is None else hidden_bottleneck, "hidden_bottleneck")
        self.input, self.input_bias = input_weight.build(u, input_size), new_bias(u, bias)
        self.gates_of_input = input_weight.build(4 * hidden_size, u, gates=4)  # i, f, g, o
        self.hidden, self.hidden_bias = hidden_weight.build(v, hidden_size), new_bias(v, bias)
        self.gates_of_hidden = hidden_weight.build(4 * hidden_size, v, gates=4)
        self.gate_bias = new_bias(4 * hidden_size, bias)
        self.reset_parameters()

    def size_options(self) -> dict[str, Any]:
        return {"input_bottleneck": self.input.out_features, "hidden_bottleneck": self.hidden.out_features}

    def project(self, x: Tensor) -> Tensor:
        """`V u + a`."""
        projected = self.gates_of_input(torch.relu(super().project(x)))
        return projected if self.gate_bias is None else projected + self.gate_bias

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        v = self.hidden(h) if self.hidden_bias is None else self.hidden(h) + self.hidden_bias
        i, f, g, o = (projected + self.gates_of_hidden(torch.relu(v))).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.sigmoid(c)
        return h, (h, c)

    def reset_parameters(self) -> None:
        """Matrices and biases as torch draws those of linear layers."""
        biases = {"input": "input_bias", "gates_of_input": "gate_bias", "hidden": "hidden_bias", "gates_of_hidden": ""}
        for name, bias in biases.items():
            weight, vector = getattr(self, name), getattr(self, bias) if bias else None
            weight.reset_parameters()
            if vector is not None:
                nn.init.uniform_(vector, -(weight.in_features**-0.5), weight.in_features**-0.5)
