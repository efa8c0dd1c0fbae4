"""What cells share whose gates and candidate read the input only."""

from __future__ import annotations

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .forget_bias import ForgetBias


class AbstractInputGated(AbstractCell):
    """One state, `h' = k * h + (1 - k) * v`: k and v follow from gates and a candidate that read the input only.

    The weight `input` has the gates in the order of `keeps`, then the candidate. `keeps` says of each gate whether it
    keeps h (1) or writes over it (-1): its bias starts at that many times `forget_bias`.
    """

    states = (StateSpec("h"),)
    units = (UnitSet("h", written_by=("input", "input_bias"), read_by=(), output=True),)
    keeps: tuple[int, ...]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        bias: bool = True,
        forget_bias: float | str = 1.0,
        steps: int | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.forget_bias = ForgetBias(forget_bias, steps, bias)
        count = len(self.keeps) + 1
        self.input = input_weight.build(count * hidden_size, input_size, gates=count)
        self.input_bias = new_bias(count * hidden_size, bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices from U(-a, a), a = input_size ** -0.5; biases of gates as `forget_bias` says, the candidate's 0."""
        self.input.reset_parameters()
        if self.input_bias is not None:
            first, *others = self.input_bias.detach().unflatten(0, (len(self.keeps) + 1, -1)).unbind(0)
            self.forget_bias.draw_(first)
            drawn = first.clone()
            for bias, sign in zip((first, *others), (*self.keeps, 0), strict=True):
                bias.copy_(sign * drawn)
