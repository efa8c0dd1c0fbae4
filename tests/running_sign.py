"""A task with a target at every step and sequences of several lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from compactrnn.tasks.batch import Batch
from compactrnn.tasks.classification import AbstractClassificationTask
from compactrnn.tasks.sequence import generator


@dataclass(frozen=True)
class RunningSignData:
    steps: int = 12
    name: Literal["running_sign"] = "running_sign"


class RunningSign(AbstractClassificationTask):
    """Is the sum of the numbers so far positive? Padded inputs are NaN, padded targets are invalid classes."""

    data_options = RunningSignData
    inputs, outputs, every_step = 2, 2, True

    @property
    def steps(self):
        return self.data.steps

    def updates_per_epoch(self):
        return 50

    def batch(self, index, epoch=0):
        return self._draw(generator(self.seed, "train", epoch, index), self.batch_size)

    def batches(self, part):
        for number in range(2):
            yield self._draw(generator(self.seed, part, number), 20)

    def counts(self, part):
        return {"sequences": 40}

    def _draw(self, random, count):
        x = torch.from_numpy(random.standard_normal((count, self.steps, 2)).astype("float32"))
        y = (x.sum(-1).cumsum(1) > 0).long()
        lengths = torch.from_numpy(random.integers(1, self.steps + 1, count))
        padding = torch.arange(self.steps) >= lengths[:, None]
        x[padding], y[padding] = torch.nan, -(10**6)
        return Batch(x, y, lengths)
