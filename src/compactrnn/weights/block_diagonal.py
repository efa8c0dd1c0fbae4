"""Block-diagonal weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_divides, check_positive
from .base import AbstractWeight, WeightSpec
from .block_term import Blocks
from .terms import Selection, Term


@dataclass(frozen=True)
class BlockDiagonal(WeightSpec):
    """`W = diag(B_1, ..., B_n)` in every gate, n = `blocks`: `out * in / n` numbers.

    Each of n equal parts of a gate's rows reads one of n equal parts of the input: a layer of n groups that do not see
    each other. In a recurrence, a dense input weight or the next layer has to bring them together.

    >>> BlockDiagonal(blocks=4).build(256, 64).stored_parameters()  # in place of 16384
    4096

    Raises:
        ValueError: by `build`, for sizes that `blocks` does not divide.

    Source: Kuchaiev and Ginsburg, "Factorization tricks for LSTM networks", 2017, section 2.2 (group LSTM).
    """

    blocks: int

    def __post_init__(self):
        check_positive(self.blocks, "blocks")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> BlockDiagonalWeight:
        return BlockDiagonalWeight(self, out_features, in_features, gates)


class BlockDiagonalWeight(AbstractWeight):
    """`blocks` has every block: (gates, blocks, rows of a block, columns of a block)."""

    def __init__(self, spec: BlockDiagonal, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        tall = check_divides(self.rows, spec.blocks, "out_features per gate", "blocks")
        wide = check_divides(in_features, spec.blocks, "in_features", "blocks")
        self.blocks = nn.Parameter(torch.empty(gates, spec.blocks, tall, wide))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (self.blocks.shape[1], -1))
        return torch.einsum("gbrc,...bc->...gbr", self.blocks, parts).flatten(-3)

    def dense(self) -> Tensor:
        return torch.cat([torch.block_diag(*blocks) for blocks in self.blocks])

    def terms(self) -> tuple[Term, ...]:
        """The rows of all gates that read the same part are one block."""
        gates, count, tall, _ = self.blocks.shape
        blocks = Blocks(self.blocks.transpose(0, 1).flatten(1, 2), count)
        if gates == 1:
            return (blocks,)
        place = torch.arange(gates * count * tall, device=self.blocks.device).view(count, gates, tall)
        return Selection(place.transpose(0, 1).flatten(), self.out_features), blocks

    def from_dense_(self, matrix: Tensor) -> BlockDiagonalWeight:
        """The nearest: its blocks."""
        self._check_matrix(matrix)
        count, tall, wide = self.blocks.shape[1:]
        grid = matrix.unflatten(1, (count, wide)).unflatten(0, (self.gates, count, tall))
        with torch.no_grad():
            self.blocks.copy_(grid.diagonal(0, 1, 3).movedim(-1, 1))
        return self

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> BlockDiagonalWeight:
        """Exact: rows and columns of the blocks."""
        with torch.no_grad():
            if out is not None:
                self.blocks.mul_(out.view(*self.blocks.shape[:3], 1))
            if inp is not None:
                self.blocks.mul_(inp.view(self.blocks.shape[1], 1, -1))
        return self
