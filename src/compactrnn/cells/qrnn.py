"""Quasi-recurrent neural network (QRNN)."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias


class QRNN(AbstractCell):
    """Quasi-recurrent network: a convolution over time makes candidate and gates, and the state is pooled by these.

        z = tanh(Wz x_t + Vz x_(t-1) + bz)
        f = sigmoid(Wf x_t + Vf x_(t-1) + bf)
        o = sigmoid(Wo x_t + Vo x_(t-1) + bo)
        c' = f * c + (1 - f) * z
        y = o * c'

    The weight `input` has Wz, Wf, Wo, the weight `previous` the V; with `window=1` there is no V. With `window=2` the
    products of V, which need no state, are kept for one step: the states z1, f1, o1. A step is linear in c, given
    these: it can be scanned, and with `window=1` long sequences are. Before the first step x is zero. |y| is below 1.

    >>> import torch
    >>> cell = QRNN(8, 16, window=2)
    >>> y, (c, z1, f1, o1) = cell(torch.randn(2, 8))
    >>> y.shape, c.shape, o1.shape
    (torch.Size([2, 16]), torch.Size([2, 16]), torch.Size([2, 16]))

    Raises:
        ValueError: a window other than 1 or 2.

    Source: Bradbury, Merity, Xiong, Socher, "Quasi-Recurrent Neural Networks", 2017: fo-pooling.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        bias: bool = True,
        window: int = 2,
    ):
        super().__init__(input_size, hidden_size)
        if window not in (1, 2) or isinstance(window, bool):
            raise invalid("window", got=repr(window), expected="1 or 2")
        self.window = window
        names = ("c",) if window == 1 else ("c", "z1", "f1", "o1")
        self.states = tuple(StateSpec(name) for name in names)
        self.input = input_weight.build(3 * hidden_size, input_size, gates=3)  # z, f, o
        self.input_bias = new_bias(3 * hidden_size, bias)
        self.previous = input_weight.build(3 * hidden_size, input_size, gates=3) if window == 2 else None
        written = ("input", "input_bias") if self.previous is None else ("input", "input_bias", "previous")
        self.units = (UnitSet("h", written_by=written, read_by=(), output=True),)
        self.reads_input = ("input",) if self.previous is None else ("input", "previous")
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """W x + b, and with a window of 2 what V x adds at the next step."""
        projected = super().project(x)
        return projected if self.previous is None else torch.cat([projected, self.previous(x)], dim=-1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        c, *before = states
        if before:
            z, f, o, *after = projected.chunk(6, dim=-1)
            z, f, o = (now + then for now, then in zip((z, f, o), before, strict=True))
        else:
            z, f, o, *after = projected.chunk(3, dim=-1)
        forget = torch.sigmoid(f)
        c = forget * c + (1 - forget) * torch.tanh(z)
        return torch.sigmoid(o) * c, (c, *after)

    def reset_parameters(self) -> None:
        """Matrices from U(-a, a), a = (window * input_size) ** -0.5; biases zero."""
        for weight in (self.input, self.previous):
            if weight is not None:
                weight.reset_parameters((self.window * self.input_size) ** -0.5)
        if self.input_bias is not None:
            self.input_bias.detach().zero_()
