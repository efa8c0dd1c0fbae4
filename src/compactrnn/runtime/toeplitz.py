"""Toeplitz-like matrices: blocks of low displacement rank, stored as two short vectors for each unit of rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .._errors import invalid
from .form import Form
from .gates import LANES, gate_rows, padded

LARGEST = 1e10  # entry of a vector: with it the matrix, and all that products go through, is finite in float32


@dataclass(frozen=True)
class ToeplitzBlocks(Form):
    """How stored vectors make a matrix of `rows` rows and k columns: of each k x k block

        M = sum_j Z_1(g_j) Z_-1(h_j)

    with Z_1(v) the circulant and Z_-1(v) the skew-circulant matrix whose first column is v.

    The matrix is of `gates` gates with `rows / gates` rows each, its units. A gate has ceil(units / k) blocks below
    each other, the last of which is cut off. The vectors are `values` of shape (2, blocks, rank, k), g before h, the
    blocks of one gate after those of the other.

    The rows of the matrix are gate after gate or, if `interleaved`, in the order of the LSTM and GRU kernels, see
    `gates.gate_rows`.

    Source: Lu, Sindhwani and Sainath, Learning compact recurrent neural networks, ICASSP 2016.

    >>> values = np.float32([[[[1, 2, 3]]], [[[1, 0, 0]]]])
    >>> ToeplitzBlocks(rows=3).dense(values).tolist()
    [[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0]]
    """

    name: ClassVar[str] = "toeplitz"
    rows: int
    gates: int = 1
    interleaved: bool = False

    @property
    def units(self) -> int:
        """Rows of one gate."""
        return self.rows // self.gates

    def check(self, values: np.ndarray) -> None:
        """Raise `ValueError` for values that cannot be stored as such a matrix."""
        if self.gates < 1 or self.rows < 1 or self.rows % self.gates:
            raise invalid("rows of a Toeplitz-like matrix", got=self.rows, expected=f"a multiple of {self.gates} gates")
        shape = values.shape
        if values.dtype != np.float32 or len(shape) != 4 or 0 in shape:
            wanted = "float32 of shape (2, blocks, rank, k)"
            raise invalid("vectors of a Toeplitz-like matrix", got=f"{values.dtype} of shape {shape}", expected=wanted)
        blocks, k = self.gates * -(-self.units // shape[3]), shape[3]
        if shape[0] != 2 or shape[1] != blocks or shape[2] > k:
            wanted = f"(2, {blocks}, rank, {k}) with a rank of {k} at most"
            raise invalid("vectors of a Toeplitz-like matrix", got=f"shape {shape}", expected=wanted)
        if not (np.abs(values) <= LARGEST).all():
            largest = np.abs(values).max()
            raise invalid("vectors of a Toeplitz-like matrix", got=largest, expected=f"numbers up to {LARGEST:g}")

    def shape(self, values: np.ndarray) -> tuple[int, int]:
        """Of the matrix, in the order of its rows that `interleaved` says."""
        return self.gates * (padded(self.units) if self.interleaved else self.units), values.shape[-1]

    def is_spectral(self, rank: int, k: int) -> bool:
        """Whether the core multiplies by polynomials instead of with the matrix: where that is faster, by sizes alone.

        k is a power of two and at least 32 times the rank, a gate has k / 2 units or more, and the matrix 3 MiB.
        """
        return k & (k - 1) == 0 and 32 * rank <= k <= 2 * self.units and 4 * self.rows * k >= 3 << 20

    def expanded_bytes(self, values: np.ndarray) -> int:
        """Memory for what the core multiplies with: the matrix, or the spectra of its vectors, 16 beside each other."""
        _, blocks, rank, k = values.shape
        if not self.is_spectral(rank, k):
            return 4 * padded(self.shape(values)[0]) * k
        beside = min(1 << (blocks - 1).bit_length(), LANES)
        groups = -(-blocks // beside) * -(-rank * beside // LANES)
        return 4 * k * (1 + 2 * LANES * groups)

    def macs(self, values: np.ndarray, plain: int) -> int:
        """Those of a plain matrix, which it is expanded to, or of its polynomials, see `macs_of`."""
        sizes = values.shape[-2:]
        return self.macs_of(*sizes) if self.is_spectral(*sizes) else plain

    def stored_bytes(self, values: np.ndarray) -> int:
        """A head of one line, and the vectors."""
        return 64 + values.nbytes

    def interleaved_for(self, gates: int) -> ToeplitzBlocks | None:
        """Where it is of as many gates."""
        return replace(self, interleaved=True) if gates == self.gates else None

    def macs_of(self, rank: int, k: int) -> int:
        """Multiplications of a product with a vector of k numbers, rows that are only padding left out.

        By polynomials (native/cr_spectral.h): the vector once, and each pair of vectors, go through remainders modulo
        X^k + 1; each pair and each block go through those modulo X^k - 1.
        """
        if not self.is_spectral(rank, k):
            return self.rows * k
        blocks = self.gates * -(-self.units // k)
        one = _split_macs(k)
        whole = sum(_split_macs(k >> level) for level in range(1, k.bit_length() - 1))
        return one + blocks * rank * (one + whole + 4 * k - 2) + blocks * whole

    def dense(self, values: np.ndarray) -> np.ndarray:
        """The matrix in float64."""
        self.check(values)
        k = values.shape[-1]
        place = np.arange(k)[:, None] - np.arange(k)  # of entry (i, j), before it is taken modulo k
        sign = np.where(place < 0, -1.0, 1.0)
        blocks = np.zeros((values.shape[1], k, k))
        for block, first, second in zip(blocks, *values.astype(np.float64), strict=True):
            for g, h in zip(first, second, strict=True):
                block += g[place % k] @ (sign * h[place % k])
        rows = blocks.reshape(self.gates, -1, k)[:, : self.units].reshape(self.rows, k)
        return gate_rows(rows, self.gates) if self.interleaved else rows


def _split_macs(size: int) -> int:
    """To take a real polynomial of so many coefficients apart modulo X^size + 1."""
    return size * (size // 2).bit_length() - size if size > 1 else 0
