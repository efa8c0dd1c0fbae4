"""Block-diagonal factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .terms import Term


@dataclass(frozen=True, eq=False)
class Blocks(Term):
    """A block-diagonal matrix of `count` blocks: `values` (count, rows, columns), or (1, rows, columns) for equal ones.

    A model file stores each of `values` once, and the core multiplies with one block after the other.
    """

    values: Tensor
    count: int

    def dense(self) -> Tensor:
        return torch.block_diag(*self.values.expand(self.count, -1, -1))

    @property
    def shape(self) -> tuple[int, int]:
        return self.count * self.values.shape[1], self.count * self.values.shape[2]

    @property
    def stored(self) -> int:
        return self.values.numel()

    @property
    def read(self) -> int:
        return self.values.numel()

    @property
    def macs(self) -> int:
        return self.count * self.values[0].numel()
