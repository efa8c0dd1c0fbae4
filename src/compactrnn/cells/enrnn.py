"""Eigenvalue normalized recurrent network (ENRNN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet
from .rotations import draw_rotation_, modrelu, once, rotation, widened


class ENRNN(AbstractCell):
    """A long memory with an orthogonal matrix, and a short one whose matrix has its eigenvalues in the unit disc.

        l' = f(Wl x + Q l + C s)            hidden_size - short_size units, Q = (I + A)^-1 (I - A) D orthogonal
        s' = f(Ws x + R / rho(R) s)         short_size units, rho(R) the largest |eigenvalue| of R
        f(a) = sign(a) relu(|a| + b)        modReLU

    The state h and the output are [l; s]. A is skew-symmetric, `skew` has its free numbers; D is fixed, -1 for the
    first `negative` long units and 1 for the others. R, `short`, is divided by rho(R) from the first sequence in
    training on before which rho(R) is above 1 (`normalized`). C, `coupling`, is left out with `coupled=False`.

    The matrix of both parts is made once for a sequence, and a packed model has it, in float32. Nothing bounds l over a
    long input: its norm grows as the root of the number of steps, and linearly where b is positive. No unit can be
    pruned, as the rest of Q would not be orthogonal, and the rest of R would have other eigenvalues.

    >>> import torch
    >>> cell = ENRNN(8, 24, short_size=8)
    >>> y, (h,) = cell(torch.randn(2, 8))
    >>> y.shape, cell.short.shape, cell.coupling.shape
    (torch.Size([2, 24]), torch.Size([8, 8]), torch.Size([16, 8]))

    Raises:
        ValueError: a short_size that leaves no long unit; more negative units than there are long ones.

    Source: Helfrich, Ye, "Eigenvalue Normalized Recurrent Neural Networks for Short Term Memory", 2020, and the
    authors' code, KHelfrich1/ENRNN.
    """

    states = (StateSpec("h"),)
    units = (
        UnitSet(
            "h",
            written_by=("input", "bias"),
            read_by=(),
            output=True,
            fixed="its recurrent matrices are bounded as a whole, not in their parts",
        ),
    )
    signs: Tensor
    normalized: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        short_size: int | None = None,
        negative: int = 0,
        coupled: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        self.exact = True
        short = check_positive(max(1, hidden_size // 4) if short_size is None else short_size, "short_size")
        long = hidden_size - short
        if long < 1:
            raise invalid("short_size", got=short, expected=f"below hidden_size={hidden_size}")
        if isinstance(negative, bool) or not isinstance(negative, int) or not 0 <= negative <= long:
            raise invalid("negative", got=repr(negative), expected=f"a number of long units, 0 to {long}")
        self.input = input_weight.build(hidden_size, input_size)
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.skew = nn.Parameter(torch.empty(long * (long - 1) // 2))
        self.short = nn.Parameter(torch.empty(short, short))
        self.coupling = nn.Parameter(torch.empty(long, short)) if coupled else None
        self.register_buffer("signs", 1.0 - 2.0 * (torch.arange(long) < negative))
        self.register_buffer("normalized", torch.zeros(()))
        self.reset_parameters()

    def transition(self) -> Tensor:
        """The matrix of both parts, (hidden_size, hidden_size)."""
        q = rotation(self.skew, len(self.signs), "cayley") * self.signs
        short = self.short / torch.where(self.normalized > 0, self.radius(), torch.ones_like(self.normalized))
        upper = q.new_zeros(len(q), len(short)) if self.coupling is None else self.coupling
        return torch.cat([torch.cat([q, upper], 1), torch.cat([q.new_zeros(len(short), len(q)), short], 1)])

    def radius(self) -> Tensor:
        """rho(R)."""
        return torch.linalg.eigvals(widened(self.short)).abs().max().to(self.short.dtype)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        h = modrelu(projected + nn.functional.linear(h, once(self.short, self.transition)), self.bias)
        return h, (h,)

    def macs(self) -> int:
        return super().macs() + len(self.bias) ** 2

    @torch.no_grad()
    def constrain_(self) -> None:
        """From the first time on that rho(R) is above 1, divide by it."""
        if not self.normalized and self.radius() > 1:
            self.normalized.fill_(1.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the authors: W from U(-0.01, 0.01), C by Xavier's rule, b = 0, R of rotated pairs times U(-1, 1)."""
        long, short = len(self.signs), len(self.short)
        self.input.reset_parameters(0.01)
        self.bias.zero_()
        draw_rotation_(self.skew, long, "cayley")
        numbers = self.skew.new_empty(short * (short - 1) // 2)
        draw_rotation_(numbers, short, "cayley")
        size = self.short.new_empty((short + 1) // 2).uniform_(-1, 1).repeat_interleave(2)[:short]
        self.short.copy_(rotation(numbers, short, "cayley") * size)
        self.normalized.zero_()
        if self.coupling is not None:
            bound = (6 / (long + short)) ** 0.5
            self.coupling.uniform_(-bound, bound)
