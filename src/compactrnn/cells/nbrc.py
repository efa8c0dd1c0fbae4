"""Neuromodulated bistable recurrent cell (nBRC)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class NBRC(AbstractCell):
    """Bistable cell: each unit feeds back on itself, and where the feedback a is above 1 keeps one of two levels.

        a = 1 + tanh(Wa x + ba + Ua h)
        c = sigmoid(Wc x + bc + Uc h)
        h' = c * h + (1 - c) * tanh(W x + b + a * h)

    The weight `input` has Wa, Wc, W, and `hidden` has Ua, Uc. With `hidden_weight=Diagonal()` units see themselves
    alone: that is the BRC of the paper. |h| stays below 1.

    >>> import torch
    >>> from compactrnn.weights import Diagonal
    >>> cell = NBRC(8, 16, hidden_weight=Diagonal())
    >>> y, (h,) = cell(torch.randn(2, 8))
    >>> y.shape, cell.hidden.diagonal.shape
    (torch.Size([2, 16]), torch.Size([2, 16]))

    Source: Vecoven, Ernst, Drion, "A bio-inspired bistable recurrent cell allows for long-lasting memory", 2021.
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
        self.input = input_weight.build(3 * hidden_size, input_size, gates=3)  # feedback, update gate, candidate
        self.input_bias = new_bias(3 * hidden_size, bias)
        self.hidden = hidden_weight.build(2 * hidden_size, hidden_size, gates=2)  # feedback, update gate
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        feedback_x, gate_x, candidate_x = projected.chunk(3, dim=-1)
        feedback_h, gate_h = self.hidden(h).chunk(2, dim=-1)
        feedback = 1 + torch.tanh(feedback_x + feedback_h)
        candidate = torch.tanh(candidate_x + feedback * h)
        h = torch.lerp(candidate, h, torch.sigmoid(gate_x + gate_h))
        return h, (h,)
