"""Removing the least important units on a schedule, until a given share of them is left."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .groups import Group


class SizeSchedule:
    """Units of each layer are ranked by importance; the share `f + (1 - f) (1 - t/n)^3` of them is exempt at step t.

    The others are multiplied by `decay` each step, and by zero from step n on; until then a unit may rank back.

    Source: M. Zhu and S. Gupta, To prune, or not to prune, 2017.
    """

    def __init__(self, keep: Mapping[str, float], steps: int, decay: float, minimum: int):
        """`keep` is the fraction f of each group, by name."""
        self.keep, self.steps, self.decay, self.minimum = dict(keep), steps, decay, minimum
        self.out: dict[str, Tensor] = {}

    def penalty(self, groups: list[Group]) -> Tensor:
        """Zero: the schedule needs no penalty."""
        return torch.zeros((), device=groups[0].device if groups else None)

    def step_(self, groups: list[Group], count: int) -> None:
        """Rank, and fade what ranks beyond the schedule at step `count`."""
        factor = self.decay if count < self.steps else 0.0
        for group in groups:
            if count <= self.steps or group.name not in self.out:
                order = group.importance().argsort(descending=True, stable=True)
                self.out[group.name] = order.argsort() >= self.exempt(group, count)
            group.fade_(torch.where(self.out[group.name].to(group.device), factor, 1.0))

    def fraction(self, name: str, count: int) -> float:
        """The fraction of a group's units that is exempt at step `count`."""
        keep = self.keep[name]
        return keep + (1 - keep) * (1 - min(count / self.steps, 1)) ** 3

    def exempt(self, group: Group, count: int) -> int:
        """The number of a group's units that is exempt at step `count`."""
        return min(max(round(self.fraction(group.name, count) * group.count), self.minimum), group.count)

    def wanted(self, group: Group) -> int:
        """How many units are to be left in the end."""
        return self.exempt(group, self.steps)

    def position(self, count: int) -> str:
        """Where the schedule is, for reports."""
        return f"step {count} of {self.steps} of the schedule"

    def ended(self, count: int) -> bool:
        """Whether the schedule has run to its end."""
        return count >= self.steps
