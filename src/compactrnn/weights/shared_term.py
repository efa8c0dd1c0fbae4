"""Matrices whose entries share numbers by a rule: circulant blocks, and hashed entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime.shared import hashed
from .terms import Term


@dataclass(frozen=True, eq=False)
class CirculantTerm(Term):
    """Circulant blocks of a matrix of `rows` rows; see `compactrnn.weights.BlockCirculant`.

    `vectors` has their first columns, (gates, blocks below each other, blocks beside each other, block); the last rows
    of each gate may be cut off. A model file stores the vectors, the core makes the matrix when it opens the file.
    """

    vectors: Tensor
    rows: int

    def dense(self) -> Tensor:
        gates, down, beside, block = self.vectors.shape
        place = torch.arange(block, device=self.vectors.device)
        blocks = self.vectors[..., (place[:, None] - place) % block]
        grid = blocks.transpose(2, 3).reshape(gates, down * block, beside * block)
        return grid[:, : self.rows // gates].flatten(0, 1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.vectors.shape[2] * self.vectors.shape[3]

    @property
    def stored(self) -> int:
        return self.vectors.numel()


@dataclass(frozen=True, eq=False)
class HashedTerm(Term):
    """A matrix of which the entries of each gate are numbers of a short vector, or minus these.

    `buckets` has the vectors, (gates, count), and `place` for each entry of a gate, (entries,) row by row, the number
    in its vector, `count` more where it is minus that: those of `compactrnn.runtime.shared.hashed`, which a model file
    does not store. The core makes the matrix when it opens the file.
    """

    buckets: Tensor
    place: Tensor
    columns: int

    def dense(self) -> Tensor:
        return torch.cat([self.buckets, -self.buckets], 1)[:, self.place].view(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.buckets) * len(self.place) // self.columns, self.columns

    @property
    def stored(self) -> int:
        return self.buckets.numel()


def hash_places(entries: int, count: int) -> Tensor:
    """`place` of a `HashedTerm`."""
    return torch.from_numpy(hashed(entries, count))
