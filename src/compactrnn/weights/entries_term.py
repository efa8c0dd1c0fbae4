"""Matrices of a few entries in each row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .terms import Term


@dataclass(frozen=True, eq=False)
class Entries(Term):
    """A matrix with the same number of entries in every row and zeros elsewhere.

    Row i has `values[i, k]` in column `index[i, k]`, both (rows, entries of a row). A model file
    stores the values as float32 and the columns as whole numbers of 32 bits.
    """

    values: Tensor
    index: Tensor
    columns: int

    def dense(self) -> Tensor:
        return self.values.new_zeros(self.shape).scatter_add(1, self.index, self.values)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.columns

    @property
    def macs(self) -> int:
        return self.values.numel()
