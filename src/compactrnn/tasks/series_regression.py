"""Regression on a user's own sequences: numbers of a sequence, or of each of its steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .._bounds import STRICT, Flag, ShareBelow1
from .._errors import invalid
from ..data.series import Layout, Series
from .own_data import Examples, FoldedData, Saved, Words, sequence_examples
from .series_numbers import AbstractNumbersTask
from .series_split import by_folds, by_time, windows


@dataclass(frozen=True)
class SeriesRegressionData(FoldedData):
    """Those of `FoldedData`; `targets` are columns, or arrays, of numbers.

    With `every_step` there is a target at every step, else one for a sequence. `split = "time"` trains on the first
    steps of each sequence, validates on the share `valid` of steps after them and tests on the last share `test`, in
    place of folds; for long sequences that have targets at every step.
    """

    targets: Words = ()
    every_step: Flag = False
    split: Literal["folds", "time"] = "folds"
    valid: ShareBelow1 = 0.15
    test: ShareBelow1 = 0.15
    name: Literal["regression"] = "regression"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if self.split == "time":
            if not self.every_step or not self.window:
                got = f"every_step = {str(self.every_step).lower()}, window = {self.window}"
                raise invalid("split", got=f'"time" with {got}', expected="every_step = true, and a window")
            if self.test_file or self.group:
                raise invalid("split", got='"time" with a test_file or group', expected='"folds"')
            if self.valid + self.test >= 1 or not self.valid or not self.test:
                raise invalid(
                    "valid, test", got=f"{self.valid}, {self.test}", expected="shares above 0, below 1 together"
                )


class SeriesRegressionTask(AbstractNumbersTask):
    """Numbers of a sequence of a user's file at its last step, or of every step; see `AbstractNumbersTask`.

    Always answering the mean of the training part has a `scaled_mse` of about 1.
    """

    data_options = SeriesRegressionData
    data: SeriesRegressionData

    def layout(self, data: Any, categories: Mapping[str, Sequence[str]] | None) -> Layout:
        if not data.targets or set(data.targets) & set(data.channels):
            got, expected = list(data.targets), "columns of numbers that are no channels"
            raise invalid("task.targets", got=got, expected=expected)
        return self.layout_of(data, categories, targets=data.targets, every_step=data.every_step, group=data.group)

    def begin_reading(self, saved: Saved | None) -> None:
        self.every_step = self.data.every_step
        if saved is not None:
            self.set_scale(None, saved)

    def target_names(self) -> list[str]:
        return list(self.data.targets)

    def make_examples(self) -> dict[str, Examples]:
        data, apart = self.data, "test" in self.series
        if data.split == "time":
            found = self._by_time()
        else:
            parts = {}
            if "file" in self.series:
                file = self.series["file"]
                count = len(file.offsets) - 1
                parts = by_folds(data.folds, data.fold, data.split_seed, np.zeros(count, int), file.groups, apart)
            if apart:
                parts["test"] = np.arange(len(self.series["test"].offsets) - 1)
            of_sequence = {} if data.every_step else {name: _targets(s) for name, s in self.series.items()}
            found = sequence_examples(data, self.series, parts, of_sequence, tail=data.every_step)
        if self.saved is None:
            train, file = found["train"], self.series["file"]
            rows = [np.arange(b, e) for b, e in zip(train.begin, train.end, strict=True)]
            every = _targets(file)[np.concatenate(rows or [np.zeros(0, int)])] if data.every_step else train.targets
            if not len(every):
                raise invalid("training part", got="no sequence", expected="at least one")
            self.set_scale(every, None)
        return found

    def _by_time(self) -> dict[str, Examples]:
        file, found = self.series["file"], {}
        for part, bounds in by_time(file.offsets, self.data.valid, self.data.test).items():
            rows = [
                pair
                for begin, end in bounds
                for piece in _pieces(begin, end, file.breaks)
                for pair in windows(*piece, self.data.window, self.data.stride or self.data.window, tail=True)
            ]
            begin, end = np.array(rows, int).reshape(-1, 2).T
            found[part] = Examples(begin, end, np.zeros(len(begin)))
        return found

    def targets_of(self, part: str, numbers: np.ndarray, steps: np.ndarray) -> np.ndarray:
        if not self.every_step:
            return super().targets_of(part, numbers, steps)
        found = _targets(self.of_part(part))[steps]
        found[steps < 0] = np.nan
        return found.transpose(1, 0, 2)

    def has_target(self, part: str, examples: Examples) -> np.ndarray:
        if not self.every_step:
            return np.asarray(np.isfinite(examples.targets).any(axis=1))
        known = np.append(0, np.isfinite(_targets(self.of_part(part))).any(axis=1)).cumsum()
        return known[examples.end] > known[examples.begin]


def _targets(series: Series) -> np.ndarray:
    assert series.targets is not None
    return series.targets


def _pieces(begin: int, end: int, breaks: np.ndarray) -> list[tuple[int, int]]:
    """A stretch of steps, cut where time is missing."""
    bounds = [begin, *breaks[(breaks > begin) & (breaks < end)].tolist(), end]
    return [(a, b) for a, b in itertools.pairwise(bounds) if b > a]
