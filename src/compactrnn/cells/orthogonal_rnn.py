"""Recurrent network with an orthogonal recurrent matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet
from .rotations import MAPS, draw_rotation_, modrelu, once, rotation


class OrthogonalRNN(AbstractCell):
    """Elman network whose recurrent matrix stays orthogonal, so that gradients neither vanish nor explode by it.

        h' = f(W x + Q h),   Q^T Q = I

    Q is exp(A) (`orthogonal_map="exp"`, expRNN) or the Cayley transform `(I + A)^-1 (I - A)` ("cayley", scoRNN) of a
    skew-symmetric matrix A; `skew` has the hidden_size (hidden_size - 1) / 2 free numbers of it. Q is made once for a
    sequence, and a packed model has Q, in float32. f is "modrelu", sign(a) relu(|a| + b), or "tanh", tanh(a + b).

    With modrelu nothing bounds h over a long input: its norm grows as the root of the number of steps, and linearly
    where b is positive. "tanh" is bounded. Q starts from rotations of pairs of units by angles of
    U(0, `largest_angle`), W from U(-a, a), a = input_size ** -0.5, b at zero. The angle is pi / 2 unless given; pi,
    which the map "exp" alone has, did far better in the copy memory problem. No unit can be pruned: the rest of Q would
    not be orthogonal.

    >>> import torch
    >>> cell = OrthogonalRNN(8, 16, orthogonal_map="cayley")
    >>> y, (h,) = cell(torch.randn(2, 8))
    >>> y.shape, cell.skew.shape
    (torch.Size([2, 16]), torch.Size([120]))

    Raises:
        ValueError: another orthogonal_map or nonlinearity; a largest_angle that the map does not have.

    Sources: Lezcano-Casado, Martinez-Rubio, "Cheap Orthogonal Constraints in Neural Networks", 2019 (expRNN);
    Helfrich, Willmott, Ye, "Orthogonal Recurrent Neural Networks with Scaled Cayley Transform", 2018 (scoRNN), without
    its diagonal of signs.
    """

    states = (StateSpec("h"),)
    units = (
        UnitSet(
            "h",
            written_by=("input", "bias"),
            read_by=(),
            output=True,
            fixed="its recurrent matrix is orthogonal as a whole, and no part of it is",
        ),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        orthogonal_map: str = "exp",
        nonlinearity: str = "modrelu",
        largest_angle: float = math.pi / 2,
    ):
        super().__init__(input_size, hidden_size)
        self.exact = True
        if orthogonal_map not in MAPS:
            raise invalid("orthogonal_map", got=repr(orthogonal_map), expected="'exp' or 'cayley'")
        if nonlinearity not in ("modrelu", "tanh"):
            raise invalid("nonlinearity", got=repr(nonlinearity), expected="'modrelu' or 'tanh'")
        below = 3.1416 if orthogonal_map == "exp" else math.pi / 2  # pi, as it is written in a recipe
        if (
            isinstance(largest_angle, bool)
            or not isinstance(largest_angle, int | float)
            or not 0 < largest_angle <= below
        ):
            expected = f"above 0, at most {'pi' if orthogonal_map == 'exp' else 'pi / 2'} with {orthogonal_map!r}"
            raise invalid("largest_angle", got=repr(largest_angle), expected=expected)
        self.orthogonal_map, self.nonlinearity = orthogonal_map, nonlinearity
        self.largest_angle = float(largest_angle)
        self.input = input_weight.build(hidden_size, input_size)
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.skew = nn.Parameter(torch.empty(hidden_size * (hidden_size - 1) // 2))
        self.reset_parameters()

    def transition(self) -> Tensor:
        """Q, (hidden_size, hidden_size)."""
        return rotation(self.skew, len(self.bias), self.orthogonal_map)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        total = projected + nn.functional.linear(h, once(self.skew, self.transition))
        h = modrelu(total, self.bias) if self.nonlinearity == "modrelu" else torch.tanh(total + self.bias)
        return h, (h,)

    def macs(self) -> int:
        return super().macs() + len(self.bias) ** 2

    def reset_parameters(self) -> None:
        """Initialize all parameters as above."""
        self.input.reset_parameters()
        nn.init.zeros_(self.bias)
        draw_rotation_(self.skew.detach(), len(self.bias), self.orthogonal_map, self.largest_angle)
