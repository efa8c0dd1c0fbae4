"""How the stored numbers of a tensor make a matrix, where they are not its entries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np


class Form(ABC):
    """A matrix of a structure: a `Tensor` of this form stores `values`, of which the core makes products.

    Forms are compared by value. `name` is that of the structure in reports.
    """

    name: ClassVar[str]
    has_entries: ClassVar[bool] = False  # whether the values are the entries of the matrix, which can be quantized

    @abstractmethod
    def check(self, values: np.ndarray) -> None:
        """Raise `ValueError` for values that cannot be stored so."""

    @abstractmethod
    def shape(self, values: np.ndarray) -> tuple[int, int]:
        """Rows and columns of the matrix."""

    @abstractmethod
    def dense(self, values: np.ndarray) -> np.ndarray:
        """The matrix in float64."""

    def numbers(self, values: np.ndarray) -> int:
        """How many numbers are stored, padding not counted."""
        return values.size

    def read(self, values: np.ndarray) -> int:
        """How many numbers a product reads."""
        rows, columns = self.shape(values)
        return rows * columns

    @abstractmethod
    def macs(self, values: np.ndarray, plain: int) -> int:
        """Multiply-accumulate operations of a product that takes `plain` with a plain matrix."""

    @abstractmethod
    def stored_bytes(self, values: np.ndarray) -> int:
        """Bytes in the file, padding between arrays not counted."""

    def interleaved_for(self, gates: int) -> Form | None:
        """The same matrix with its rows in the order of the LSTM and GRU kernels; None where they have no such form."""
        return None


class EntriesForm(Form):
    """A form whose `values` are the entries of the matrix, float32 or int8, of which some need not be stored."""

    has_entries: ClassVar[bool] = True

    def shape(self, values: np.ndarray) -> tuple[int, int]:
        rows, columns = values.shape
        return rows, columns

    def dense(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float64)

    def read(self, values: np.ndarray) -> int:
        return self.numbers(values)

    def macs(self, values: np.ndarray, plain: int) -> int:
        """One for each number that is stored."""
        return self.numbers(values)
