"""Tasks on a user's own file of sequences: reading, examples, batches, normalization."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .._bounds import STRICT, Count, CountFrom0, Seed, Word
from .._errors import invalid
from .._validate import validated
from ..data.series import Layout, Series, read_series
from ..models.series_front_end import SeriesFrontEnd
from ..models.series_model import SeriesModel, SeriesModelOptions
from .batch import Batch
from .sequence import CALIBRATION_STEPS, PARTS, AbstractSequencesTask, generator
from .series_split import windows
from .similar_lengths import batches_of_similar_length

ROWS, CALIBRATION = 256, 16
SMALLEST_DEVIATION = 1e-6  # of a channel that hardly changes, in units of its largest number

Words = Annotated[tuple[Word, ...], Field(max_length=10_000)]
Sizes = Annotated[tuple[tuple[float, float], ...], Field(max_length=10_000)]


@dataclass(frozen=True)
class OwnData:
    """The file, and what its columns are; `compactrnn init` writes this section.

    `file` is a .csv, .npz or .ts file, below the working folder or the data folder; of `test_file`, if there is one,
    all is the test part. `channels` are the columns that the model reads, `categories` those of them that hold texts,
    `missing` those that may lack values. `sequence` is a column of a .csv file that says which lines belong together,
    `time` one, or several called year, month, day, hour, minute, second, in whose order the lines must be. `rows` is
    how many steps of the file are used; 0: all.
    """

    file: Word = ""
    test_file: Word = ""
    channels: Words = ()
    categories: Words = ()
    missing: Words = ()
    sequence: Word = ""
    time: Words = ()
    rows: CountFrom0 = 0
    __pydantic_config__ = STRICT


def check_split_by_time(data: Any) -> None:
    """Raise `ValueError` unless the shares `valid` and `test` of each sequence leave some, and all is in one file."""
    if data.valid + data.test >= 1:
        raise invalid("valid, test", got=f"{data.valid}, {data.test}", expected="shares of less than 1 together")
    if data.test_file:
        raise invalid("test_file", got=repr(data.test_file), expected="none: the parts follow each other in time")


@dataclass(frozen=True)
class FoldedData(OwnData):
    """Those of `OwnData`, and the split by sequences.

    The sequences, or with `group` whole groups of them (a column with the person, the machine, the place), are dealt to
    `folds` folds: fold `fold` is the test part, the next one the validation part; with a `test_file` fold `fold` is the
    validation part. `window` cuts sequences into windows of so many steps, each `stride` steps after the one before (0:
    `window`); with 0 a sequence is read as a whole.
    """

    group: Word = ""
    folds: Annotated[Count, Field(ge=2, le=10_000)] = 5
    fold: CountFrom0 = 0
    split_seed: Seed = 0
    window: CountFrom0 = 0
    stride: CountFrom0 = 0
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Examples:
    """Sequences that a model reads, from step `begin` to step `end` of the file, and the `targets` of each."""

    begin: np.ndarray
    end: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.begin)


@dataclass(frozen=True)
class Saved:
    """What a trained model knows of its data: the words of categories, classes, mean and deviation of the targets."""

    categories: dict[Word, Words] = field(default_factory=dict)
    classes: Words = ()
    scale: Sizes = ()
    __pydantic_config__ = STRICT


class AbstractOwnDataTask(AbstractSequencesTask):
    """Sequences of a user's file; a subclass says what the targets are.

    Channels are normalized by the model, with mean and standard deviation of the training part; categories are numbers
    of words in `saved`. An example whose targets are all missing is left out.
    """

    model_options = SeriesModelOptions
    batch_rows = ROWS
    data: Any
    scaled = False

    def __init__(self, data: Any, *, batch_size: int, seed: int = 0, saved: Saved | None = None):
        super().__init__(data, batch_size=batch_size, seed=seed)
        apart, known = bool(data.test_file), None if saved is None else saved.categories
        self.series: dict[str, Series] = {}
        if data.file or not apart:
            self.series["file"] = read_series(data.file, self.layout(data, known))
            known = known or self.series["file"].categories
        if apart:
            self.series["test"] = read_series(data.test_file, replace(self.layout(data, known), rows=0))
        first = next(iter(self.series.values()))
        self.categories = first.categories
        self.saved = saved
        self.begin_reading(saved)
        self.examples = self._known(self.make_examples())
        if saved is None and batch_size > (most := self.training_examples()):
            expected = f"at most the {most} sequences of the training part"
            raise invalid("training.batch_size", got=batch_size, expected=expected)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), int))

    @classmethod
    def build(
        cls, data: Any, *, batch_size: int, steps: int, shift: bool, seed: int, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """The task of a recipe; with `saved` the words, classes and scales that a model was trained with."""
        return cls(data, batch_size=batch_size, seed=seed, saved=cls.saved_of(saved))

    @staticmethod
    def saved_of(metadata: Mapping[str, Any] | None) -> Saved | None:
        """What the metadata of a trained model say of its data, checked."""
        return None if metadata is None else validated(Saved, metadata.get("series", {}), "model metadata: series")

    @classmethod
    def with_data(cls, options: Any, data: str) -> Any:
        """`options` with another file, or with another test file, where that is one of its own."""
        return replace(options, file="", test_file=data) if options.test_file else replace(options, file=data)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], data: str | None = None) -> Self:
        """The task of a packed model; a file may not choose what else is read on this machine."""
        if data is None:
            got = "none: a model file does not choose what is read"
            raise invalid("data", got=got, expected="the path of a file", hint="name it: --data PATH")
        return super().from_metadata(metadata, data)

    @abstractmethod
    def layout(self, data: Any, categories: Mapping[str, Sequence[str]] | None) -> Layout:
        """What is read of a file; the words of its categories are those of a trained model, or, with None, its own."""

    @abstractmethod
    def begin_reading(self, saved: Saved | None) -> None:
        """Take classes or scales from `saved`, or find them in the data, before examples are made."""

    @abstractmethod
    def make_examples(self) -> dict[str, Examples]:
        """The examples of each part."""

    def layout_of(self, data: Any, categories: Mapping[str, Sequence[str]] | None, **targets: Any) -> Layout:
        """The columns that all these tasks read, and those that `targets` name, arguments of `Layout`."""
        words = {name: () if categories is None else categories.get(name, ()) for name in data.categories}
        own = {name: getattr(data, name) for name in ("channels", "sequence", "time", "missing", "rows")}
        return Layout(**own, categories=words, **targets)

    @property
    def inputs(self) -> int:  # pyright: ignore
        """Numbers of a step, as they stand in the file."""
        return len(self.data.channels)

    @property
    def steps(self) -> int:  # pyright: ignore
        return max(int((part.end - part.begin).max(initial=1)) for part in self.examples.values())

    def of_part(self, part: str) -> Series:
        """The file that a part is of."""
        name = "test" if part == "test" and "test" in self.series else "file"
        if name not in self.series:
            raise invalid("part", got=part, expected="test: the other parts are in the file that was trained on")
        return self.series[name]

    def training_examples(self) -> int:
        """How many sequences an epoch has."""
        return len(self.examples["train"])

    def training_steps(self) -> np.ndarray:
        """Which steps of the file are in the training part: bool (steps,)."""
        part, change = self.examples["train"], np.zeros(len(self.series["file"].values) + 1, int)
        np.add.at(change, part.begin, 1)
        np.add.at(change, part.end, -1)
        return change.cumsum()[:-1] > 0

    def build_model(self, options: SeriesModelOptions) -> SeriesModel:
        """A model that knows mean and deviation of the training part; of a trained one they come with its weights."""
        front_end = SeriesFrontEnd(
            [len(self.categories.get(name, ())) for name in self.data.channels],
            [self.data.channels.index(name) for name in self.data.missing],
        )
        model = SeriesModel(front_end, self.outputs, options, self.every_step, self.scaled)
        if "file" not in self.series or not len(self.examples["train"]):
            return model
        values = self.series["file"].values[:, front_end.numbers][self.training_steps()]
        channels = mean_and_deviation(values, [self.data.channels[n] for n in front_end.numbers])
        return model.standardize_(channels, self.target_scale())

    def target_scale(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of the targets, for a task whose outputs are numbers."""
        return None

    def updates_per_epoch(self) -> int:
        """Whole batches; what is left over differs from epoch to epoch."""
        return max(1, len(self.examples["train"]) // self.batch_size)

    def check_start(self, streams: int) -> None:
        """Every part must have a sequence with a target."""
        for part, examples in self.examples.items():
            if not len(examples):
                raise invalid(f"{part} part", got="no sequence with a target", expected="at least one")

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Sequences of similar length."""
        if self._order[0] != epoch:
            part = self.examples["train"]
            random = generator(self.seed, "train", epoch)
            self._order = (epoch, batches_of_similar_length(part.end - part.begin, self.batch_size, random))
        return self._batch("train", self._order[1][index])

    def batches(self, part: str) -> Iterator[Batch]:
        """Some hundreds at a time."""
        self.of_part(part)
        for start in range(0, len(self.examples[part]), ROWS):
            yield self._batch(part, np.arange(start, min(start + ROWS, len(self.examples[part]))))

    def _batch(self, part: str, numbers: np.ndarray) -> Batch:
        examples, values = self.examples[part], self.of_part(part).values
        begin, lengths = examples.begin[numbers], (examples.end - examples.begin)[numbers]
        steps = np.arange(lengths.max())[:, None]
        inside = steps < lengths
        inputs = values[np.where(inside, begin + steps, 0)]
        inputs[~inside] = 0.0
        targets = torch.from_numpy(self.targets_of(part, numbers, np.where(inside, begin + steps, -1)))
        some = bool(inside.all())
        return Batch(torch.from_numpy(inputs).transpose(0, 1), targets, None if some else torch.from_numpy(lengths))

    def targets_of(self, part: str, numbers: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The targets of a batch of examples; `steps` (time, batch) are theirs, -1 at padding."""
        return self.examples[part].targets[numbers]

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": len(self.examples[part])}

    def calibration_inputs(self) -> Tensor:
        """Sixteen validation sequences, cut to as many steps as half of all have, at most 4,096."""
        lengths = self.examples["valid"].end - self.examples["valid"].begin
        longer = np.flatnonzero(lengths >= np.median(lengths))
        chosen = longer[:: max(1, len(longer) // CALIBRATION)][:CALIBRATION]
        return self._batch("valid", chosen).inputs[:, : min(int(lengths[chosen].min()), CALIBRATION_STEPS)]

    def data_name(self) -> str | None:
        """The file that the test part is of."""
        return self.data.test_file or self.data.file

    def metadata(self) -> dict[str, Any]:
        """The section `[task]`, the metric, and what a trained model knows; files by their names alone.

        What is as it is where nothing is said is left out: a model file may be a few kilobytes.
        """
        names = {name: os.path.basename(getattr(self.data, name)) for name in ("file", "test_file")}
        given = {**asdict(self.data), **names}
        section = {f.name: given[f.name] for f in fields(self.data) if f.name == "name" or given[f.name] != f.default}
        knows = {name: value for name, value in asdict(self.knows()).items() if value}
        return {"task": {**section, "metric": self.metric}, "series": knows}

    @abstractmethod
    def knows(self) -> Saved:
        """What a model that is trained on this data must be opened with."""

    def _known(self, parts: dict[str, Examples]) -> dict[str, Examples]:
        """Without the examples all of whose targets are missing."""
        found = {}
        for part, examples in parts.items():
            keep = self.has_target(part, examples) if len(examples) else np.zeros(0, bool)
            found[part] = Examples(examples.begin[keep], examples.end[keep], examples.targets[keep])
        return found

    def has_target(self, part: str, examples: Examples) -> np.ndarray:
        """Whether each example has a target that is not missing."""
        return np.ones(len(examples), bool)


def mean_and_deviation(values: np.ndarray, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Of each column, without missing values; a deviation of 1 where it does not change.

    Raises:
        ValueError: a column has no value at all; says which.
    """
    if (empty := np.isnan(values).all(0)).any():
        name = names[int(empty.argmax())]
        raise invalid(f"channel {name}", got="missing values alone in the training part", expected="some values")
    wide = values.astype(np.float64)
    mean, deviation = np.nanmean(wide, 0), np.nanstd(wide, 0)
    still = deviation <= SMALLEST_DEVIATION * np.nanmax(np.abs(wide), 0)
    return tuple(torch.from_numpy(a).float() for a in (mean, np.where(still, 1.0, deviation)))  # pyright: ignore


def sequence_examples(
    data: FoldedData,
    series: Mapping[str, Series],
    parts: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    tail: bool = False,
) -> dict[str, Examples]:
    """Whole sequences, or windows of them, of each part; `targets` has one for each sequence of each file, or none."""
    found, stride = {}, data.stride or data.window
    for part in PARTS:
        name = "test" if part == "test" and "test" in series else "file"
        numbers = parts.get(part, np.zeros(0, int))
        offsets = series[name].offsets if name in series else np.zeros(1, int)
        rows = [
            (begin, end, number)
            for number in numbers.tolist()
            for begin, end in windows(*offsets[number : number + 2].tolist(), data.window, stride, tail)
        ]
        begin, end, number = np.array(rows, int).reshape(-1, 3).T
        found[part] = Examples(begin, end, targets[name][number] if name in targets else np.zeros(len(begin)))
    return found
