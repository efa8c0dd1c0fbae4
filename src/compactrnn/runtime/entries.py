"""Matrices of single entries, each stored with its row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from .._errors import invalid
from .form import EntriesForm
from .layout import MAX_COLUMNS, Type, round_line


class StoredEntries(NamedTuple):
    """What a file has: in column j `values[i]` in row `rows[i]`, i from starts[j] to starts[j + 1]."""

    starts: np.ndarray
    rows: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class SingleEntries(EntriesForm):
    """`values` are the entries, float32 or int8; a file has those that are not zero: no form for LSTM or GRU.

    >>> ENTRIES.numbers(np.eye(3, dtype=np.float32)), ENTRIES.stored_bytes(np.eye(3, dtype=np.float32))
    (3, 34)
    """

    name: ClassVar[str] = "unstructured"

    def check(self, values: np.ndarray) -> None:
        if len(values) > MAX_COLUMNS:
            raise invalid("rows of a matrix of single entries", got=len(values), expected=f"at most {MAX_COLUMNS}")

    def numbers(self, values: np.ndarray) -> int:
        return int(np.count_nonzero(values))

    def stored_bytes(self, values: np.ndarray) -> int:
        scales = 4 * len(values) if values.itemsize == 1 else 0
        return 4 * (values.shape[1] + 1) + (2 + values.itemsize) * self.numbers(values) + scales


ENTRIES = SingleEntries()


def pack_entries(values: np.ndarray) -> StoredEntries:
    """The entries that are not zero, column after column."""
    columns, rows = np.nonzero(values.T)
    starts = np.searchsorted(columns, np.arange(values.shape[1] + 1)).astype("<u4")
    return StoredEntries(starts, rows.astype("<u2"), values[rows, columns])


def unpack_entries(stored: StoredEntries, rows: int) -> np.ndarray:
    """The matrix of which `pack_entries` gives these.

    >>> matrix = np.eye(3, 5, dtype=np.int8)
    >>> bool((unpack_entries(pack_entries(matrix), 3) == matrix).all())
    True
    """
    columns = len(stored.starts) - 1
    matrix = np.zeros((rows, columns), stored.values.dtype)
    matrix[stored.rows, np.repeat(np.arange(columns), np.diff(stored.starts.astype(np.int64)))] = stored.values
    return matrix


def stored_entries(data: bytes, place: int, columns: int, kind: Type) -> StoredEntries:
    """Those at a place of a verified file."""
    starts = np.frombuffer(data, "<u4", columns + 1, place)
    place, count = place + round_line(starts.nbytes), int(starts[-1])
    rows = np.frombuffer(data, "<u2", count, place)
    dtype = "i1" if kind == Type.ENTRIES_I8 else "<f4"
    return StoredEntries(starts, rows, np.frombuffer(data, dtype, count, place + round_line(rows.nbytes)))
