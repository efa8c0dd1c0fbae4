"""Long short-term memory whose output reads the memory of the step before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias

LAZY = ("output", "gate")


class LazyLSTM(AbstractCell):
    """LSTM with a lazy cell update: the memory is updated after the output, or its output gate, has read it.

        i, f, o = sigmoid(W x + b + U h)        g = tanh(Wg x + bg + Ug h)
        c' = f * c + i * g
        h' = o * tanh(c)                        lazy="output": as in a GRU, which reads first and writes then
        h' = sigmoid(Wo x + bo + Uo h + p * c) * tanh(c')        lazy="gate": a peephole on the memory before

    The gates stand in the order i, f, g, o, as in `LSTM`; `peephole` has p, hidden_size numbers, and is None with
    `lazy="output"`. That one gives what it reads at a step to its output a step later, through c.

    The paper's other change, a shortcut around each layer, h_l = layer(h_{l-1}) + h_{l-1}, is the option `residual`
    of sequence models.

    >>> import torch
    >>> cell = LazyLSTM(8, 16)
    >>> y, (h, c) = cell(torch.randn(2, 8))
    >>> y.abs().max().item(), c.shape
    (0.0, torch.Size([2, 16]))

    Raises:
        ValueError: `lazy` is neither "output" nor "gate".

    Source: Tang, Shi, Wang, Feng, Zhang, "Memory Visualization for Gated Recurrent Neural Networks in Speech
    Recognition", 2017. A reconstruction: its abstract names a lazy update of the cell, and these are two readings.
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
        lazy: str = "output",
    ):
        super().__init__(input_size, hidden_size)
        if lazy not in LAZY:
            raise invalid("lazy", got=repr(lazy), expected='"output" or "gate"')
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)  # i, f, g, o
        self.input_bias = new_bias(4 * hidden_size, bias)
        self.hidden = hidden_weight.build(4 * hidden_size, hidden_size, gates=4)
        self.peephole = nn.Parameter(torch.empty(hidden_size)) if lazy == "gate" else None
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, before = states
        i, f, g, o = (projected + self.hidden(h)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * before + torch.sigmoid(i) * torch.tanh(g)
        if self.peephole is None:
            h = torch.sigmoid(o) * torch.tanh(before)
        else:
            h = torch.sigmoid(o + self.peephole * before) * torch.tanh(c)
        return h, (h, c)
