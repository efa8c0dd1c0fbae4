"""Spoken digits: which of ten is said in a recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, Count, CountFrom0, Positive
from .._errors import invalid
from ..data import SpokenDigits, load_fsdd
from ..data.fsdd import DIGITS, RATE
from ..models.audio_model import AudioModel, AudioModelOptions
from ..models.log_mel import LogMel
from .audio_augmentation import AudioAugmentation
from .batch import Batch
from .classification import AbstractClassificationTask
from .sequence import generator

ROWS, CALIBRATION = 100, 16
VALIDATION_TAKES = range(5, 10)  # of the official split; of the training speakers, where one is left out


@dataclass(frozen=True)
class DigitsData:
    """The split, the front end, and `AudioAugmentation` in training.

    `split`: "official" tests on takes 0 to 4, and validates on takes 5 to 9; "speaker" tests on all recordings of
    `speaker` and validates on takes 5 to 9 of the others. With `validate_on = "speaker"` it validates on the speaker
    after `speaker`, none of whose recordings is trained on: for choices that a later test is to judge.

    `rows`: a step reads `hop` samples, from which the model computes `LogMel`, or with "log_mel" the energies
    themselves, for a front end outside of the model.
    """

    split: Literal["official", "speaker"] = "official"
    speaker: CountFrom0 = 0
    validate_on: Literal["takes", "speaker"] = "takes"
    rows: Literal["samples", "log_mel"] = "samples"
    hop: Count = 128
    window: Count = 256
    mels: Count = 32
    floor: Positive = 1e-3
    augmentation: AudioAugmentation = field(default_factory=AudioAugmentation)
    name: Literal["digits"] = "digits"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if self.validate_on == "speaker" and self.split != "speaker":
            raise invalid("validate_on", got="'speaker'", expected='"takes", or split = "speaker"')


class DigitsTask(AbstractClassificationTask):
    """The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers; error in percent.

    A step is a row of 16 ms by default; the last one of a recording is filled up with silence. The model answers at the
    last step.

    Jackson and others: Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset.
    """

    data_options = DigitsData
    model_options = AudioModelOptions
    outputs = DIGITS
    batch_rows = ROWS
    data: DigitsData

    def __init__(self, data: DigitsData, *, batch_size: int, seed: int = 0):
        super().__init__(data, batch_size=batch_size, seed=seed)
        self.digits = load_fsdd()
        self.log_mel = log_mel_of(data)
        self.parts = split(self.digits, data)
        if batch_size > len(self.parts["train"]):
            got = f"at most the {len(self.parts['train'])} training recordings"
            raise invalid("batch_size", got=batch_size, expected=got)
        self.statistics = self._mean_and_deviation()
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), int))

    @property
    def inputs(self) -> int:  # pyright: ignore
        """Numbers of a step: samples, or energies."""
        return self.data.hop if self.data.rows == "samples" else self.data.mels

    @property
    def steps(self) -> int:  # pyright: ignore
        longest = int(np.diff(self.digits.offsets).max())
        most = longest * np.exp(self.data.augmentation.speed) + self.data.augmentation.silence * RATE
        return int(most) // self.data.hop + 1

    def updates_per_epoch(self) -> int:
        """Whole batches; what is left over differs from epoch to epoch."""
        return len(self.parts["train"]) // self.batch_size

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Recordings of similar length, changed at random."""
        if self._order[0] != epoch:
            self._order = (epoch, self._shuffled(epoch))
        random, chosen = generator(self.seed, "train", epoch, index), self._order[1][index]
        augment = self.data.augmentation
        return self._sequences([augment.apply(self.digits.samples(n), RATE, random) for n in chosen], chosen)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The recordings of each batch, (batches, batch_size): sorted by length among those of eight batches."""
        random, batches = generator(self.seed, "train", epoch), self.updates_per_epoch()
        kept = random.permutation(self.parts["train"])[: batches * self.batch_size]
        lengths = np.diff(self.digits.offsets)[kept]
        group = np.arange(len(kept)) // (8 * self.batch_size)
        return random.permutation(kept[np.lexsort((lengths, group))].reshape(batches, self.batch_size))

    def batches(self, part: str) -> Iterator[Batch]:
        """A hundred at a time, as they were recorded."""
        numbers = self.parts[part]
        for start in range(0, len(numbers), ROWS):
            chosen = numbers[start : start + ROWS]
            yield self._sequences([self.digits.samples(n) for n in chosen], chosen)

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": len(self.parts[part])}

    def build_model(self, options: AudioModelOptions) -> AudioModel:
        """A model whose front end knows mean and deviation of the training part's energies."""
        features = log_mel_of(self.data) if self.data.rows == "samples" else self.data.mels
        return AudioModel(features, DIGITS, options).standardize_(*self.statistics)

    def _mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """Of the energies of the training part."""
        frames = []
        for batch in self.batches("train"):
            energies = batch.inputs if self.data.rows == "log_mel" else self.log_mel(batch.inputs)
            frames.append(batch.within(energies))
        every = torch.cat(frames)
        return every.mean(0), every.std(0).mean().clamp(min=1e-3)

    def calibration_inputs(self) -> Tensor:
        """Sixteen validation recordings of half a second or the like: cut to as many steps as half of them have."""
        numbers = self.parts["valid"]
        lengths = np.diff(self.digits.offsets)[numbers]
        longer = np.sort(numbers[lengths >= np.median(lengths)])
        chosen = longer[:: max(1, len(longer) // CALIBRATION)][:CALIBRATION]
        batch = self._sequences([self.digits.samples(n) for n in chosen], chosen)
        assert batch.lengths is not None
        return batch.inputs[:, : int(batch.lengths.min())]

    def metadata(self) -> dict[str, Any]:
        """The section `[task]` without what matters in training alone, and the metric."""
        section = {name: value for name, value in asdict(self.data).items() if name != "augmentation"}
        return {"task": {**section, "metric": self.metric}}

    def _sequences(self, audio: list[np.ndarray], numbers: np.ndarray) -> Batch:
        rows, lengths = self._rows(audio)
        if self.data.rows == "log_mel":
            rows = self.log_mel(rows)
        return Batch(rows, torch.from_numpy(self.digits.digit[numbers]), lengths)

    def _rows(self, audio: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Samples as rows (recordings, frames, hop), and the number of frames of each."""
        lengths = [-(-len(samples) // self.data.hop) for samples in audio]
        rows = np.zeros((len(audio), max(lengths) * self.data.hop), np.float32)
        for row, samples in zip(rows, audio, strict=True):
            row[: len(samples)] = samples
        return torch.from_numpy(rows).unflatten(1, (-1, self.data.hop)), torch.tensor(lengths)


def log_mel_of(data: DigitsData) -> LogMel:
    """The front end, inside the model or outside."""
    return LogMel(RATE, data.hop, data.window, data.mels, floor=data.floor)


def split(digits: SpokenDigits, data: DigitsData) -> dict[str, np.ndarray]:
    """The numbers of the recordings of the parts train, valid and test."""
    train, test = digits.official() if data.split == "official" else digits.fold(data.speaker)
    if data.validate_on == "speaker":
        held_out = digits.speaker[train] == (data.speaker + 1) % len(digits.speakers)
    else:
        held_out = np.isin(digits.take[train], VALIDATION_TAKES)
    return {"train": train[~held_out], "valid": train[held_out], "test": test}
