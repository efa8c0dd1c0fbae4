"""A matrix of which the core stores and multiplies only lines that are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime.cost import Cost, single_entries, stored_lines
from ..runtime.gates import LANES, padded
from ..runtime.layout import MAX_COLUMNS
from .terms import Term


@dataclass(frozen=True, eq=False)
class SparseTerm(Term):
    """A (rows, columns) matrix with `values`, (n,), at the places `index`, int64, (n,), and zeros elsewhere.

    The place of row i and column j is `i * columns + j`; no place occurs twice. The rows are those of `gates` equal
    blocks. A model file has each value with its row, or lines of 16 rows of a gate x 1 column, in int8 16 x 4, of which
    those are stored that have a value; so blocks of 16 x 4 values cost nothing else. `compactrnn.runtime.cost` has the
    rule. Counts are those of float32: all rows of a line count.

    Where a model multiplies with the rows of all gates one after the other, not by the operations LSTM and GRU, and a
    gate is no multiple of 16 rows, lines have rows of two gates; then more of them have a value.
    """

    values: Tensor
    index: Tensor
    rows: int
    columns: int
    gates: int = 1

    def dense(self) -> Tensor:
        flat = self.values.new_zeros(self.rows * self.columns)
        return flat.index_put((self.index,), self.values).view(self.rows, self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def macs(self) -> int:
        """One for each value, or the entries of all lines that have one."""
        lines = self._lines()
        return len(self.values) if self._is_scattered(lines) else self._entries_of(lines)

    @property
    def is_scattered(self) -> bool:
        """Whether single values are stored, in the place of lines."""
        return self._is_scattered(self._lines())

    def cost(self, kind: str) -> Cost:
        """In float32 or int8, in the form that `is_scattered` says."""
        lines = self._lines()
        if self._is_scattered(lines):
            return single_entries(len(self.values), *self.shape, kind)
        return stored_lines(len(lines if kind == "float32" else self._lines(4)), self.padded_rows, kind)

    @property
    def padded_rows(self) -> int:
        """All rows, those of each gate filled up to a multiple of 16."""
        return self.gates * padded(self.rows // self.gates)

    def _is_scattered(self, lines: Tensor) -> bool:
        single = single_entries(len(self.values), *self.shape, "float32")
        return self.rows <= MAX_COLUMNS and single.is_better_than(stored_lines(len(lines), self.padded_rows, "float32"))

    def _lines(self, depth: int = 1) -> Tensor:
        """The numbers of the lines of 16 rows x `depth` columns that have a value: panel * columns / depth + column."""
        units, row = self.rows // self.gates, self.index // self.columns
        panel = row // units * (padded(units) // LANES) + row % units // LANES
        return torch.unique(panel * -(-self.columns // depth) + self.index % self.columns // depth)

    def _entries_of(self, lines: Tensor) -> int:
        units = self.rows // self.gates
        panel_of_gate = lines // self.columns % (padded(units) // LANES)
        return int((units - LANES * panel_of_gate).clamp(max=LANES).sum())


def block_diagonal_term(blocks: Tensor) -> SparseTerm:
    """The matrix, in each gate, with the `blocks` on its diagonal, one after the other.

    `blocks` is of shape (n, a, b), or (gates, n, a, b): then each gate, of n a rows and n b columns, has its own.

    >>> block_diagonal_term(torch.ones(2, 1, 2)).dense()
    tensor([[1., 1., 0., 0.],
            [0., 0., 1., 1.]])
    """
    if blocks.dim() == 3:
        blocks = blocks[None]
    gates, n, height, width = blocks.shape
    gate, block, i, j = torch.meshgrid(
        *(torch.arange(size, device=blocks.device) for size in blocks.shape), indexing="ij"
    )
    row, columns = (gate * n + block) * height + i, n * width
    index = row * columns + block * width + j
    return SparseTerm(blocks.reshape(-1), index.reshape(-1), gates * n * height, columns, gates)
