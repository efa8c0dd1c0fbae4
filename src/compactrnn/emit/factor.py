"""Matrix factors as a program stores them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..runtime.gates import gate_rows
from ..runtime.program import Tensor

Factor = np.ndarray | Tensor  # a matrix: its entries, or what is stored of it


def factor_name(name: str, number: int, count: int) -> str:
    """What one of the `count` factors of the matrix `name` is called.

    >>> factor_name("fc", 0, 1), factor_name("fc", 1, 2)
    ('fc', 'fc.factor1')
    """
    return f"{name}.factor{number}" if name and count > 1 else name


def stored(matrix: Factor) -> Tensor:
    """A factor in stored form, as float32."""
    if isinstance(matrix, Tensor):
        return matrix
    return Tensor(matrix.astype(np.float32) if matrix.dtype.kind == "f" else matrix)


def can_interleave(matrix: Factor, gates: int) -> bool:
    """Whether the matrix can be stored in the row order of the LSTM and GRU kernels."""
    toeplitz = stored(matrix).toeplitz
    return toeplitz is None or toeplitz.gates == gates


def interleaved(matrix: Factor, gates: int) -> Tensor:
    """The matrix with its rows in the order of the LSTM and GRU kernels, see `gates.gate_rows`."""
    found = stored(matrix)
    if found.toeplitz is not None:
        return replace(found, toeplitz=replace(found.toeplitz, interleaved=True))
    return replace(found, values=gate_rows(found.values, gates))
