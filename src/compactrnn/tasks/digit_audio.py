"""What the tasks of spoken digits have in common: splits, rows of samples or energies, the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, Count, CountFrom0, Positive, PositiveOrZero
from .._errors import invalid
from ..data import SpokenDigits, load_fsdd
from ..data.fsdd import RATE
from ..models.audio_model import AudioModel, AudioModelOptions
from ..models.log_mel import LogMel
from .audio_augmentation import AudioAugmentation
from .sequence import AbstractSequencesTask

ROWS, CALIBRATION = 100, 16
VALIDATION_TAKES = range(5, 10)  # of the official split; of the training speakers, where one is left out


@dataclass(frozen=True)
class DigitAudioData:
    """The split, the front end, and `AudioAugmentation` in training.

    `split`: "official" tests on takes 0 to 4, and validates on takes 5 to 9; "speaker" tests on all recordings of
    `speaker` and validates on takes 5 to 9 of the others. With `validate_on = "speaker"` it validates on the speaker
    after `speaker`, none of whose recordings is trained on: for choices that a later test is to judge.

    `rows`: a step reads `hop` samples, from which the model computes `LogMel`, or with "log_mel" the energies
    themselves, for a front end outside of the model.

    `level`: a recording, or a string of them, is scaled to this root mean square, as the gain control of a recorder
    does, so that the `floor` of the energies means the same for everyone; 0 leaves it as it is.
    """

    split: Literal["official", "speaker"] = "official"
    speaker: CountFrom0 = 0
    validate_on: Literal["takes", "speaker"] = "takes"
    rows: Literal["samples", "log_mel"] = "samples"
    hop: Count = 128
    window: Count = 256
    mels: Count = 20
    floor: Positive = 1e-3
    level: PositiveOrZero = 0.05
    augmentation: AudioAugmentation = field(default_factory=AudioAugmentation)
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if self.validate_on == "speaker" and self.split != "speaker":
            raise invalid("validate_on", got="'speaker'", expected='"takes", or split = "speaker"')

    def log_mel(self) -> LogMel:
        """The front end, inside the model or outside."""
        return LogMel(RATE, self.hop, self.window, self.mels, floor=self.floor)

    def parts(self, digits: SpokenDigits) -> dict[str, np.ndarray]:
        """The numbers of the recordings of the parts train, valid and test."""
        train, test = digits.official() if self.split == "official" else digits.fold(self.speaker)
        if self.validate_on == "speaker":
            held_out = digits.speaker[train] == (self.speaker + 1) % len(digits.speakers)
        else:
            held_out = np.isin(digits.take[train], VALIDATION_TAKES)
        return {"train": train[~held_out], "valid": train[held_out], "test": test}


class AbstractDigitsTask(AbstractSequencesTask):
    """Audio of the Free Spoken Digit Dataset, row by row; the last row is filled up with silence."""

    model_options = AudioModelOptions
    batch_rows = ROWS
    outputs: int
    data: DigitAudioData

    def __init__(self, data: DigitAudioData, *, batch_size: int, seed: int = 0):
        super().__init__(data, batch_size=batch_size, seed=seed)
        self.digits = load_fsdd()
        self.log_mel = data.log_mel()
        self.recordings = data.parts(self.digits)
        self.statistics = self._mean_and_deviation()

    @property
    def inputs(self) -> int:  # pyright: ignore
        """Numbers of a step: samples, or energies."""
        return self.data.hop if self.data.rows == "samples" else self.data.mels

    def audio(self, recording: int) -> np.ndarray:
        """The samples of a recording at the level of the task."""
        return self.leveled(self.digits.samples(recording))

    def leveled(self, samples: np.ndarray) -> np.ndarray:
        """Samples scaled to the level of the task; silence stays silence."""
        size = np.sqrt(np.mean(np.square(samples)))
        return samples * np.float32(self.data.level / size) if self.data.level and size else samples

    def most_steps(self, samples: int) -> int:
        """Steps of audio of so many samples, augmented."""
        augmentation = self.data.augmentation
        return int(samples * np.exp(augmentation.speed) + augmentation.silence * RATE) // self.data.hop + 1

    def build_model(self, options: AudioModelOptions) -> AudioModel:
        """A model that knows mean and deviation of the training part's energies."""
        features = self.data.log_mel() if self.data.rows == "samples" else self.data.mels
        return AudioModel(features, self.outputs, options, self.every_step).standardize_(*self.statistics)

    def _mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """Of the energies of the training part."""
        frames = []
        for numbers in np.array_split(self.recordings["train"], max(1, len(self.recordings["train"]) // ROWS)):
            rows, lengths = self._as_samples([self.audio(n) for n in numbers])
            within = torch.arange(rows.shape[1]) < lengths[:, None]
            frames.append(self.log_mel(rows)[within])
        every = torch.cat(frames)
        return every.mean(0), every.std(0).mean().clamp(min=1e-3)

    def metadata(self) -> dict[str, Any]:
        """The section `[task]` without what matters in training alone, and the metric."""
        section = {name: value for name, value in asdict(self.data).items() if name != "augmentation"}
        return {"task": {**section, "metric": self.metric}}

    def calibration_inputs(self) -> Tensor:
        """Sixteen validation recordings, cut to as many steps as half of all have."""
        numbers = self.recordings["valid"]
        lengths = np.diff(self.digits.offsets)[numbers]
        longer = np.sort(numbers[lengths >= np.median(lengths)])
        chosen = longer[:: max(1, len(longer) // CALIBRATION)][:CALIBRATION]
        inputs, lengths = self._as_rows([self.audio(n) for n in chosen])
        return inputs[:, : int(lengths.min())]

    def _as_rows(self, audio: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Inputs (recordings, steps, inputs), and the number of steps of each."""
        rows, lengths = self._as_samples(audio)
        return self.log_mel(rows) if self.data.rows == "log_mel" else rows, lengths

    def _as_samples(self, audio: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        lengths = [-(-len(samples) // self.data.hop) for samples in audio]
        rows = np.zeros((len(audio), max(lengths) * self.data.hop), np.float32)
        for row, samples in zip(rows, audio, strict=True):
            row[: len(samples)] = samples
        return torch.from_numpy(rows).unflatten(1, (-1, self.data.hop)), torch.tensor(lengths)
