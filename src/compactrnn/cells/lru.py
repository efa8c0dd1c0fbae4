"""Linear recurrent unit (LRU)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet


class LRU(AbstractCell):
    """Linear recurrent unit: independent complex memories, read by one matrix.

        z' = a * z + sqrt(1 - |a|^2) * B x         a = exp(-exp(v) + i exp(w)), state_size complex numbers
        y = Re(C z') + D x

    |a| is below 1 whatever v is, and the factor of B x keeps z at the size of the input. z is two real states, `re` and
    `im`; the weight `input` has the real and the imaginary part of B, `from_re` and `from_im` multiply them in
    Re(C z), `skip` is D. At the start the a lie in a ring, |a| in `radius`, at angles in (0, `phase`); memories of a
    thousand steps need a radius of (0.99, 0.999). A step is linear in states and input, and long sequences are scanned:
    between layers put what is not linear.

    >>> import torch
    >>> cell = LRU(8, 16, state_size=24, radius=(0.9, 0.999))
    >>> y, (re, im) = cell(torch.randn(2, 8))
    >>> y.shape, re.shape
    (torch.Size([2, 16]), torch.Size([2, 24]))

    Raises:
        ValueError: a radius that is not two numbers 0 <= low < high <= 1; a phase that is not above 0.

    Source: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De, "Resurrecting Recurrent Neural Networks for Long
    Sequences", 2023; there the factor of B x is trained from this value on.
    """

    states = (StateSpec("re", units="z"), StateSpec("im", units="z"))
    units = (
        UnitSet("z", written_by=("input", "decay", "angle"), read_by=("from_re", "from_im")),
        UnitSet("h", written_by=("from_re", "from_im", "skip"), read_by=(), output=True),
    )
    reads_input = ("input", "skip")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        output_weight: WeightSpec = DENSE,
        state_size: int | None = None,
        radius: tuple[float, float] = (0.0, 1.0),
        phase: float = 2 * math.pi,
    ):
        super().__init__(input_size, hidden_size)
        if len(radius) != 2 or not 0 <= radius[0] < radius[1] <= 1:
            raise invalid("radius", got=repr(radius), expected="two numbers, 0 <= low < high <= 1")
        if not 0 < phase < math.inf:
            raise invalid("phase", got=repr(phase), expected="a number above 0")
        self.radius, self.phase = tuple(radius), phase
        size = check_positive(hidden_size if state_size is None else state_size, "state_size")
        self.input = input_weight.build(2 * size, input_size, gates=2)
        self.skip = input_weight.build(hidden_size, input_size)
        self.from_re = output_weight.build(hidden_size, size)
        self.from_im = output_weight.build(hidden_size, size)
        self.decay, self.angle = nn.Parameter(torch.empty(size)), nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def size_options(self) -> dict[str, int]:
        return {"state_size": self.from_re.in_features}

    def project(self, x: Tensor) -> Tensor:
        """B x, then D x."""
        return torch.cat([self.input(x), self.skip(x)], dim=-1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        re, im = states
        size = re.shape[-1]
        rate, angle = torch.exp(self.decay), torch.exp(self.angle)
        cos, sin = torch.exp(-rate) * torch.cos(angle), torch.exp(-rate) * torch.sin(angle)
        share = torch.sqrt(-torch.expm1(-2 * rate))
        x_re, x_im, skip = projected.split((size, size, projected.shape[-1] - 2 * size), dim=-1)
        re, im = cos * re - sin * im + share * x_re, sin * re + cos * im + share * x_im
        return self.from_re(re) - self.from_im(im) + skip, (re, im)

    def select_(self, keep: Mapping[str, Tensor], inputs: Tensor | None = None) -> LRU:
        super().select_(keep, inputs)
        self.hidden_size = self.from_re.out_features  # not the size of the states
        return self

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """a uniform in the ring; variance of B 1 / (2 input_size), of C 1 / (2 state_size), of D 1 / input_size."""
        self.input.reset_parameters((1.5 / self.input_size) ** 0.5)
        self.skip.reset_parameters((3 / self.input_size) ** 0.5)
        for weight in (self.from_re, self.from_im):
            weight.reset_parameters((1.5 / weight.in_features) ** 0.5)
        low, high = self.radius
        square = self.decay.uniform_(low**2, high**2).clamp_(1e-6, 1 - 1e-6)  # of |a|
        square.log_().mul_(-0.5).log_()
        self.angle.uniform_(0, self.phase).clamp_(min=1e-6).log_()
