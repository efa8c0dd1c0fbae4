"""Products with the matrix of a convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..runtime.program import Code, Matmul, Ref, Tensor
from .builder import Builder, Operand
from .factor import Structured


@dataclass(frozen=True, eq=False)
class Convolved(Structured):
    """A kernel over positions, all those of a channel beside each other.

    `kernel` is (channels out, channels in * entries), `sources`, (entries, positions), has what each entry reads for a
    position, or -1 for zero. A product with x gathers these numbers of all channels as a matrix X, (channels in *
    entries, positions), and is the kernel times X.
    """

    kernel: np.ndarray
    sources: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        entries, count = self.sources.shape
        return len(self.kernel) * count, self.kernel.shape[1] // entries * count

    def multiply(self, build: Builder, x: Operand, init: Ref | None, name: str) -> Ref:
        entries, count = self.sources.shape
        channels = np.arange(self.kernel.shape[1] // entries)[:, None, None] * count
        index = np.where(self.sources < 0, -1, self.sources + channels).astype(np.int32).ravel()
        moved = build.buffer(index.size)
        build.emit(Code.GATHER, moved, index.size, k=x.width, a=x.ref, tensor=build.tensor(Tensor(index)))
        part = replace(x, ref=moved, shape=(index.size,), time=None)
        return build.matmul(Matmul.LEFT, self.kernel, part, init, name=name)
