"""Sparse matrices: panels of 16 rows, of which only some lines are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from .form import EntriesForm
from .gates import LANES
from .layout import LINE, Type, panel_lines, round_line

DEPTH = {Type.SPARSE_F32: 1, Type.SPARSE_I8: 4}  # columns of a line


class StoredLines(NamedTuple):
    """What a file has of a sparse matrix: line i of panel p, for i from starts[p] to starts[p + 1], has `lines[i]`,
    16 rows x 1 (float32) or 4 (int8) columns, as the entries from column `numbers[i]` * (1 or 4) on."""

    starts: np.ndarray
    numbers: np.ndarray
    lines: np.ndarray

    @property
    def panel(self) -> np.ndarray:
        """The panel of each line."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts.astype(np.int64)))

    def entries(self, columns: int) -> int:
        """How many entries the lines have, without padding: columns beyond the matrix, and rows of zeros."""
        width = np.minimum(self.lines.shape[2], columns - self.lines.shape[2] * self.numbers.astype(np.int64))
        panel, used = self.panel, np.zeros((len(self.starts) - 1, LANES), bool)
        np.logical_or.at(used, panel, (self.lines != 0).any(axis=2))
        return int((width * used.sum(axis=1)[panel]).sum())


@dataclass(frozen=True)
class SparseLines(EntriesForm):
    """`values` are the entries, float32 or int8; a file has the lines of a panel, see `StoredLines`, that are not zero.

    >>> matrix = np.zeros((32, 8), np.float32)
    >>> matrix[:16, 3] = 1
    >>> SPARSE.numbers(matrix), SPARSE.stored_bytes(matrix)  # a line of 16 rows, its number, where two panels start
    (16, 78)
    """

    name: ClassVar[str] = "sparse"

    def check(self, values: np.ndarray) -> None:
        """Nothing: any entries can be stored so."""

    def numbers(self, values: np.ndarray) -> int:
        return pack(values).entries(values.shape[1])

    def stored_bytes(self, values: np.ndarray) -> int:
        scales = 8 * len(values) if values.itemsize == 1 else 0  # and sums of rows
        return sum(part.nbytes for part in pack(values)) + scales

    def interleaved_for(self, gates: int) -> SparseLines:
        return self


SPARSE = SparseLines()


def pack(values: np.ndarray) -> StoredLines:
    """The lines of a matrix that are not zero."""
    kind = Type.SPARSE_I8 if values.itemsize == 1 else Type.SPARSE_F32
    lines = panel_lines(values, DEPTH[kind]).swapaxes(0, 1)
    kept = (lines != 0).any(axis=(2, 3))
    starts = np.concatenate([[0], kept.sum(axis=1).cumsum()]).astype("<u4")
    return StoredLines(starts, np.nonzero(kept)[1].astype("<u2"), np.ascontiguousarray(lines[kept]))


def unpack(stored: StoredLines, rows: int, columns: int) -> np.ndarray:
    """The matrix of which `pack` gives these lines.

    >>> matrix = np.eye(17, 9, dtype=np.int8)
    >>> bool((unpack(pack(matrix), 17, 9) == matrix).all())
    True
    """
    panels, depth = len(stored.starts) - 1, stored.lines.shape[2]
    whole = np.zeros((panels, -(-columns // depth), LANES, depth), stored.lines.dtype)
    whole[stored.panel, stored.numbers] = stored.lines
    matrix = whole.swapaxes(1, 2).reshape(panels * LANES, -1)[:rows, :columns]
    return np.ascontiguousarray(matrix)


def stored_lines(data: bytes, place: int, rows: int, kind: Type) -> StoredLines:
    """Those at a place of a verified file."""
    panels = -(-rows // LANES)
    starts = np.frombuffer(data, "<u4", panels + 1, place)
    place, count = place + round_line(starts.nbytes), int(starts[-1])
    numbers = np.frombuffer(data, "<u2", count, place)
    dtype = np.dtype("i1" if kind == Type.SPARSE_I8 else "<f4")
    lines = np.frombuffer(data, dtype, count * LINE // dtype.itemsize, place + round_line(numbers.nbytes))
    return StoredLines(starts, numbers, lines.reshape(count, LANES, DEPTH[kind]))
