"""Pruning by a threshold that rises while a model trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from .._errors import check_positive, invalid


@dataclass(frozen=True, eq=False)
class ThresholdRamp:
    """The threshold of Narang et al.: it rises slowly until step `ramp`, then `slope` times as fast.

    After step i with s = `start` < i < e = `start` + `steps`, if i is a multiple of f = `interval`,

        threshold = a (i - s + 1) / f                             for i < r = `start` + `ramp`,
        threshold = (a (r - s + 1) + b (i - r + 1)) / f           from r on,
        a = 2 q f / (2 (r - s) + 3 (e - r)),   b = slope a

    so that with a slope of 1.5 it ends at about q. For weights that shall be left with a fraction `keep`, q is the
    quantile 1 - `keep` of the absolute values in a dense model that is trained already, of all pruned weights of the
    same kind together: those that multiply a state, and the others. What is really left is a result of the training.

    Args:
        ramp: steps after `start`, half of `steps` unless given.
        slope: 1.5 to 2 in the paper.
        trained: the trained dense model that q is taken of; None for the one that is pruned, as it is at the start.

    Raises:
        ValueError: for numbers out of range.

    Source: Narang, Diamos, Sengupta, Elsen, Exploring Sparsity in Recurrent Neural Networks, 2017.

    >>> ThresholdRamp(ramp=200).threshold(300, 0.5, start=0, steps=400, interval=100)  # a = 0.1, b = 0.15
    0.3525
    """

    ramp: int | None = None
    slope: float = 1.5
    trained: nn.Module | None = None

    def __post_init__(self):
        if self.ramp is not None:
            check_positive(self.ramp, "ramp")
        if isinstance(self.slope, bool) or not isinstance(self.slope, int | float) or not 0 < self.slope < math.inf:
            raise invalid("slope", got=repr(self.slope), expected="a positive number")

    def check(self, start: int, steps: int, interval: int) -> None:
        """Raise `ValueError` unless the ramp is within the schedule, and the threshold is set at least once."""
        if self.ramp is not None and self.ramp > steps:
            raise invalid("ramp", got=self.ramp, expected=f"at most the {steps} steps of the schedule")
        if (start // interval + 1) * interval >= start + steps:
            got = f"no multiple of {interval} between steps {start} and {start + steps}"
            raise invalid("interval", got=got, expected="one or more")

    def sets(self, step: int, start: int, steps: int, interval: int) -> bool:
        """Whether there is another threshold after this step."""
        return start < step < start + steps and step % interval == 0

    def threshold(self, step: int, q: float, start: int, steps: int, interval: int) -> float:
        """The threshold after a step at which there is another one."""
        end, ramp = start + steps, start + (steps // 2 if self.ramp is None else self.ramp)
        a = 2 * q * interval / (2 * (ramp - start) + 3 * (end - ramp))
        if step < ramp:
            return a * (step - start + 1) / interval
        return (a * (ramp - start + 1) + self.slope * a * (step - ramp + 1)) / interval
