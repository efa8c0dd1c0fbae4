"""Long short-term memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias

_GATES = ("input", "hidden", "input_bias", "hidden_bias")


class LSTM(AbstractCell):
    """Long short-term memory with a forget gate, as in `torch.nn.LSTM`.

        i = sigmoid(Wi x + bi + Ui h + b'i)      f = sigmoid(Wf x + bf + Uf h + b'f)
        g = tanh(Wg x + bg + Ug h + b'g)         o = sigmoid(Wo x + bo + Uo h + b'o)
        c' = f * c + i * g
        h' = o * tanh(c'), or P (o * tanh(c')) with a projection

    The gates stand in the order i, f, g, o, as in `torch.nn.LSTM`; h has `proj_size` entries with a projection.

    >>> import torch
    >>> cell = LSTM(8, 16, proj_size=4)
    >>> y, (h, c) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape, h.shape, c.shape
    (torch.Size([2, 4]), torch.Size([2, 4]), torch.Size([2, 16]))

    Sources: Hochreiter, Schmidhuber, 1997; the projection: Sak, Senior, Beaufays, 2014.
    """

    kernel = "lstm"
    states = (StateSpec("h"), StateSpec("c"))
    units = (UnitSet("h", written_by=_GATES, read_by=("hidden",), output=True),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        bias: bool = True,
        proj_size: int = 0,
    ):
        super().__init__(input_size, hidden_size)
        if not isinstance(proj_size, int) or proj_size < 0:
            raise invalid("proj_size", got=proj_size, expected="a positive int, or 0 for no projection")
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)
        self.hidden = hidden_weight.build(4 * hidden_size, proj_size or hidden_size, gates=4)
        self.input_bias = new_bias(4 * hidden_size, bias)
        self.hidden_bias = new_bias(4 * hidden_size, bias)
        self.projection = DENSE.build(proj_size, hidden_size) if proj_size else None
        if proj_size:
            self.states = (StateSpec("h"), StateSpec("c", units="c"))
            self.units = (
                UnitSet("c", written_by=_GATES, read_by=("projection",)),
                UnitSet("h", written_by=("projection",), read_by=("hidden",), output=True),
            )
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        gates = projected + self.hidden(h)
        if self.hidden_bias is not None:
            gates = gates + self.hidden_bias
        i, f, g, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        if self.projection is not None:
            h = self.projection(h)
        return h, (h, c)
