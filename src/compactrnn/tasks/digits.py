"""Spoken digits: which of ten is said in a recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .._bounds import STRICT
from .._errors import invalid
from ..data.fsdd import DIGITS, RATE
from .batch import Batch
from .classification import AbstractClassificationTask
from .digit_audio import ROWS, AbstractDigitsTask, DigitAudioData
from .sequence import generator


@dataclass(frozen=True)
class DigitsData(DigitAudioData):
    """Those of `DigitAudioData`."""

    name: Literal["digits"] = "digits"
    __pydantic_config__ = STRICT


class DigitsTask(AbstractDigitsTask, AbstractClassificationTask):
    """The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers; error in percent.

    A step is a row of 16 ms by default. The model answers at the last step.

    Jackson and others: Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset.
    """

    data_options = DigitsData
    outputs = DIGITS
    data: DigitsData

    def __init__(self, data: DigitsData, *, batch_size: int, seed: int = 0):
        super().__init__(data, batch_size=batch_size, seed=seed)
        if batch_size > len(self.recordings["train"]):
            expected = f"at most the {len(self.recordings['train'])} training recordings"
            raise invalid("batch_size", got=batch_size, expected=expected)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), int))

    @property
    def steps(self) -> int:  # pyright: ignore
        return self.most_steps(int(np.diff(self.digits.offsets).max()))

    def updates_per_epoch(self) -> int:
        """Whole batches; what is left over differs from epoch to epoch."""
        return len(self.recordings["train"]) // self.batch_size

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Recordings of similar length, changed at random."""
        if self._order[0] != epoch:
            self._order = (epoch, self._shuffled(epoch))
        random, chosen = generator(self.seed, "train", epoch, index), self._order[1][index]
        augment = self.data.augmentation
        return self._sequences([augment.apply(self.audio(n), RATE, random) for n in chosen], chosen)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The recordings of each batch, (batches, batch_size): sorted by length among those of eight batches."""
        random, batches = generator(self.seed, "train", epoch), self.updates_per_epoch()
        kept = random.permutation(self.recordings["train"])[: batches * self.batch_size]
        lengths = np.diff(self.digits.offsets)[kept]
        group = np.arange(len(kept)) // (8 * self.batch_size)
        return random.permutation(kept[np.lexsort((lengths, group))].reshape(batches, self.batch_size))

    def batches(self, part: str) -> Iterator[Batch]:
        """A hundred at a time, as they were recorded."""
        numbers = self.recordings[part]
        for start in range(0, len(numbers), ROWS):
            chosen = numbers[start : start + ROWS]
            yield self._sequences([self.audio(n) for n in chosen], chosen)

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": len(self.recordings[part])}

    def _sequences(self, audio: list[np.ndarray], numbers: np.ndarray) -> Batch:
        inputs, lengths = self._as_rows(audio)
        return Batch(inputs, torch.from_numpy(self.digits.digit[numbers]), lengths)
