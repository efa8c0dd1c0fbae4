"""Polyphonic music: which keys sound in the next time step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from .._bounds import STRICT
from .._errors import invalid
from ..data.polymusic import KEYS, load_polymusic
from .batch import Batch
from .sequence import AbstractSequencesTask, generator
from .similar_lengths import batches_of_similar_length

ROWS = 50


@dataclass(frozen=True)
class MusicData:
    """`corpus` of Boulanger-Lewandowski et al.: Bach's chorales, folk tunes of Nottingham, piano pieces, MuseData."""

    corpus: Literal["JSB_Chorales", "Nottingham", "Piano_midi", "MuseData"] = "JSB_Chorales"
    name: Literal["music"] = "music"
    __pydantic_config__ = STRICT


class MusicTask(AbstractSequencesTask):
    """A step is the 88 keys that sound, 0 or 1; the outputs are logits of those of the next step, each by itself.

    The metric is the negative log-likelihood of a step in nats, the sum over the keys, and its mean is over all steps
    of the part but the first one of each piece, for which nothing has been heard. That is how Bai, Kolter, Koltun, "An
    Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling", 2018, count it.

    Boulanger-Lewandowski, Bengio, Vincent: Modeling temporal dependencies in high-dimensional sequences, 2012.
    """

    data_options = MusicData
    metric = "nats"
    distill_targets = ()
    inputs = outputs = KEYS
    every_step = True
    data: MusicData

    def __init__(self, data: MusicData, *, batch_size: int, seed: int = 0):
        super().__init__(data, batch_size=batch_size, seed=seed)
        music = load_polymusic(data.corpus)
        self.pieces = {"train": music.train, "valid": music.valid, "test": music.test}
        if batch_size > len(music.train):
            raise invalid("batch_size", got=batch_size, expected=f"at most the {len(music.train)} training pieces")
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), int))

    @property
    def steps(self) -> int:  # pyright: ignore
        return max(len(piece) for pieces in self.pieces.values() for piece in pieces) - 1

    def updates_per_epoch(self) -> int:
        """Whole batches; what is left over differs from epoch to epoch."""
        return len(self.pieces["train"]) // self.batch_size

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Pieces of similar length."""
        if self._order[0] != epoch:
            lengths = np.array([len(piece) for piece in self.pieces["train"]])
            random = generator(self.seed, "train", epoch)
            self._order = (epoch, batches_of_similar_length(lengths, self.batch_size, random))
        return _padded([self.pieces["train"][n] for n in self._order[1][index]])

    def batches(self, part: str) -> Iterator[Batch]:
        """Fifty at a time."""
        pieces = self.pieces[part]
        for start in range(0, len(pieces), ROWS):
            yield _padded(pieces[start : start + ROWS])

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": len(self.pieces[part]), "steps": sum(len(piece) - 1 for piece in self.pieces[part])}

    def target_count(self, batch: Batch) -> int:
        """One per step."""
        return batch.steps()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of a step."""
        return _nats(self.answers(outputs, batch), batch).sum() / batch.steps()

    def errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        return {self.metric: (float(_nats(answers, batch).double().sum()), batch.steps())}


def _nats(answers: Tensor, batch: Batch) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(answers, batch.within(batch.targets), reduction="none")


def _padded(pieces: tuple[np.ndarray, ...] | list[np.ndarray]) -> Batch:
    lengths = torch.tensor([len(piece) - 1 for piece in pieces])
    x = np.zeros((int(lengths.max()) + 1, len(pieces), KEYS), np.float32)
    for number, piece in enumerate(pieces):
        x[: len(piece), number] = piece
    rows = torch.from_numpy(x).transpose(0, 1)
    return Batch(rows[:, :-1], rows[:, 1:], lengths)
