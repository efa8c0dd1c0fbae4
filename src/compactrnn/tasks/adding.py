"""The adding problem: add the two marked numbers of a long sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, Sequences, Steps
from .._errors import invalid
from .batch import Batch
from .generated import AbstractGeneratedTask
from .sequence import AbstractSequenceTask


@dataclass(frozen=True)
class AddingData:
    """`steps` is the length T; validation and test parts have `valid` and `test` sequences.

    With `shortest` the length of each sequence is drawn from `shortest` to `steps`.
    """

    steps: Steps = 100
    shortest: Steps | None = None
    valid: Sequences = 200
    test: Sequences = 1000
    name: Literal["adding"] = "adding"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if self.steps < 2 or self.valid < 1 or self.test < 1:
            got = f"steps {self.steps}, valid {self.valid}, test {self.test}"
            raise invalid("adding", got=got, expected="at least 2 steps and 1 sequence a part")
        if self.shortest is not None and not 2 <= self.shortest <= self.steps:
            raise invalid("adding: shortest", got=self.shortest, expected=f"2 to {self.steps}, the steps")


class AddingTask(AbstractGeneratedTask, AbstractSequenceTask):
    """Two channels: numbers from U(0, 1), and zeros but for a one in each half; the target is the sum of those marked.

    The metric is the mean squared error. Always answering 1, the mean, gets 1/6 = 0.167.

    >>> batch = AddingTask(AddingData(steps=50, shortest=10), batch_size=8).batch(0)
    >>> batch.inputs.shape, bool(torch.allclose(batch.inputs.prod(-1).sum(1), batch.targets))
    (torch.Size([8, 50, 2]), True)

    Hochreiter, Schmidhuber: Long short-term memory, 1997, in the form of Le, Jaitly, Hinton, 2015, and Li et al.,
    Independently recurrent neural network, 2018.
    """

    data_options = AddingData
    metric = "mse"
    inputs, outputs, distill_targets = 2, 1, ()
    data: AddingData

    @property
    def steps(self) -> int:  # pyright: ignore
        return self.data.steps

    def criterion(self, answers: Tensor, targets: Tensor) -> Tensor:
        return self.error_per_target(answers, targets).mean()

    def error_per_target(self, answers: Tensor, targets: Tensor) -> Tensor:
        return (answers[:, 0] - targets).square()

    def draw(self, random: np.random.Generator, count: int) -> Batch:
        steps, rows = self.data.steps, np.arange(count)
        x = np.zeros((steps, count, 2), np.float32)
        x[..., 0] = random.random((steps, count), np.float32)
        lengths, shortest = None, self.data.shortest
        end: Any = steps
        if shortest is not None:
            end = lengths = random.integers(shortest, steps + 1, count)
            x[np.arange(steps)[:, None] >= lengths] = 0.0
        first = random.integers(0, end // 2, count)
        second = random.integers(end // 2, end, count)
        x[first, rows, 1] = x[second, rows, 1] = 1.0
        targets = x[first, rows, 0] + x[second, rows, 0]
        lengths = None if lengths is None else torch.from_numpy(lengths)
        return Batch(torch.from_numpy(x).transpose(0, 1), torch.from_numpy(targets), lengths)
