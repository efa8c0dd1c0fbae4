"""The adding problem: two marked numbers of a long sequence are to be added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, Sequences, Steps
from .._errors import invalid
from .sequence import AbstractSequenceTask, generator

UPDATES, PIECE = 1000, 50  # generated data has no end: an epoch is a thousand updates


@dataclass(frozen=True)
class AddingData:
    """`steps` is the length T; validation and test parts have `valid` and `test` sequences."""

    steps: Steps = 100
    valid: Sequences = 200
    test: Sequences = 1000
    name: Literal["adding"] = "adding"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if self.steps < 2 or self.valid < 1 or self.test < 1:
            got = f"steps {self.steps}, valid {self.valid}, test {self.test}"
            raise invalid("adding", got=got, expected="at least 2 steps and 1 sequence a part")


class AddingTask(AbstractSequenceTask):
    """Two channels: numbers from U(0, 1), and zeros but for a one in each half; the target is the sum of those marked.

    The metric is the mean squared error. Who always answers 1, the mean, gets 1/6 = 0.167.

    >>> inputs, targets = AddingTask(AddingData(steps=50), batch_size=8).batch(0)
    >>> inputs.shape, bool(torch.allclose((inputs[..., 0] * inputs[..., 1]).sum(1), targets))
    (torch.Size([8, 50, 2]), True)

    Hochreiter, Schmidhuber: Long short-term memory, 1997, in the form of Le, Jaitly, Hinton, 2015, and Li et al.,
    Independently recurrent neural network, 2018.
    """

    data_options = AddingData
    metric = "mse"
    inputs, outputs = 2, 1
    piece = PIECE
    data: AddingData

    @property
    def steps(self) -> int:  # pyright: ignore
        """The length T."""
        return self.data.steps

    def updates_per_epoch(self) -> int:
        """A thousand."""
        return UPDATES

    def batch(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """New sequences."""
        return self._draw(generator(self.seed, "train", epoch, index), self.batch_size)

    def pieces(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Fifty at a time; of the training part, the first thousand sequences."""
        count = self.amount(part)["sequences"]
        for number, start in enumerate(range(0, count, PIECE)):
            yield self._draw(generator(self.seed, part, 0, number), min(PIECE, count - start))

    def amount(self, part: str) -> dict[str, int]:
        """Sequences."""
        return {"sequences": {"train": 1000, "valid": self.data.valid, "test": self.data.test}[part]}

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return self.penalty(outputs, targets).mean()

    def penalty(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error."""
        return (outputs[:, 0] - targets).square()

    def _draw(self, random: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        steps, rows = self.data.steps, np.arange(count)
        x = np.zeros((steps, count, 2), np.float32)
        x[..., 0] = random.random((steps, count), np.float32)
        first = random.integers(0, steps // 2, count)
        second = random.integers(steps // 2, steps, count)
        x[first, rows, 1] = x[second, rows, 1] = 1.0
        targets = x[first, rows, 0] + x[second, rows, 0]
        return torch.from_numpy(x).transpose(0, 1), torch.from_numpy(targets)
