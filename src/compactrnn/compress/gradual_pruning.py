"""Gradual magnitude pruning of units: remove the least important ones on a schedule, down to a given size."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .._errors import invalid
from .groups import Group
from .method import AbstractPruningMethod
from .selection import fractions

FADED = 0.1  # of the mean importance of the others: an optimizer's steps do not let the weights fade further


class GradualUnitPruning(AbstractPruningMethod):
    """Units of each layer are ranked by importance; the share `f + (1 - f) (1 - t/n)^3` of them is exempt at step t.

    The outgoing weights of the others are multiplied by `decay` each step, and by zero from step n on; until then a
    unit may rank back. `keep` is the fraction f, or a mapping of module names to fractions (see `GroupLasso`), n is
    `steps`, and `minimum` is the number of units that every layer keeps at least.

    Raises:
        ValueError: an argument out of range, or a name that the model does not have.

    Source: M. Zhu and S. Gupta, To prune, or not to prune, 2017.
    """

    def __init__(self, keep: float | Mapping[str, float], steps: int, *, decay: float = 0.9, minimum: int = 1):
        super().__init__()
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise invalid("keep, steps", got=f"{keep}, {steps}", expected="keep in (0, 1] and steps, a positive int")
        if not 0 <= decay < 1 or minimum < 1:
            raise invalid("decay, minimum", got=f"{decay}, {minimum}", expected="decay in [0, 1), minimum >= 1")
        self.keep, self.steps, self.decay, self.minimum = keep, steps, decay, minimum
        self._fractions: dict[str, float] = {}
        self._counts: dict[str, int] = {}  # before anything is cut

    def setup(self, groups: list[Group]) -> None:
        """The fraction of each group."""
        self._fractions = fractions(self.keep, groups)
        self._counts = {group.name: group.count for group in groups}

    def step_(self, groups: list[Group], count: int) -> None:
        """Rank, and decay what ranks beyond the schedule at step `count`."""
        factor = self.decay if count < self.steps else 0.0
        for group in groups:
            if count <= self.steps or group.name not in self.pruned:
                order = group.importance().argsort(descending=True, stable=True)
                self.pruned[group.name] = order.argsort() >= self._exempt(group, count)
            group.decay_(torch.where(self.pruned[group.name].to(group.device), factor, 1.0))

    def exempt_fraction(self, group: Group, count: int) -> float:
        keep = self._fractions[group.name]
        return keep + (1 - keep) * (1 - min(count / self.steps, 1)) ** 3

    def _exempt(self, group: Group, count: int) -> int:
        share = self.exempt_fraction(group, count)
        return min(max(round(share * self._counts[group.name]), self.minimum), group.count)

    def given_up(self, group: Group) -> torch.Tensor:
        """Those whose outgoing weights have faded to a tenth of what the others have."""
        pruned = self.pruned.get(group.name)
        if pruned is None or bool(pruned.all()):
            return super().given_up(group)
        size = group.importance().to(pruned.device)
        return pruned & (size < FADED * size[~pruned].mean())

    def target(self, group: Group) -> int:
        """The number of units at the end of the schedule."""
        return self._exempt(group, self.steps)

    def progress(self, count: int) -> str:
        """The position in the schedule."""
        return f"step {count} of {self.steps} of the schedule"
