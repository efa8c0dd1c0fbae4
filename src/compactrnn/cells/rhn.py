"""Recurrent highway network (RHN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import AbstractWeight, WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias

_TRANSFORM_BIAS = -2.0


class RHN(AbstractCell):
    """Recurrent highway network: `depth` highway layers between one time step and the next.

        s_0 = h
        c_l = tanh(W_c x + R_cl s_(l-1) + b_cl)              l = 1 ... depth, W x for l = 1 alone
        t_l = sigmoid(W_t x + R_tl s_(l-1) + b_tl)
        s_l = t_l * c_l + (1 - t_l) * s_(l-1)                the carry gate is coupled to the transform gate t
        h' = s_depth

    The weight `input` has W_c, then W_t, and `hidden_1`, `hidden_2` ... have R_cl, then R_tl. Unit k is number k of h
    and of every s_l, so that it is written by two rows and read by one column of each `hidden_l`: 4 depth hidden_size
    + 2 input_size numbers, and what reads h. The biases b_t start at `transform_bias`, the b_c at zero.

    >>> import torch
    >>> cell = RHN(8, 16, depth=3)
    >>> y, (h,) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape, cell.hidden_3.weight.shape
    (torch.Size([2, 16]), torch.Size([32, 16]))

    Raises:
        ValueError: a depth below 1; a transform_bias that is no finite number, or given with bias=False.

    Sources: Zilly, Srivastava, Koutnik, Schmidhuber, "Recurrent Highway Networks", 2017; the groups: Wen et al.,
    "Learning Intrinsic Sparse Structures within Long Short-Term Memory", 2018.
    """

    states = (StateSpec("h"),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        bias: bool = True,
        depth: int = 5,
        transform_bias: float = _TRANSFORM_BIAS,
    ):
        super().__init__(input_size, hidden_size)
        self.depth = check_positive(depth, "depth")
        number = isinstance(transform_bias, int | float) and not isinstance(transform_bias, bool)
        if not number or not math.isfinite(transform_bias):
            raise invalid("transform_bias", got=repr(transform_bias), expected="a number")
        if not bias and transform_bias != _TRANSFORM_BIAS:
            raise invalid("transform_bias", got=repr(transform_bias), expected="none with bias=False")
        self.transform_bias = float(transform_bias)
        self.input = input_weight.build(2 * hidden_size, input_size, gates=2)  # candidate, transform gate
        self.input_bias = new_bias(2 * hidden_size, bias)
        for layer in range(1, depth + 1):
            setattr(self, f"hidden_{layer}", hidden_weight.build(2 * hidden_size, hidden_size, gates=2))
            if layer > 1:
                setattr(self, f"bias_{layer}", new_bias(2 * hidden_size, bias))
        hidden = tuple(f"hidden_{layer}" for layer in range(1, depth + 1))
        biases = ("input_bias", *(f"bias_{layer}" for layer in range(2, depth + 1)))
        self.units = (UnitSet("h", written_by=("input", *hidden, *biases), read_by=hidden, output=True),)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (s,) = states
        for layer in range(1, self.depth + 1):
            hidden: AbstractWeight = getattr(self, f"hidden_{layer}")
            total = hidden(s)
            bias = projected if layer == 1 else getattr(self, f"bias_{layer}")
            candidate, transform = (total if bias is None else total + bias).chunk(2, dim=-1)
            s = torch.lerp(s, torch.tanh(candidate), torch.sigmoid(transform))
        return s, (s,)

    def reset_parameters(self) -> None:
        """Matrices as in every cell; biases of the transform gates `transform_bias`, of the candidates zero."""
        super().reset_parameters()
        for bias in self.parameters(recurse=False):
            candidate, transform = bias.detach().chunk(2)
            nn.init.zeros_(candidate)
            nn.init.constant_(transform, self.transform_bias)
