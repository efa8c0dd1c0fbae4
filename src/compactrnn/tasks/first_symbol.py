"""First-symbol task: tell the sign of the first vector after a long sequence of noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, Sequences, Size, Steps
from .._errors import invalid
from .batch import Batch
from .classification import AbstractClassificationTask
from .generated import AbstractGeneratedTask
from .sequence import generator

BATCH_BYTES = 1 << 28


@dataclass(frozen=True)
class FirstSymbolData:
    """`steps` is the length T, `size` the vectors'; validation and test parts have `valid` and `test` sequences."""

    steps: Steps = 1024
    size: Size = 128
    valid: Sequences = 32
    test: Sequences = 128
    name: Literal["first_symbol"] = "first_symbol"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if min(self.steps, self.size, self.valid, self.test) < 1:
            got = f"steps {self.steps}, size {self.size}, valid {self.valid}, test {self.test}"
            raise invalid("first_symbol", got=got, expected="positive numbers")


class FirstSymbolTask(AbstractGeneratedTask, AbstractClassificationTask):
    """Every step is a random one-hot vector; the first is multiplied by a sign, which is to be predicted at the end.

        x_1 = s e_k,   x_t = e_k (t > 1),   k ~ U{1..size},   s = -1 or 1 with equal odds;   class 1 means s = 1

    The metric is the error rate in percent. The task counts as solved after five training batches in a row without a
    mistake.

    >>> batch = FirstSymbolTask(FirstSymbolData(steps=50, size=4), batch_size=8).batch(0)
    >>> inputs, targets = batch.inputs, batch.targets
    >>> inputs.shape, bool(((inputs[:, 0].sum(1) > 0) == targets).all()), bool((inputs[:, 1:].sum(-1) == 1).all())
    (torch.Size([8, 50, 4]), True, True)

    After Martin, Cundy: Parallelizing linear recurrent neural nets over sequence length, 2018. Theirs are the target,
    the one-hot vectors, their size of 128 and the criterion; that all vectors but the first are positive is our way of
    reading them.
    """

    data_options = FirstSymbolData
    outputs, updates, batch_rows = 2, 100, 1
    data: FirstSymbolData

    @property
    def inputs(self) -> int:  # pyright: ignore
        """Size of the vectors."""
        return self.data.size

    @property
    def steps(self) -> int:  # pyright: ignore
        return self.data.steps

    def batches(self, part: str) -> Iterator[Batch]:
        """Batches of up to a quarter of a gigabyte; of the training part, as many sequences as of the validation part.

        Each sequence has its own random numbers, so that the batches may be of any size.
        """
        count = self.counts(part)["sequences"]
        most = max(1, BATCH_BYTES // (4 * self.data.steps * self.data.size))
        for start in range(0, count, most):
            numbers = range(start, min(start + most, count))
            drawn = [self.draw(generator(self.seed, part, 0, number), 1) for number in numbers]
            yield Batch(torch.cat([one.inputs for one in drawn]), torch.cat([one.targets for one in drawn]))

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": self.data.test if part == "test" else self.data.valid}

    def solved(self, outputs: Tensor, batch: Batch) -> bool:
        """Whether every sign is predicted correctly."""
        return bool((outputs.argmax(1) == batch.targets).all())

    def draw(self, random: np.random.Generator, count: int) -> Batch:
        steps, size = self.data.steps, self.data.size
        x = np.zeros((steps, count, size), np.float32)
        np.put_along_axis(x, random.integers(0, size, (steps, count, 1)), 1.0, axis=2)
        positive = random.integers(0, 2, count)
        x[0] *= (2 * positive - 1)[:, None]
        return Batch(torch.from_numpy(x).transpose(0, 1), torch.from_numpy(positive))
