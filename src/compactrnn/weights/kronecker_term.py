"""Sums of Kronecker products, as the core multiplies with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .terms import Term


@dataclass(frozen=True, eq=False)
class KroneckerTerm(Term):
    """`sum_r A_r (x) B_r` for each gate, the gates below each other.

    `left` has the A, (gates, rank, tall, wide), `right` the B, (gates, rank, out_block, in_block). With the vector x as
    a matrix X, (wide, in_block), the core computes `sum_r A_r X B_r^T`: first the `A_r X` of all gates and ranks.
    """

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """(gates * tall * out_block, wide * in_block)."""
        return torch.einsum("grij,grkl->gikjl", self.left, self.right).flatten(0, 2).flatten(1)

    @property
    def shape(self) -> tuple[int, int]:
        gates, _, tall, wide = self.left.shape
        return gates * tall * self.right.shape[2], wide * self.right.shape[3]

    @property
    def stored(self) -> int:
        """The entries of all A and B."""
        return self.left.numel() + self.right.numel()

    @property
    def read(self) -> int:
        """The same."""
        return self.stored

    @property
    def macs(self) -> int:
        """Each A for `in_block` columns of X, each B for `tall` rows of a product."""
        return self.left.numel() * self.right.shape[3] + self.right.numel() * self.left.shape[2]
