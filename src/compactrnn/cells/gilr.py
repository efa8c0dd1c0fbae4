"""Gated impulse linear recurrent network (GILR)."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .input_gated import AbstractInputGated

_FUNCTIONS = {"elu": torch.nn.functional.elu, "tanh": torch.tanh, "relu": torch.relu}


class GILR(AbstractInputGated):
    """Gated impulse linear recurrent layer: an exponential moving average with input-dependent decay.

        g = sigmoid(U x + b)
        i = f(V x + c)
        h' = g * h + (1 - g) * i

    f is elu, tanh or relu. The weight `input` holds U, then V. b starts at `forget_bias`, a number or "chrono" with
    `steps`, the longest dependence expected (see `ForgetBias`); the authors' code has 5.

    >>> import torch
    >>> cell = GILR(8, 16, forget_bias="chrono", steps=1000)
    >>> y, (h,) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape
    torch.Size([2, 16])

    Source: Martin, Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", 2018, section 3.1.
    """

    keeps = (1,)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        bias: bool = True,
        nonlinearity: str = "elu",
        forget_bias: float | str = 1.0,
        steps: int | None = None,
    ):
        if nonlinearity not in _FUNCTIONS:
            raise invalid("nonlinearity", got=repr(nonlinearity), expected="'elu', 'tanh' or 'relu'")
        super().__init__(
            input_size, hidden_size, input_weight=input_weight, bias=bias, forget_bias=forget_bias, steps=steps
        )
        self.nonlinearity = nonlinearity

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        forget, candidate = projected.chunk(2, dim=-1)
        forget, candidate = torch.sigmoid(forget), _FUNCTIONS[self.nonlinearity](candidate)
        h = forget * h + (1 - forget) * candidate
        return h, (h,)
