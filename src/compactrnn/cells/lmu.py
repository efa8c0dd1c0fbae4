"""Legendre memory unit (LMU)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import check_positive
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import StateSpec, UnitSet, new_bias
from .polynomial_memory import AbstractPolynomialMemory, check_window


class LMU(AbstractPolynomialMemory):
    """Legendre memory unit: one number a step is written to a memory of the last `window` steps, which the units read.

        u = ex x + eh h + em m                   one number
        m' = A m + B u                           `order` coefficients of Legendre polynomials over the window
        h' = tanh(W x + b + U h + V m')

    A and B are fixed and follow from `order` and `window` (zero-order hold), so that they are no parameters; a packed
    model has A as a matrix, in float32. The weight `input` is W, `hidden` U, `memory` V, and `memory_input`,
    `memory_hidden`, `memory_memory` are ex, eh, em. `order` is hidden_size unless given. b and em start at zero.

    >>> import torch
    >>> cell = LMU(8, 16, order=32, window=100)
    >>> y, (h, m) = cell(torch.randn(2, 8))
    >>> y.shape, m.shape
    (torch.Size([2, 16]), torch.Size([2, 32]))

    Raises:
        ValueError: a window below 1 step; an order below 1.

    Source: Voelker, Kajic, Eliasmith, "Legendre Memory Units: Continuous-Time Representation in Recurrent Neural
    Networks", 2019, whose cell has no b.
    """

    units = (
        UnitSet(
            "h",
            written_by=("input", "input_bias", "hidden", "memory"),
            read_by=("hidden", "memory_hidden"),
            output=True,
        ),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        order: int | None = None,
        window: float = 100.0,
        bias: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        self.order = check_positive(hidden_size if order is None else order, "order")
        self.window = check_window(window)
        self.states = (
            StateSpec("h"),
            StateSpec(
                "memory",
                shape=(self.order,),
                written_by=("memory_input", "memory_hidden", "memory_memory"),
                read_by=("memory", "memory_memory"),
            ),
        )
        self.memory_input = DENSE.build(1, input_size)
        self.memory_hidden = DENSE.build(1, hidden_size)
        self.memory_memory = DENSE.build(1, self.order)
        self.input = input_weight.build(hidden_size, input_size)
        self.input_bias = new_bias(hidden_size, bias)
        self.hidden = hidden_weight.build(hidden_size, hidden_size)
        self.memory = hidden_weight.build(hidden_size, self.order)
        self.fix_matrices_("lmu", "zoh")
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """What the input writes to the memory, then W x + b."""
        return torch.cat([self.memory_input(x), super().project(x)], dim=-1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, memory = states
        u = projected[:, :1] + self.memory_hidden(h) + self.memory_memory(memory)
        memory = self.remember(memory, u)
        h = torch.tanh(projected[:, 1:] + self.hidden(h) + self.memory(memory))
        return h, (h, memory)

    def reset_parameters(self) -> None:
        """W, U, V by Xavier's rule, ex and eh from U(-a, a), a = (3 / columns) ** 0.5; em = 0, b = 0."""
        for weight in (self.input, self.hidden, self.memory):
            weight.reset_parameters((6 / (weight.in_features + self.hidden_size)) ** 0.5)
        for weight in (self.memory_input, self.memory_hidden):
            weight.reset_parameters((3 / weight.in_features) ** 0.5)
        self.memory_memory.scale_(out=torch.zeros(1))
        if self.input_bias is not None:
            nn.init.zeros_(self.input_bias)
