"""Sparse weight: a few free entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_part
from .base import AbstractWeight, WeightSpec, resize_, take
from .sparse_term import SparseTerm
from .terms import Term


@dataclass(frozen=True)
class Sparse(WeightSpec):
    """Zeros but for a part `keep` of the entries of every row: `out * round(keep * in)` numbers, and their columns.

    As built, the columns are drawn at random. `from_dense_` takes those of the largest entries, and
    `compactrnn.compress.Doping` finds them in training, from a dense matrix on. Every row has at least one entry.

    >>> Sparse(keep=0.01).build(400, 200).stored_parameters()
    800

    Raises:
        ValueError: `keep` is not in (0, 1].

    Source: Zhu and Gupta, "To prune, or not to prune", 2017.
    """

    keep: float

    def __post_init__(self):
        check_part(self.keep, "keep")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> SparseWeight:
        return SparseWeight(self, out_features, in_features, gates)


class SparseWeight(AbstractWeight):
    """Row i has `values[i, k]` in column `index[i, k]`, both (out_features, entries of a row)."""

    spec: Sparse
    index: Tensor

    def __init__(self, spec: Sparse, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        self.values = nn.Parameter(torch.empty(out_features, self.target()))
        index = torch.rand(out_features, in_features).topk(self.target()).indices
        self.register_buffer("index", index.sort().values)
        self.reset_parameters()

    def target(self) -> int:
        """How many entries of a row the specification leaves."""
        return max(1, round(self.spec.keep * self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dense())

    def dense(self) -> Tensor:
        return self.terms()[0].dense()

    def terms(self) -> tuple[Term, ...]:
        """One, which a file has as single entries or lines of 16 rows, or dense where that is smaller."""
        first = torch.arange(self.out_features, device=self.index.device)[:, None] * self.in_features
        places = (first + self.index).flatten()
        return (SparseTerm(self.values.flatten(), places, self.out_features, self.in_features, self.gates),)

    def from_dense_(self, matrix: Tensor) -> SparseWeight:
        """The nearest: of each row the largest entries, as many as it has."""
        self._check_matrix(matrix)
        index = matrix.detach().abs().topk(self.values.shape[1]).indices.sort().values
        with torch.no_grad():
            self.index.copy_(index)
            self.values.copy_(matrix.gather(1, index))
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> SparseWeight:
        """Exact; rows that lose more entries than others have zeros in their place."""
        there = torch.zeros(self.out_features, self.in_features, dtype=torch.bool, device=self.index.device)
        there = take(take(there.scatter(1, self.index, True), 0, out), 1, inp)
        matrix = take(take(self.dense().detach(), 0, out), 1, inp)
        self.out_features, self.in_features = matrix.shape
        self.rows = self.out_features // self.gates
        self.set_columns(there.float().topk(max(1, int(there.sum(1).max()))).indices, matrix)
        return self

    @torch.no_grad()
    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> SparseWeight:
        """Exact."""
        if out is not None:
            self.values.mul_(out[:, None])
        if inp is not None:
            self.values.mul_(inp[self.index])
        return self

    def set_columns(self, index: Tensor, matrix: Tensor) -> None:
        """Take the entries of `matrix` in other columns, (out_features, any number): `values` is another parameter."""
        self.index = index.sort().values
        self.values = nn.Parameter(matrix.detach().gather(1, self.index), requires_grad=self.values.requires_grad)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # how many entries are left where training or cutting has changed it is known to the state dict alone
        index = state_dict.get(prefix + "index")
        if index is not None and index.dim() == 2 and index.shape[1] != self.index.shape[1]:
            resize_(self.values, len(self.index), index.shape[1])
            self.index = self.index.new_zeros(len(self.index), index.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)
