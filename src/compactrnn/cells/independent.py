"""Diagonal recurrent weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import check_positive, invalid


@dataclass(frozen=True)
class IndependentWeights:
    """Initialization and bound of the diagonal recurrent weight u in `h' = f(... + u * h)`.

    Over T steps a unit's gradient is multiplied by at most u^T, so `|u| <= magnitude ** (1 / T)` keeps it below
    `magnitude`. `steps` is T, the length of the training sequences; None stands for any length: `|u| <= 1`.
    `init` is "uniform", U(0, 1), memories of all lengths; "one"; or the two ends of another uniform distribution.

    >>> IndependentWeights(steps=784, magnitude=2.0).bound
    1.0008845...

    Source: Li, Li, Cook, Zhu, Gao, "Independently Recurrent Neural Network (IndRNN)", 2018, section 4.
    """

    steps: int | None = None
    magnitude: float = 5.0
    init: str | tuple[float, float] = "uniform"

    def __post_init__(self):
        if self.steps is not None:
            check_positive(self.steps, "steps")
        if not _is_number(self.magnitude) or not 0 < self.magnitude < float("inf"):
            raise invalid("magnitude", got=repr(self.magnitude), expected="a number above 0")
        ends = self.init
        pair = isinstance(ends, tuple | list) and len(ends) == 2 and all(map(_is_number, ends)) and ends[0] <= ends[1]
        if not pair and ends not in ("uniform", "one"):
            raise invalid("recurrent_init", got=repr(ends), expected="'uniform', 'one' or (low, high)")

    @property
    def bound(self) -> float:
        """The largest |u| allowed."""
        return 1.0 if self.steps is None else float(self.magnitude) ** (1 / self.steps)

    @torch.no_grad()
    def draw_(self, u: Tensor) -> None:
        """Initialize u in place."""
        low, high = {"uniform": (0.0, 1.0), "one": (1.0, 1.0)}[self.init] if isinstance(self.init, str) else self.init
        u.uniform_(low, high)

    @torch.no_grad()
    def clamp_(self, u: Tensor) -> None:
        """Clamp u to its bound; see `limit_`."""
        limit_(u, self.bound)


@torch.no_grad()
def limit_(x: Tensor, bound: float) -> None:
    """Clamp the entries to [-bound, bound]; writes only if needed, so that pending backward passes stay valid.

    >>> x = torch.tensor([0.5, -2.0])
    >>> limit_(x, 1.0)
    >>> x
    tensor([ 0.5000, -1.0000])
    """
    if bool((x.abs() > bound).any()):
        x.clamp_(-bound, bound)


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)
