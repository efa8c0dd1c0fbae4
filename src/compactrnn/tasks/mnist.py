"""Sequential MNIST: handwritten digits, read one pixel a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .._bounds import STRICT, Count, LegacySeed
from .._errors import invalid
from ..data import load_mnist
from ..data.mnist import Mnist
from .batch import Batch
from .classification import AbstractClassificationTask
from .sequence import generator

ROWS, PIXELS = 500, 784


@dataclass(frozen=True)
class MnistData:
    """`order` of the pixels: row by row, or all images permuted alike, as drawn from `permutation_seed`.

    `train` is how many of the 55,000 training images are used, from the first on.
    """

    order: Literal["rows", "permuted"] = "rows"
    permutation_seed: LegacySeed = 92916
    train: Count = 55_000
    name: Literal["mnist"] = "mnist"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        if not 1 <= self.train <= 55_000:
            raise invalid("train", got=self.train, expected="1 to 55000 images")


class MnistTask(AbstractClassificationTask):
    """Sequential MNIST, 784 steps of one pixel in 0 to 1 (the byte / 255); ten classes, error in percent.

    The training part is the first 55,000 images of the training file, shuffled in each epoch, the validation part the
    last 5,000, the test part the 10,000 of the test file. With `order = "permuted"` step t shows pixel
    `numpy.random.RandomState(permutation_seed).permutation(784)[t]` of the image read row by row.

    Le, Jaitly, Hinton: A simple way to initialize recurrent networks of rectified linear units, 2015.
    """

    data_options = MnistData
    inputs, outputs = 1, 10
    data: MnistData

    def __init__(self, data: MnistData, *, batch_size: int, seed: int = 0):
        super().__init__(data, batch_size=batch_size, seed=seed)
        if batch_size > data.train:
            raise invalid("batch_size", got=batch_size, expected=f"at most the {data.train} training images")
        images = load_mnist()
        _check(images)
        order = np.random.RandomState(data.permutation_seed).permutation(PIXELS)
        order = order if data.order == "permuted" else np.arange(PIXELS)
        (train, train_labels), (test, test_labels) = images.train, images.test
        self.parts = {
            "train": (train[: data.train, order], train_labels[: data.train]),
            "valid": (train[55_000:, order], train_labels[55_000:]),
            "test": (test[:, order], test_labels),
        }
        self._shuffled = (-1, np.arange(0))

    @property
    def steps(self) -> int:  # pyright: ignore
        return PIXELS

    def updates_per_epoch(self) -> int:
        """Whole batches; what is left over differs from epoch to epoch."""
        return self.data.train // self.batch_size

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """The images that this epoch's order puts there."""
        if self._shuffled[0] != epoch:
            self._shuffled = (epoch, generator(self.seed, "train", epoch).permutation(self.data.train))
        return self._sequences("train", self._shuffled[1][index * self.batch_size : (index + 1) * self.batch_size])

    def batches(self, part: str) -> Iterator[Batch]:
        """Five hundred images at a time."""
        numbers = np.arange(self.counts(part)["sequences"])
        for start in range(0, len(numbers), ROWS):
            yield self._sequences(part, numbers[start : start + ROWS])

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": len(self.parts[part][1])}

    def _sequences(self, part: str, numbers: np.ndarray) -> Batch:
        images, labels = self.parts[part]
        steps_first = np.ascontiguousarray(images[numbers].T, np.float32) / np.float32(255)
        return Batch(torch.from_numpy(steps_first).unsqueeze(-1).transpose(0, 1), torch.from_numpy(labels[numbers]))


def _check(images: Mnist) -> None:
    """Whether these are as many digits as they should be, with a label each."""
    for name, (pictures, labels), least in (("training", images.train, 55_001), ("test", images.test, 1)):
        if pictures.shape[1:] != (PIXELS,) or len(pictures) < least or labels.shape != pictures.shape[:1]:
            got = f"{name} files of images {pictures.shape} and labels {labels.shape}"
            raise invalid("MNIST", got=got, expected=f"{least:,} images of {PIXELS} pixels or more, and a label each")
        if labels.max() > 9:
            raise invalid("MNIST", got=f"label {labels.max()} in the {name} file", expected="0 to 9")
