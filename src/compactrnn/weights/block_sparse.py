"""Block-sparse weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_part, check_positive, invalid
from .base import AbstractWeight, WeightSpec, resize_, take
from .sparse_term import SparseTerm
from .terms import Term


@dataclass(frozen=True)
class BlockSparse(WeightSpec):
    """Zeros but for a part `keep` of the blocks of `block` = (rows, columns) entries, as many in all rows of blocks.

    With `balanced=False` it is a part of all blocks of the matrix, and a row of blocks may have any number of them.

    Each gate is cut into blocks from its first row and column on, of which the last may be smaller, and of each row of
    n blocks `round(keep * n)`, at least one, are there. Which, `from_dense_` chooses: those of the largest norm. Before
    they are random; in a square gate those on the diagonal come first where they are at most half of them.

    The core multiplies with blocks of 16 x 4 (the default) as fast as with a dense matrix of as many bytes, in float32
    and int8; with smaller ones as if they were filled up to lines of 16 x 1, or in int8 16 x 4.

    >>> BlockSparse(keep=0.25).build(4 * 64, 64, gates=4).stored_parameters()  # in place of 16384
    4096

    Sources: Narang, Undersander, Diamos, "Block-Sparse Recurrent Neural Networks", 2017; blocks of 16 x 4 with the
    diagonal: Valin, Skoglund, "LPCNet", 2019 (there 16 x 1).
    """

    block: tuple[int, int] = (16, 4)
    keep: float = 0.25
    balanced: bool = True

    def __post_init__(self):
        if not isinstance(self.block, list | tuple) or len(self.block) != 2:
            raise invalid("block", got=repr(self.block), expected="two numbers, rows and columns")
        for size in self.block:
            check_positive(size, "block")
        object.__setattr__(self, "block", tuple(self.block))  # a recipe gives a list
        check_part(self.keep, "keep")
        if not isinstance(self.balanced, bool):
            raise invalid("balanced", got=repr(self.balanced), expected="True or False")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> BlockSparseWeight:
        return BlockSparseWeight(self, out_features, in_features, gates)


class BlockSparseWeight(AbstractWeight):
    """`values` are the entries that are there, (n,); `index` their places, row * in_features + column, ascending."""

    spec: BlockSparse
    index: Tensor

    def __init__(self, spec: BlockSparse, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        # on the CPU: the mask is part of the weight where its numbers have no memory, too
        index = self._places(self._random_scores())
        self.values = nn.Parameter(torch.empty(len(index)))
        self.register_buffer("index", index.to(self.values.device))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dense())

    def dense(self) -> Tensor:
        return self.terms()[0].dense()

    def terms(self) -> tuple[Term, ...]:
        """One, of which the core stores the blocks that are there."""
        return (SparseTerm(self.values, self.index, self.out_features, self.in_features, self.gates),)

    def training_macs(self) -> int:
        """Those of the dense matrix, with which `forward` multiplies."""
        return self.out_features * self.in_features

    def reset_parameters(self, bound: float | None = None) -> None:
        """Draw so that the matrix, zeros included, has the variance of U(-bound, bound), bound = in_features ** -0.5.

        With a part k of the entries there, these are from U(-bound / sqrt(k), bound / sqrt(k)).
        """
        if self.values.is_meta or not len(self.values):
            return
        bound = self.in_features**-0.5 if bound is None else bound
        limit = bound * (self.out_features * self.in_features / len(self.values)) ** 0.5
        nn.init.uniform_(self.values, -limit, limit)

    def from_dense_(self, matrix: Tensor) -> BlockSparseWeight:
        """The best approximation: the blocks of the largest norm, in each row of them if balanced, as in `matrix`."""
        self._check_matrix(matrix)
        matrix = matrix.detach()
        index = self._places(self._norms(matrix.cpu().double())).to(self.index.device)
        self._set(matrix.to(self.values).reshape(-1)[index], index)
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> BlockSparseWeight:
        """Exact: the entries that are left, which need not be whole blocks any more.

        The core takes lines of 16 rows, so that units are best taken away 16 at a time, or the matrix filled again
        by `from_dense_`.
        """
        places = torch.full((self.out_features * self.in_features,), -1, device=self.index.device)
        places[self.index] = torch.arange(len(self.index), device=self.index.device)
        grid = take(take(places.view(self.out_features, self.in_features), 0, out), 1, inp)
        index = (grid.reshape(-1) >= 0).nonzero().squeeze(1)
        self._set(self.values.detach()[grid.reshape(-1)[index]], index)
        self.out_features, self.in_features = grid.shape
        self.rows = self.out_features // self.gates
        return self

    @torch.no_grad()
    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> BlockSparseWeight:
        """Exact."""
        if out is not None:
            self.values.mul_(out[self.index // self.in_features])
        if inp is not None:
            self.values.mul_(inp[self.index % self.in_features])
        return self

    def blocks(self, matrix: Tensor) -> Tensor:
        """(rows of blocks in all gates, blocks, entries of a block); the last of a gate filled up with zeros."""
        height, width = self.spec.block
        padding = (0, -self.in_features % width, 0, -self.rows % height)
        whole = nn.functional.pad(matrix.unflatten(0, (self.gates, -1)), padding)
        parts = whole.unflatten(2, (-1, width)).unflatten(1, (-1, height))  # gate, row, i, column, j
        return parts.transpose(2, 3).flatten(0, 1).flatten(2)

    def _norms(self, matrix: Tensor) -> Tensor:
        return self.blocks(matrix.square()).sum(dim=2)

    def _random_scores(self) -> Tensor:
        """Of each block; those on the diagonal of a square gate come first if they are at most half of what is kept."""
        diagonal = torch.zeros(self.out_features, self.in_features, device="cpu")
        if self.rows == self.in_features:
            diagonal = torch.eye(self.rows, device="cpu").repeat(self.gates, 1)
        found = self._norms(diagonal) > 0
        first = found & (2 * found.sum(dim=1, keepdim=True) <= self._kept_of(found.shape[1]))
        return torch.rand(found.shape, device="cpu") + first

    def _kept_of(self, blocks: int) -> int:
        return max(1, round(self.spec.keep * blocks))

    def _places(self, scores: Tensor) -> Tensor:
        """Those of the entries of the blocks with the highest scores, of every row of blocks or of all."""
        rows = scores if self.spec.balanced else scores.view(1, -1)
        kept = torch.zeros(rows.shape, dtype=torch.bool, device="cpu")
        kept.scatter_(1, rows.topk(self._kept_of(rows.shape[1]), dim=1).indices, True)
        return self.entries(kept.view(scores.shape)).reshape(-1).nonzero().squeeze(1)

    def entries(self, kept: Tensor) -> Tensor:
        """Which entries, (out_features, in_features), are in `kept` blocks, (rows of blocks in all gates, blocks)."""
        height, width = self.spec.block
        entries = kept.unflatten(0, (self.gates, -1)).repeat_interleave(height, 1).repeat_interleave(width, 2)
        return entries[:, : self.rows, : self.in_features].flatten(0, 1)

    def _set(self, values: Tensor, index: Tensor) -> None:
        if len(values) == len(self.values):
            with torch.no_grad():
                self.values.copy_(values)
                self.index.copy_(index)
        else:
            self.values = nn.Parameter(values.clone(), requires_grad=self.values.requires_grad)
            self.register_buffer("index", index)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # where the last block of a row is smaller, their number depends on which are there
        values = state_dict.get(prefix + "values")
        if values is not None and len(values) != len(self.values):
            resize_(self.values, len(values))
            self.index = self.index.new_empty(len(values))
        super()._load_from_state_dict(state_dict, prefix, *args)
