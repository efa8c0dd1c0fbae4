"""Classification of a user's own sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from .._bounds import STRICT, Word
from .._errors import invalid
from .._text import shortened
from ..data.series import Layout, Series
from ..data.series_table import shortened_list
from .batch import Batch
from .classification import AbstractClassificationTask
from .own_data import AbstractOwnDataTask, Examples, FoldedData, Saved, sequence_examples
from .sequence import Answers
from .series_split import by_folds


@dataclass(frozen=True)
class SeriesClassificationData(FoldedData):
    """Those of `FoldedData`; `target` is the column, or array, with the class of each sequence.

    Without groups each class is dealt to the folds by itself (stratified).
    """

    target: Word = ""
    name: Literal["classification"] = "classification"
    __pydantic_config__ = STRICT


class SeriesClassificationTask(AbstractOwnDataTask, AbstractClassificationTask):
    """The class of a sequence of a user's file, at its last step; error in percent, accuracy, macro F1 in percent.

    Macro F1 is the mean over the classes of `2 c / (p + t)`: c sequences of the class are classified correctly, p are
    classified as it, t are of it.
    """

    data_options = SeriesClassificationData
    data: SeriesClassificationData
    classes: tuple[str, ...]

    def layout(self, data: Any, categories: Mapping[str, Sequence[str]] | None) -> Layout:
        if not data.target:
            raise invalid("task.target", got="none", expected="the column with the class of each sequence")
        return self.layout_of(data, categories, targets=(data.target,), labels=True, group=data.group)

    def begin_reading(self, saved: Saved | None) -> None:
        labels = {label for series in self.series.values() for label in _labels(series)}
        self.classes = tuple(sorted(labels, key=_order)) if saved is None else saved.classes
        if len(self.classes) < 2:
            got = f"the class {shortened_list(self.classes)} alone"
            hint = "name the column that tells sequences apart in task.sequence"
            raise invalid(f"column {self.data.target}", got=got, expected="at least two", hint=hint)

    @property
    def outputs(self) -> int:  # pyright: ignore
        """The classes."""
        return len(self.classes)

    def make_examples(self) -> dict[str, Examples]:
        parts, apart = {}, "test" in self.series
        if "file" in self.series:
            file, data = self.series["file"], self.data
            parts = by_folds(data.folds, data.fold, data.split_seed, _labels(file), file.groups, apart)
        if apart:
            parts["test"] = np.arange(len(self.series["test"].offsets) - 1)
        numbers = {name: self._numbers(name) for name in self.series}
        found = sequence_examples(self.data, self.series, parts, numbers)
        if self.saved is None and (lacking := set(range(self.outputs)) - set(found["train"].targets.tolist())):
            got = f"no sequence of class {shortened(self.classes[min(lacking)])}"
            hint = "other folds, or more sequences of it"
            raise invalid("training part", got=got, expected="some of every class", hint=hint)
        return found

    def _numbers(self, name: str) -> np.ndarray:
        """The class of each sequence of a file, as a number."""
        series, position = self.series[name], {label: number for number, label in enumerate(self.classes)}
        found = np.array([position.get(label, -1) for label in _labels(series)])
        if (unknown := found < 0).any():
            index = int(unknown.argmax())
            expected = f"one of the classes trained on: {shortened_list(self.classes)}"
            place = f"{series.places[index]}, {self.data.target}"
            raise invalid(place, got=shortened(_labels(series)[index]), expected=expected)
        return found

    def knows(self) -> Saved:
        return Saved(self.categories, self.classes)

    def _means(self, part: str, answers: Answers, measures: Sequence[Callable[..., Any]]) -> dict[str, float]:
        found, wanted = [], []

        def kept(batch: Batch) -> Tensor:
            outputs = answers(batch)
            found.append(outputs.argmax(1).numpy())
            wanted.append(batch.targets.numpy())
            return outputs

        means = super()._means(part, kept, measures)
        return {**means, "macro_f1": 100.0 * macro_f1(np.concatenate(found), np.concatenate(wanted))}


def macro_f1(found: np.ndarray, wanted: np.ndarray) -> float:
    """The mean over classes of twice the number right, divided by the number found and the number wanted.

    >>> round(macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])), 4)
    0.7333
    """
    classes = np.union1d(found, wanted)
    right = [((found == k) & (wanted == k)).sum() for k in classes]
    return float(
        np.mean([2 * r / ((found == k).sum() + (wanted == k).sum()) for r, k in zip(right, classes, strict=True)])
    )


def _labels(series: Series) -> list[str]:
    assert series.targets is not None
    return series.targets.tolist()


def _order(label: str) -> tuple[int, int, str]:
    """Whole numbers by their value, before all other texts."""
    return (0, int(label), label) if label.isascii() and label.isdigit() and len(label) < 19 else (1, 0, label)
