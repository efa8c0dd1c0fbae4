"""The interface of pruning methods."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .gates import AbstractGate
from .groups import Group


class AbstractPruningMethod(ABC):
    """Which units go, and how they are driven to zero: a penalty on the loss, an update after each step, or gates.

    `step_` is all that a method must give. A `Pruner` finds the groups, passes to each call those that may be pruned,
    and does the rest: surgery, plans, reports, optimizer state, checkpoints.
    """

    steps: int = 0  # length of the schedule in optimizer steps; 0 for none
    advice: str = ""  # what to try if nothing was removed
    trains_gates: bool = False  # whether `step_` trains them, so that no optimizer has to

    def __init__(self):
        self.pruned: dict[str, Tensor] = {}  # by group: the units that are being removed; saved in checkpoints
        self.state: dict[str, Tensor] = {}  # what else changes in the course of the training; saved likewise

    def setup(self, groups: list[Group]) -> None:
        """Called once, with all groups, before anything is changed: check what names layers."""
        return None

    def new_gate(self, group: Group) -> AbstractGate | None:
        """A gate to multiply the units of `group`, trained with the model; None for no gate."""
        return None

    def penalty(self, groups: list[Group]) -> Tensor:
        """A scalar to add to the loss."""
        return torch.zeros((), device=groups[0].device if groups else None)

    @abstractmethod
    def step_(self, groups: list[Group], count: int) -> None:
        """Called after optimizer step `count` (from 1): change the weights, or the gates, of the groups in place."""

    def given_up(self, group: Group) -> Tensor:
        """Which units of `group` will not come back, (count,) bool, beside those whose weights are zero already."""
        return torch.zeros(group.count, dtype=torch.bool)

    def shrunk(self, model: nn.Module) -> None:
        """Called when units were cut out of `model` in the course of the training."""
        return None

    def target(self, group: Group) -> int | None:
        """How many units of `group` are to be left in the end; None if the method does not say."""
        return None

    def exempt_fraction(self, group: Group, count: int) -> float:
        """The fraction of a group's units that is exempt from pruning at step `count`."""
        return 1.0

    def progress(self, count: int) -> str:
        """How far the method has come, for reports and warnings."""
        return f"step {count}"

    def finished(self, count: int) -> bool:
        """Whether a schedule, if there is one, has ended."""
        return count >= self.steps
