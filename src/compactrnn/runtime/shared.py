"""Matrices whose entries share the numbers of short vectors by a rule: circulant blocks, and hashed entries."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .._errors import invalid
from .form import Form
from .gates import gate_rows, padded
from .toeplitz import LARGEST


@dataclass(frozen=True)
class Shared(Form):
    """A matrix of `gates` gates with `rows / gates` rows each, its units, and of `columns` columns.

    The core makes the matrix when it opens a file, `rule` being what the file calls the way. The rows are gate after
    gate or, if `interleaved`, in the order of the LSTM and GRU kernels, see `gates.gate_rows`.
    """

    rule: ClassVar[int]
    rows: int
    columns: int
    gates: int = 1
    interleaved: bool = False

    @property
    def units(self) -> int:
        """Rows of one gate."""
        return self.rows // self.gates

    @abstractmethod
    def stored_shape(self, size: int) -> tuple[int, ...] | None:
        """That of `values` with vectors of `size` numbers; None for a size that is not possible."""

    @abstractmethod
    def entries(self, values: np.ndarray) -> np.ndarray:
        """The matrix, its rows gate after gate, in the dtype of `values`."""

    def check(self, values: np.ndarray) -> None:
        """Raise `ValueError` for values that cannot be stored as such a matrix."""
        if self.gates < 1 or self.rows < 1 or self.rows % self.gates:
            raise invalid(f"rows of a {self.name} matrix", got=self.rows, expected=f"a multiple of {self.gates} gates")
        wanted = self.stored_shape(values.shape[-1]) if values.ndim and values.size else None
        if values.dtype != np.float32 or values.shape != wanted:
            raise invalid(
                f"vectors of a {self.name} matrix",
                got=f"{values.dtype} of shape {values.shape}",
                expected=f"float32 of shape {wanted}" if wanted else f"sizes for {self.rows} x {self.columns} entries",
            )
        if not (np.abs(values) <= LARGEST).all():
            largest = np.abs(values).max()
            raise invalid(f"vectors of a {self.name} matrix", got=largest, expected=f"numbers up to {LARGEST:g}")

    def shape(self, values: np.ndarray) -> tuple[int, int]:
        """Of the matrix, in the order of its rows that `interleaved` says."""
        return self.gates * (padded(self.units) if self.interleaved else self.units), self.columns

    def dense(self, values: np.ndarray) -> np.ndarray:
        """The matrix in float64."""
        self.check(values)
        rows = self.entries(values.astype(np.float64))
        return gate_rows(rows, self.gates) if self.interleaved else rows

    def macs(self, values: np.ndarray, plain: int) -> int:
        """Those of a plain matrix."""
        return plain

    def stored_bytes(self, values: np.ndarray) -> int:
        """A head of one line, and the vectors."""
        return 64 + values.nbytes

    def expanded_bytes(self, values: np.ndarray) -> int:
        """Memory for the matrix that the core makes."""
        return 4 * padded(self.shape(values)[0]) * self.columns

    def interleaved_for(self, gates: int) -> Shared | None:
        """Where it is of as many gates."""
        return replace(self, interleaved=True) if gates == self.gates else None


@dataclass(frozen=True)
class CirculantBlocks(Shared):
    """Each gate is a grid of circulant blocks, `M[i, j] = v[(i - j) mod block]`, the last ones cut off below.

    `values` are the v: (gates, blocks below each other, blocks beside each other, block).

    >>> CirculantBlocks(rows=3, columns=3).dense(np.float32([[[[1, 2, 3]]]])).tolist()
    [[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0]]
    """

    name: ClassVar[str] = "circulant"
    rule: ClassVar[int] = 1

    def stored_shape(self, size: int) -> tuple[int, ...] | None:
        if self.columns % size:
            return None
        return self.gates, -(-self.units // size), self.columns // size, size

    def entries(self, values: np.ndarray) -> np.ndarray:
        gates, down, beside, block = values.shape
        place = np.arange(block)
        blocks = values[..., (place[:, None] - place) % block]
        grid = blocks.swapaxes(2, 3).reshape(gates, down * block, beside * block)
        return grid[:, : self.units].reshape(self.rows, self.columns)


@dataclass(frozen=True)
class HashedEntries(Shared):
    """An entry (i, j) of a gate is number `hashed(i columns + j)` of its vector, or minus that.

    `values` are the vectors, (gates, size).
    """

    name: ClassVar[str] = "hashed"
    rule: ClassVar[int] = 2

    def stored_shape(self, size: int) -> tuple[int, ...] | None:
        return (self.gates, size) if size <= self.units * self.columns else None

    def entries(self, values: np.ndarray) -> np.ndarray:
        number = hashed(self.units * self.columns, values.shape[1])
        return np.concatenate([values, -values], 1)[:, number].reshape(self.rows, self.columns)


SHARED: dict[int, type[Shared]] = {kind.rule: kind for kind in (CirculantBlocks, HashedEntries)}


def hashed(entries: int, size: int) -> np.ndarray:
    """For each of so many entries the number of a vector of `size` that it is; `size` more where it is minus that.

    With 32 well mixed bits h of an entry's place it is number `(h >> 1) mod size`, and negative where h is odd. The
    bits are those of the finalizer of MurmurHash3 (Appleby, 2011).

    >>> hashed(4, 5).tolist()
    [0, 8, 4, 8]
    """
    x = np.arange(entries, dtype=np.uint32)  # which products wrap around
    x ^= x >> 16
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> 13
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> 16
    return ((x >> 1) % np.uint32(size)).astype(np.int64) + size * (x & 1)
