"""Simple recurrent unit (SRU)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .forget_bias import ForgetBias


class SRU(AbstractCell):
    """Simple recurrent unit: light recurrence and a highway past it; the matrices read the input alone.

        f = sigmoid(Wf x + bf + vf * c)
        r = sigmoid(Wr x + br + vr * c)
        c' = f * c + (1 - f) * W x
        y = r * c' + (1 - r) * V x

    The weight `input` has Wf, Wr, W, V. v, `peephole`, lets the gates of a unit see its memory; with `peephole=False`,
    as in the first version of the paper, a step is linear in the state, and long sequences are scanned. The highway
    reads the input by a matrix V of its own, as the authors' does where input and output differ in size. bf starts at
    `forget_bias`, a number or "chrono" with `steps`, the longest dependence expected (see `ForgetBias`).

    >>> import torch
    >>> cell = SRU(8, 16)
    >>> y, (c,) = cell(torch.randn(2, 8))
    >>> y.shape, c.shape
    (torch.Size([2, 16]), torch.Size([2, 16]))

    Source: Lei, Zhang, Wang, Dai, Artzi, "Simple Recurrent Units for Highly Parallelizable Recurrence", 2018.
    """

    states = (StateSpec("c"),)
    units = (UnitSet("h", written_by=("input", "input_bias", "peephole"), read_by=(), output=True),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        bias: bool = True,
        peephole: bool = True,
        forget_bias: float | str = 1.0,
        steps: int | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.forget_bias = ForgetBias(forget_bias, steps, bias)
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)  # Wf, Wr, W, V
        self.input_bias = new_bias(2 * hidden_size, bias)  # forget gate, highway gate
        self.peephole = nn.Parameter(torch.empty(2 * hidden_size)) if peephole else None
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """The matrices of the input, and the biases of the two gates."""
        projected = self.input(x)
        if self.input_bias is None:
            return projected
        return projected + torch.cat([self.input_bias, torch.zeros_like(self.input_bias)])

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (c,) = states
        forget, reset, candidate, highway = projected.chunk(4, dim=-1)
        if self.peephole is not None:
            to_forget, to_reset = self.peephole.chunk(2)
            forget, reset = forget + to_forget * c, reset + to_reset * c
        forget, reset = torch.sigmoid(forget), torch.sigmoid(reset)
        c = forget * c + (1 - forget) * candidate
        return reset * c + (1 - reset) * highway, (c,)

    def reset_parameters(self) -> None:
        """Matrices from U(-a, a), a = (3 / input_size) ** 0.5; v = 0, bf as `forget_bias` says, br = 0."""
        self.input.reset_parameters((3 / self.input_size) ** 0.5)
        if self.peephole is not None:
            nn.init.zeros_(self.peephole)
        if self.input_bias is not None:
            forget, reset = self.input_bias.detach().chunk(2)
            self.forget_bias.draw_(forget)
            reset.zero_()
