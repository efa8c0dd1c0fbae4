"""Initialization of forget-gate biases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import invalid


@dataclass(frozen=True)
class ForgetBias:
    """Initial bias b of a forget gate g = sigmoid(... + b): a number, or chrono initialization.

    A number; or "chrono", `b = log(U(1, steps - 1))`: g = 1 - 1 / (1 + e^b) then forgets over about U(2, steps) steps,
    so that there are memories of all lengths up to `steps`, the longest dependence expected.

    >>> bias = torch.empty(4)
    >>> ForgetBias("chrono", steps=100).draw_(bias)
    >>> bool((bias >= 0).all() and (bias.exp() <= 99).all())
    True

    Source: Tallec, Ollivier, "Can recurrent neural networks warp time?", 2018, section 2.
    """

    value: float | str = 1.0
    steps: int | None = None
    bias: bool = True  # whether the gate has one

    def __post_init__(self):
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool) and math.isfinite(self.value)
        if not number and self.value != "chrono":
            raise invalid("forget_bias", got=repr(self.value), expected="a number or 'chrono'")
        if number and self.steps is not None:
            raise invalid(
                "steps", got=self.steps, expected="None", hint="`steps` is only used with forget_bias='chrono'"
            )
        if not number and (not isinstance(self.steps, int) or self.steps < 3):
            raise invalid("steps", got=self.steps, expected="an int of at least 3 with forget_bias='chrono'")
        if not self.bias and self.value != 1.0:
            raise invalid("forget_bias", got=repr(self.value), expected="none with bias=False")

    @torch.no_grad()
    def draw_(self, bias: Tensor) -> None:
        """Initialize the biases of the gate in place."""
        if isinstance(self.value, str):
            assert self.steps is not None
            bias.uniform_(1, self.steps - 1).log_()
        else:
            bias.fill_(self.value)
