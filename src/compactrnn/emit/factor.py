"""Matrix factors as a program stores and multiplies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.cost import in_lines, single_entries
from ..runtime.entries import ENTRIES
from ..runtime.gates import gate_rows
from ..runtime.layout import MAX_COLUMNS
from ..runtime.program import Ref, Tensor

if TYPE_CHECKING:
    from .builder import Builder, Operand


class Structured(ABC):
    """A matrix whose product is other operations than one `AFFINE`."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @abstractmethod
    def multiply(self, build: Builder, x: Operand, init: Ref | None, name: str) -> Ref:
        """Write the operations of `init + W x`; returns the place of the result."""


Factor = np.ndarray | Tensor | Structured  # a matrix: its entries, what is stored of it, or how it is multiplied
Stored = np.ndarray | Tensor


def factor_name(name: str, number: int, count: int) -> str:
    """What one of the `count` factors of the matrix `name` is called.

    >>> factor_name("fc", 0, 1), factor_name("fc", 1, 2)
    ('fc', 'fc.factor1')
    """
    return f"{name}.factor{number}" if name and count > 1 else name


def stored(matrix: Stored) -> Tensor:
    """A factor in stored form, as float32."""
    if isinstance(matrix, Tensor):
        return matrix
    return Tensor(matrix.astype(np.float32) if matrix.dtype.kind == "f" else matrix)


def entries_or_dense(matrix: np.ndarray) -> Stored:
    """The matrix, as single entries where that is better: where most of it is zero, as of a filter bank."""
    rows, columns = matrix.shape
    entries = single_entries(int(np.count_nonzero(matrix)), rows, columns, "int8")
    better = rows <= MAX_COLUMNS and entries.is_better_than(in_lines(rows, columns, "int8"))
    return replace(stored(matrix), form=ENTRIES) if better else matrix


def can_interleave(matrix: Factor, gates: int) -> bool:
    """Whether the matrix can be stored in the row order of the LSTM and GRU kernels."""
    if isinstance(matrix, Structured):
        return False
    form = stored(matrix).form
    return form is None or form.interleaved_for(gates) is not None


def interleaved(matrix: Stored, gates: int) -> Tensor:
    """The matrix with its rows in the order of the LSTM and GRU kernels, see `gates.gate_rows`.

    Only where `can_interleave` is true.
    """
    found = stored(matrix)
    values = gate_rows(found.values, gates) if found.has_entries else found.values
    return replace(found, values=values, form=found.form and found.form.interleaved_for(gates))
