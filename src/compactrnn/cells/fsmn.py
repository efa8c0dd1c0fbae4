"""Compact feedforward sequential memory network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias, push
from .memory_block import FUNCTIONS, check_block, remembered, reset_affine_, reset_taps_


class FSMN(AbstractCell):
    """Compact FSMN: a low-rank projection, a trainable filter over time of each of its units, and a nonlinear layer.

        p_t = V x_t + b
        m_t = p_t + sum of a_i * p_(t - i stride) over i = 1 ... look_back
                  + sum of c_j * p_(t + j stride) over j = 1 ... look_ahead
        y_t = f(U m_t + b')

    Nothing is recurrent: the state is a delay line of the last `look_back * stride` projections. With `look_ahead` the
    output needs later inputs, zero beyond the end of a sequence: such a layer runs offline, on whole sequences only.
    `projection_size` is the width of p, a quarter of hidden_size (rounded up) unless given; f is relu, tanh or sigmoid.

    >>> import torch
    >>> cell = FSMN(8, 16, projection_size=4, look_back=10)
    >>> y, (line,) = cell(torch.randn(2, 8))
    >>> y.shape, line.shape
    (torch.Size([2, 16]), torch.Size([2, 40]))

    Sources: Zhang, Jiang, Wei, Dai, "Feedforward Sequential Memory Networks", 2015; the compact form: Zhang, Liu, Yao,
    Jiang, Dai, "Compact Feedforward Sequential Memory Networks for Large Vocabulary Continuous Speech Recognition",
    2016.
    """

    units = (
        UnitSet("p", written_by=("input", "input_bias", "past", "future"), read_by=("output",)),
        UnitSet("h", written_by=("output", "output_bias"), read_by=(), output=True),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        output_weight: WeightSpec = DENSE,
        projection_size: int | None = None,
        look_back: int = 20,
        look_ahead: int = 0,
        stride: int = 1,
        nonlinearity: str = "relu",
        bias: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        size = check_block(hidden_size, projection_size, nonlinearity)
        if not isinstance(look_ahead, int) or look_ahead < 0:
            raise invalid("look_ahead", got=repr(look_ahead), expected="a number of steps, 0 for none")
        self.nonlinearity = nonlinearity
        self.look_back, self.stride = check_positive(look_back, "look_back"), check_positive(stride, "stride")
        self.steps_ahead = look_ahead * stride
        self.states = (StateSpec("line", units="p", delay=look_back * stride),)
        self.input = input_weight.build(size, input_size)
        self.output = output_weight.build(hidden_size, size)
        self.input_bias, self.output_bias = new_bias(size, bias), new_bias(hidden_size, bias)
        self.past = nn.Parameter(torch.empty(look_back * size))
        self.future = nn.Parameter(torch.empty(look_ahead * size)) if look_ahead else None
        self.reset_parameters()

    def size_options(self) -> dict[str, int]:
        return {"projection_size": self.output.in_features}

    def look_ahead(self, projected: Tensor) -> Tensor:
        """The projections, and beside them what the filter takes of later ones; see `AbstractCell.look_ahead`."""
        if self.future is None:
            return projected
        padded = nn.functional.pad(projected, (0, 0, 0, 0, 0, self.steps_ahead))
        ahead = torch.zeros_like(projected)
        for j, tap in enumerate(self.future.unflatten(0, (-1, projected.shape[-1])).unbind(0), 1):
            ahead = ahead + tap * padded[j * self.stride : j * self.stride + projected.shape[0]]
        return torch.cat([projected, ahead], -1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (line,) = states
        size = self.output.in_features
        p = projected[:, :size]
        memory = remembered(p, line, self.past, self.stride)
        y = self.output(memory if self.future is None else memory + projected[:, size:])
        if self.output_bias is not None:
            y = y + self.output_bias
        return FUNCTIONS[self.nonlinearity](y), (push(line, p),)

    def reset_parameters(self) -> None:
        """Matrices and biases as torch draws those of a linear layer, filters as it draws those of a convolution."""
        for weight, bias in ((self.input, self.input_bias), (self.output, self.output_bias)):
            reset_affine_(weight, bias)
        taps = 1 + self.look_back + (0 if self.future is None else self.steps_ahead // self.stride)
        for filters in (self.past, self.future):
            if filters is not None:
                reset_taps_(filters, taps)
