"""The copy memory problem: repeat ten symbols after a long wait."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from .._bounds import STRICT, Sequences, Steps
from .._errors import invalid
from .batch import Batch
from .generated import AbstractGeneratedTask
from .sequence import AbstractSequenceTask

LENGTH, SYMBOLS = 10, 8  # of what is to be copied
BLANK, GO = SYMBOLS, SYMBOLS + 1


@dataclass(frozen=True)
class CopyMemoryData:
    """`wait` is the T of the papers; validation and test parts have `valid` and `test` sequences, of T + 20 steps."""

    wait: Steps = 100
    valid: Sequences = 200
    test: Sequences = 1000
    name: Literal["copy_memory"] = "copy_memory"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if self.wait < 1 or self.valid < 1 or self.test < 1:
            got = f"wait {self.wait}, valid {self.valid}, test {self.test}"
            raise invalid("copy_memory", got=got, expected="at least 1 step and 1 sequence a part")


class CopyMemoryTask(AbstractGeneratedTask, AbstractSequenceTask):
    """Ten symbols of eight, T - 1 blanks, a sign to go, ten blanks; to be answered: T + 10 blanks, then the symbols.

        input    s1 ... s10   blank x (T - 1)   go   blank x 10
        target   blank x (T + 10)                    s1 ... s10

    The input is one-hot, of eight symbols, blank and go; the outputs are logits of the symbols and blank. The metric is
    the mean cross-entropy of a step in nats. Without any memory it is 10 ln 8 / (T + 20) at best, `memoryless`; the
    other metric, `recall_error`, is how many of the ten symbols are wrong, in percent, of which chance gets 87.5.

    >>> task = CopyMemoryTask(CopyMemoryData(wait=30), batch_size=4)
    >>> batch = task.batch(0)
    >>> batch.inputs.shape, bool((batch.inputs[:, :10].argmax(-1) == batch.targets[:, -10:]).all())
    (torch.Size([4, 50, 10]), True)
    >>> round(task.memoryless, 4)
    0.4159

    Hochreiter, Schmidhuber: Long short-term memory, 1997, in the form of Arjovsky, Shah, Bengio, Unitary evolution
    recurrent neural networks, 2016.
    """

    data_options = CopyMemoryData
    metric = "nats"
    inputs, outputs, every_step = SYMBOLS + 2, SYMBOLS + 1, True
    data: CopyMemoryData

    @property
    def steps(self) -> int:  # pyright: ignore
        return self.data.wait + 2 * LENGTH

    @property
    def memoryless(self) -> float:
        """The metric of the best answer that forgets the symbols."""
        return LENGTH * math.log(SYMBOLS) / self.steps

    def criterion(self, answers: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(answers, targets)

    def error_per_target(self, answers: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(answers, targets, reduction="none")

    def other_errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """`recall_error`: wrong ones among the last ten answers, in percent."""
        last = answers.view(len(batch), self.steps, -1)[:, -LENGTH:, :].argmax(-1)
        return {"recall_error": (100.0 * float((last != batch.targets[:, -LENGTH:]).sum()), LENGTH * len(batch))}

    def draw(self, random: np.random.Generator, count: int) -> Batch:
        symbols = random.integers(0, SYMBOLS, (LENGTH, count))
        given, wanted = (np.full((self.steps, count), BLANK) for _ in range(2))
        given[:LENGTH], given[-LENGTH - 1], wanted[-LENGTH:] = symbols, GO, symbols
        x = np.zeros((self.steps, count, self.inputs), np.float32)
        np.put_along_axis(x, given[..., None], 1.0, axis=2)
        return Batch(torch.from_numpy(x).transpose(0, 1), torch.from_numpy(wanted).transpose(0, 1))
