"""Tasks on sequences that are generated, not read from a data set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np

from .batch import Batch
from .sequence import AbstractSequencesTask, generator

ROWS, TRAINING_SEQUENCES = 50, 1000


class AbstractGeneratedTask(AbstractSequencesTask):
    """Sequences from a random generator: the training part has no end, the others are as long as `data` says.

    A subclass gives `draw`; its `data` has the numbers of sequences `valid` and `test`.
    """

    batch_rows = ROWS
    updates = 1000  # of an epoch, as generated data has no end

    @abstractmethod
    def draw(self, random: np.random.Generator, count: int) -> Batch:
        """So many sequences."""

    def updates_per_epoch(self) -> int:
        return self.updates

    def batch(self, index: int, epoch: int = 0) -> Batch:
        return self.draw(generator(self.seed, "train", epoch, index), self.batch_size)

    def batches(self, part: str) -> Iterator[Batch]:
        """Fifty at a time; of the training part, the first thousand sequences."""
        count = self.counts(part)["sequences"]
        for number, start in enumerate(range(0, count, ROWS)):
            yield self.draw(generator(self.seed, part, 0, number), min(ROWS, count - start))

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": {"train": TRAINING_SEQUENCES, "valid": self.data.valid, "test": self.data.test}[part]}
