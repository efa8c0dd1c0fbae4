"""Matrices whose entries share numbers by a rule: circulant blocks, and hashed entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .terms import Term


@dataclass(frozen=True, eq=False)
class CirculantTerm(Term):
    """Circulant blocks of a matrix of `rows` rows; see `compactrnn.weights.BlockCirculant`.

    `vectors` has their first columns, (gates, blocks below each other, blocks beside each other, block); the last rows
    of each gate may be cut off.
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


@dataclass(frozen=True, eq=False)
class HashedTerm(Term):
    """A matrix of `rows` rows and `columns` columns whose entries are numbers of a short vector, or minus these.

    `buckets` has the numbers of each gate, (gates, count). Entry p = i * columns + j of a gate is number
    `(h >> 1) mod count` of it, negative where h is odd, with h the 32-bit `mix` of p.
    """

    buckets: Tensor
    rows: int
    columns: int

    def dense(self) -> Tensor:
        gates, count = self.buckets.shape
        number, sign = places(self.rows // gates * self.columns, count, self.buckets.device)
        return (self.buckets[:, number] * sign.to(self.buckets.dtype)).view(self.rows, self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns


def places(entries: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The number among `count` of each of so many entries, and its sign."""
    mixed = mix(torch.arange(entries, device=device))
    return (mixed >> 1) % count, 1 - 2 * (mixed & 1)


def mix(x: Tensor) -> Tensor:
    """32 well mixed bits of each whole number: the finalizer of MurmurHash3.

    >>> mix(torch.tensor([0, 1, 2])).tolist()
    [0, 1364076727, 821347078]

    Source: Appleby, MurmurHash3, 2011.
    """
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)
