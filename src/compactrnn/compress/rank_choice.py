"""Ranks of several matrices under one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """What the ranks of a matrix cost, and the error of each: `errors[r]` is the relative squared error at rank r.

    A rank costs `each`, the dense matrix `dense`. Ranks that would cost as much as the dense matrix are no choice.
    """

    errors: np.ndarray
    each: float
    dense: float

    @property
    def most(self) -> int:
        """The largest rank that costs less than the dense matrix; 0 if none does."""
        below = int(np.ceil(self.dense / self.each)) - 1 if self.each else len(self.errors) - 1
        return max(0, min(below, len(self.errors) - 1))

    def cost(self, rank: int | None) -> float:
        """Of a rank, or of the dense matrix for None."""
        return self.dense if rank is None else rank * self.each

    @property
    def least(self) -> float:
        """The smallest possible cost."""
        return self.each if self.most else self.dense

    def best(self, price: float) -> int | None:
        """The rank, or None for dense, with the least `error + price * cost`."""
        ranks = np.arange(1, self.most + 1)
        totals = self.errors[ranks] + price * self.each * ranks
        if not len(ranks) or price * self.dense <= totals.min():
            return None
        return int(ranks[totals.argmin()])

    def next(self, rank: int | None) -> tuple[float, float, int | None] | None:
        """Gain, cost and rank of one step up: the next rank, or dense after the last one; None from dense."""
        if rank is None:
            return None
        above = rank + 1 if rank < self.most else None
        error = 0.0 if above is None else self.errors[above]
        return self.errors[rank] - error, self.cost(above) - self.cost(rank), above


def choose_ranks(choices: Sequence[Choice], budget: float) -> list[int | None]:
    """Ranks, None for a dense matrix, that together cost at most `budget`, which must be at least the least cost.

    They minimize `sum of relative squared errors + price * cost`, for the lowest price that the budget allows: of every
    matrix those singular values are kept whose share of its energy is worth their cost at one common threshold
    (Lagrange's multiplier; "reverse water-filling" in rate-distortion theory). What is left of the budget is spent on
    single ranks, those with the largest gain for their cost first.

    >>> flat = Choice(np.array([1.0, 0.75, 0.5, 0.25, 0.0]), each=2, dense=16)
    >>> steep = Choice(np.array([1.0, 0.1, 0.01, 0.001, 0.0]), each=2, dense=16)
    >>> choose_ranks([flat, steep], 10)
    [4, 1]

    Source: Cover, Thomas, "Elements of Information Theory", section 10.3.3.
    """

    def total(ranks: list[int | None]) -> float:
        return sum(c.cost(r) for c, r in zip(choices, ranks, strict=True))

    ranks: list[int | None] = [1 if c.most else None for c in choices]
    low, high = 1e-18, 1.0
    for _ in range(200):
        price = (low * high) ** 0.5
        found = [c.best(price) for c in choices]
        if total(found) <= budget:
            ranks, high = found, price
        else:
            low = price
    left = budget - total(ranks)
    while True:
        steps = [(i, c.next(r)) for i, (c, r) in enumerate(zip(choices, ranks, strict=True))]
        fitting = [(i, step) for i, step in steps if step is not None and step[1] <= left]
        if not fitting:
            return ranks
        number, (_, cost, rank) = max(fitting, key=lambda found: found[1][0] / max(found[1][1], 1e-12))
        ranks[number] = rank
        left -= cost
