"""LSTM whose gates read a linear recurrence in the place of its output (GILR-LSTM)."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import check_positive
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .forget_bias import ForgetBias


class GILRLSTM(AbstractCell):
    """LSTM whose gates read a moving average of the input in the place of h, so that all times are found by two scans.

        g = sigmoid(Wg x + bg)        j = tanh(Wj x + bj)
        s' = g * s + (1 - g) * j                              the surrogate of h
        f = sigmoid(Wf x + bf + Uf s)        i = sigmoid(Wi x + bi + Ui s)
        o = sigmoid(Wo x + bo + Uo s)        z = tanh(Wz x + bz + Uz s)
        c' = f * c + i * z
        h' = o * c'

    Given x at all times s is linear in itself; given s so is c. The equations are those of the paper; its authors' code
    reads s' in the place of s, and so does `delayed=False`. There is no tanh of c'.

    The weight `input` has Wf, Wi, Wo, Wz, `hidden` the U, `surrogate` Wg and Wj. s has `surrogate_size` numbers,
    hidden_size unless given. bf and bg start at `forget_bias`, a number or "chrono" with `steps`, the longest
    dependence expected (see `ForgetBias`); the authors' code has 5.

    >>> import torch
    >>> cell = GILRLSTM(8, 16, surrogate_size=4)
    >>> y, (s, c) = cell(torch.randn(2, 8))
    >>> y.shape, s.shape, c.shape
    (torch.Size([2, 16]), torch.Size([2, 4]), torch.Size([2, 16]))

    Source: Martin, Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", 2018, section 3.2, and the
    authors' code, eamartin/parallelizing_linear_rnns.
    """

    states = (StateSpec("s", units="s"), StateSpec("c"))
    units = (
        UnitSet("s", written_by=("surrogate", "surrogate_bias"), read_by=("hidden",)),
        UnitSet("h", written_by=("input", "input_bias", "hidden"), read_by=(), output=True),
    )
    reads_input = ("input", "surrogate")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        bias: bool = True,
        surrogate_size: int | None = None,
        delayed: bool = True,
        forget_bias: float | str = 1.0,
        steps: int | None = None,
    ):
        super().__init__(input_size, hidden_size)
        size = check_positive(hidden_size if surrogate_size is None else surrogate_size, "surrogate_size")
        self.forget_bias = ForgetBias(forget_bias, steps, bias)
        self.delayed = delayed
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)  # f, i, o, z
        self.hidden = hidden_weight.build(4 * hidden_size, size, gates=4)
        self.surrogate = input_weight.build(2 * size, input_size, gates=2)  # g, j
        self.input_bias, self.surrogate_bias = new_bias(4 * hidden_size, bias), new_bias(2 * size, bias)
        self.reset_parameters()

    def size_options(self) -> dict[str, int]:
        return {"surrogate_size": self.hidden.in_features}

    def project(self, x: Tensor) -> Tensor:
        """What the surrogate takes of the input, then W x + b of the gates."""
        surrogate = self.surrogate(x)
        surrogate = surrogate if self.surrogate_bias is None else surrogate + self.surrogate_bias
        return torch.cat([surrogate, super().project(x)], dim=-1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        s, c = states
        keep, candidate = projected[:, : 2 * s.shape[-1]].chunk(2, dim=-1)
        keep = torch.sigmoid(keep)
        after = keep * s + (1 - keep) * torch.tanh(candidate)
        gates = projected[:, 2 * s.shape[-1] :] + self.hidden(s if self.delayed else after)
        f, i, o, z = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        return torch.sigmoid(o) * c, (after, c)

    def reset_parameters(self) -> None:
        """Matrices from U(-a, a), a = columns ** -0.5; bf and bg as `forget_bias` says, other biases 0."""
        for weight in (self.input, self.hidden, self.surrogate):
            weight.reset_parameters()
        for bias in (self.input_bias, self.surrogate_bias):
            if bias is not None:
                bias.detach().zero_()
                self.forget_bias.draw_(bias.detach()[: len(bias) // (4 if bias is self.input_bias else 2)])
