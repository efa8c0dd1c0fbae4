"""Forecasting of a user's own series: the next values of some of its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, Count, ShareAbove0, Steps
from .._errors import invalid
from ..data.series import Layout
from .batch import Batch
from .own_data import Examples, OwnData, Saved, Words, check_split_by_time
from .series_numbers import AbstractNumbersTask
from .series_split import by_time


@dataclass(frozen=True)
class ForecastingData(OwnData):
    """Those of `OwnData`; the next `horizon` values of the channels `targets` are predicted from `window` steps.

    The last share `test` of the steps of each sequence is the test part, the share `valid` before it the validation
    part. A forecast belongs to the part that all values to be predicted are in; what it reads may be older. Every step
    is the last one of a window, but for windows in which time is missing.
    """

    targets: Words = ()
    window: Steps = 48
    horizon: Count = 1
    valid: ShareAbove0 = 0.15
    test: ShareAbove0 = 0.15
    name: Literal["forecasting"] = "forecasting"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        check_split_by_time(self)


class ForecastingTask(AbstractNumbersTask):
    """The values of the targets 1, 2, ..., horizon steps after the last one: (batch, horizon * targets), time by time.

    Beside the errors of `AbstractNumbersTask` it gives those of the persistence forecast, which repeats the last value
    that is not missing.
    """

    data_options = ForecastingData
    data: ForecastingData

    def layout(self, data: Any, categories: Mapping[str, Sequence[str]] | None) -> Layout:
        numbers = [name for name in data.channels if name not in data.categories]
        if not data.targets or not set(data.targets) <= set(numbers):
            raise invalid(
                "task.targets", got=list(data.targets), expected=f"some of the channels: {', '.join(numbers)}"
            )
        return self.layout_of(data, categories)

    def begin_reading(self, saved: Saved | None) -> None:
        data, file = self.data, self.series["file"]
        self.columns = [data.channels.index(name) for name in data.targets]
        self.bounds = by_time(file.offsets, data.valid, data.test)
        self.set_scale_in_time(file.values[:, self.columns], self.bounds["train"], saved, data.horizon)

    def target_names(self) -> list[str]:
        return list(self.data.targets)

    def make_examples(self) -> dict[str, Examples]:
        window, horizon, file = self.data.window, self.data.horizon, self.series["file"]
        breaks = np.zeros(len(file.values) + 1, int)
        breaks[file.breaks] = 1
        before = breaks.cumsum()
        found = {}
        for part, stretches in self.bounds.items():
            ends = [
                np.arange(max(begin, first + window), end - horizon + 1)
                for first, (begin, end) in zip(file.offsets[:-1].tolist(), stretches, strict=True)
            ]
            end = np.concatenate(ends)
            end = end[before[end + horizon - 1] == before[end - window]]
            found[part] = Examples(end - window, end, np.zeros(len(end)))
        if not len(found["train"]):
            got = f"no stretch of {window} + {horizon} steps without a gap"
            raise invalid("training part", got=got, expected="at least one", hint="make window or horizon smaller")
        return found

    def training_steps(self) -> np.ndarray:
        """All steps before the validation part."""
        steps = np.zeros(len(self.series["file"].values), bool)
        for begin, end in self.bounds["train"]:
            steps[begin:end] = True
        return steps

    def targets_of(self, part: str, numbers: np.ndarray, steps: np.ndarray) -> np.ndarray:
        ahead = self.examples[part].end[numbers][:, None] + np.arange(self.data.horizon)
        return self.series["file"].values[ahead][..., self.columns].reshape(len(numbers), -1)

    def has_target(self, part: str, examples: Examples) -> np.ndarray:
        known = np.append(0, np.isfinite(self.series["file"].values[:, self.columns]).any(axis=1)).cumsum()
        return known[examples.end + self.data.horizon] > known[examples.end]

    def other_errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """Those of the answers, and all of the persistence forecast."""
        own = super().other_errors(answers, batch)
        return {**own, **self.named("persistence_", self.persistence(batch), batch)}

    def persistence(self, batch: Batch) -> Tensor:
        """The last value of each target in the window, of those all of which are missing the mean."""
        past = batch.inputs[..., self.columns]
        known = ~past.isnan()
        last = (known * torch.arange(1, past.shape[1] + 1)[:, None]).amax(1)
        found = past.gather(1, (last - 1).clamp(min=0)[:, None]).squeeze(1)
        return torch.where(last > 0, found, self.own_scale[0]).repeat(1, self.data.horizon)
