"""Base class of tasks on a user's own file whose outputs are numbers in its units."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._errors import invalid
from .batch import Batch
from .own_data import AbstractOwnDataTask, Saved, mean_and_deviation


class AbstractNumbersTask(AbstractOwnDataTask):
    """Targets in the units of the file, some of which may be missing (NaN): these are in no loss and no metric.

        scaled_mse = mean(((y - target) / deviation)^2),   scaled_mae = mean(|y - target| / deviation)

    with the deviations of the targets in the training part; `mse` and `mae` are the same in the units of the file, for
    several targets their mean. The loss is `scaled_mse`.
    """

    metric = "scaled_mse"
    distill_targets = ()
    scaled = True
    scale: tuple[Tensor, Tensor]  # mean and deviation of each output

    @abstractmethod
    def target_names(self) -> list[str]:
        """The name of each target that has a scale of its own."""

    def set_scale(self, values: np.ndarray | None, saved: Saved | None, repeats: int = 1) -> None:
        """Take the scale of a trained model, or that of `values` (n, targets) of the training part."""
        if saved is not None:
            pairs = torch.tensor(saved.scale, dtype=torch.float32).reshape(-1, 2)
            mean, deviation = pairs[:, 0], pairs[:, 1]
        else:
            assert values is not None
            mean, deviation = mean_and_deviation(values, self.target_names())
        self.own_scale = mean, deviation
        self.scale = mean.repeat(repeats), deviation.repeat(repeats)

    def set_scale_in_time(
        self, values: np.ndarray, train: Sequence[tuple[int, int]], saved: Saved | None, repeats: int
    ) -> None:
        """`set_scale`, of those of all `values` (steps, targets) that are in the stretches `train`."""
        rows = np.concatenate([np.arange(*pair) for pair in train])
        if saved is None and not len(rows):
            raise invalid("training part", got="no step", expected="some")
        self.set_scale(values[rows], saved, repeats)

    def target_scale(self) -> tuple[Tensor, Tensor]:
        return self.scale

    @property
    def outputs(self) -> int:  # pyright: ignore
        return len(self.scale[0])

    def knows(self) -> Saved:
        mean, deviation = self.own_scale
        pairs = tuple(zip(mean.tolist(), deviation.tolist(), strict=True))
        return Saved(self.categories, scale=pairs)

    def wanted(self, batch: Batch) -> Tensor:
        """The targets, one row for each of `answers`."""
        return batch.within(batch.targets) if self.every_step else batch.targets

    def target_count(self, batch: Batch) -> int:
        """The number of targets that are not missing."""
        return int((~self.wanted(batch).isnan()).sum())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The mean squared error in deviations of the targets; 0 for a batch without targets."""
        difference = self._differences(self.answers(outputs, batch), self.wanted(batch))
        count = (~difference.isnan()).sum().clamp(min=1)
        scaled = difference / self.scale[1].to(difference)
        return torch.where(scaled.isnan(), torch.zeros_like(scaled), scaled).square().sum() / count

    def errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """The sum of the squared errors in deviations of the targets, and the number of targets."""
        scaled = self._differences(answers, self.wanted(batch)).double() / self.scale[1]
        return {self.metric: _sum(scaled.square())}

    def other_errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """The absolute errors, and both in the units of the file."""
        return self.named("", answers, batch)

    def named(self, prefix: str, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """All errors but the metric itself, with a prefix to their names."""
        difference = self._differences(answers, self.wanted(batch)).double()
        scaled = difference / self.scale[1]
        found = {
            "scaled_mse": scaled.square(),
            "scaled_mae": scaled.abs(),
            "mse": difference.square(),
            "mae": difference.abs(),
        }
        return {prefix + name: _sum(values) for name, values in found.items() if prefix or name != self.metric}

    def _differences(self, answers: Tensor, targets: Tensor) -> Tensor:
        """NaN where the target is missing; an answer that is none stays an error of its own."""
        if bool((answers.isnan() & ~targets.isnan()).any()):
            raise FloatingPointError("outputs: expected finite numbers, got NaN")
        return answers - targets


def _sum(values: Tensor) -> tuple[float, int]:
    known = ~values.isnan()
    return float(values[known].sum()), int(known.sum())
