"""Learning-rate schedules with warm-up."""

from __future__ import annotations

import math
from typing import Any

from .recipe import ScheduleOptions


class LearningRate:
    """Learning rate `base * factor(update)`; every schedule starts with a linear warm-up over `warmup` updates.

    - constant: 1
    - cosine: from 1 to `final` in half a cosine over the phase
    - steps: 1 for `constant_epochs` epochs, then `factor` times the last every `every_epochs` epochs (Zaremba et al.,
      2014, at each one)
    - plateau: times `factor` after more than `patience` evaluations in a row without progress

    >>> rate = LearningRate(ScheduleOptions("steps", constant_epochs=4, factor=0.5), 1.0, total=60, per_epoch=10)
    >>> [rate.at(update) for update in (0, 39, 40, 59)]
    [1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, options: ScheduleOptions, base: float, *, total: int, per_epoch: int):
        self.options, self.base, self.total, self.per_epoch = options, base, total, per_epoch
        self.scale, self.best, self.waited = 1.0, math.inf, 0

    def at(self, update: int) -> float:
        """The rate of update number `update`, counted from 0."""
        o = self.options
        rate = self.base * min(1.0, (update + 1) / (o.warmup + 1))
        if o.name == "cosine":
            rate *= o.final + (1 - o.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, update / self.total)))
        elif o.name == "steps":
            after = max(0, update // self.per_epoch + 1 - o.constant_epochs)
            rate *= o.factor ** math.ceil(after / o.every_epochs)
        return rate * self.scale

    def observe(self, metric: float) -> None:
        """Report a validation metric to the plateau schedule."""
        if self.options.name != "plateau":
            return
        if metric < self.best:
            self.best, self.waited = metric, 0
        elif self.waited >= self.options.patience:
            self.scale, self.waited = self.scale * self.options.factor, 0
        else:
            self.waited += 1

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.scale, self.best, self.waited = state["scale"], state["best"], state["waited"]
