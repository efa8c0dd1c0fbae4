"""Columns of a file of sequences, whatever its format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .._errors import invalid
from .._text import printable, shortened

MISSING = frozenset(("", "?", "NA", "N/A", "na", "n/a", "NaN", "nan", "NAN", "NULL", "null", "None"))

Column = Sequence[str] | np.ndarray  # texts as they stand in the file, or numbers


@dataclass(frozen=True)
class SeriesTable:
    """What a reader found: `columns` with an entry for every step, `attributes` with one for every sequence.

    Sequence i has the steps from `offsets[i]` to `offsets[i + 1]`; None where the file does not say where they begin.
    `lines` has the line of each step or, in a file with a sequence a line, of each sequence; None in a binary file.
    """

    path: str
    columns: Mapping[str, Column]
    attributes: Mapping[str, Column]
    steps: int
    offsets: np.ndarray | None = None
    lines: np.ndarray | None = None

    def place(self, name: str, index: int) -> str:
        """Where entry `index` of a column or attribute stands, in words."""
        return f"{self.where(index, name in self.attributes)}, {printable(name)}"

    def where(self, index: int, sequence: bool = False) -> str:
        """Where step, or sequence, `index` stands, in words."""
        number = index if sequence or self.offsets is None else self._sequence(index)
        step = None if sequence or self.offsets is None else index - self.offsets[number] + 1
        within = "" if step is None else f", step {step}"
        if self.lines is not None:
            return f"{self.path}, line {self.lines[number]}{within}"
        return (
            f"{self.path}, sequence {number + 1}{within}" if self.offsets is not None else f"{self.path}, {index + 1}"
        )

    def _sequence(self, step: int) -> int:
        assert self.offsets is not None
        return int(np.searchsorted(self.offsets, step, side="right")) - 1

    def column(self, name: str) -> Column:
        """The entries of a column or attribute; `ValueError` if there is none of this name."""
        for found in (self.columns, self.attributes):
            if name in found:
                return found[name]
        raise invalid(f"{self.path}: column", got=repr(name), expected=f"one of {shortened_list(self.names())}")

    def names(self) -> list[str]:
        """All columns and attributes."""
        return [*self.columns, *self.attributes]

    def share_of_numbers(self, name: str) -> float:
        """How many entries of a column are numbers, as a share of those that are not missing; 1 where all are."""
        column = self.column(name)
        if isinstance(column, np.ndarray):
            return float(column.dtype.kind != "U")
        entries = [entry for entry in column if entry.strip() not in MISSING]
        return sum(_number(entry) is not None for entry in entries) / len(entries) if entries else 1.0

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, NaN where a value is missing.

        Raises:
            ValueError: an entry is no finite number; says where it stands.
        """
        column = self.column(name)
        if isinstance(column, np.ndarray) and column.dtype.kind != "U":
            values = column.astype(np.float64)
        else:
            found = [math.nan if entry.strip() in MISSING else _number(entry) for entry in column]
            if None in found:
                index = found.index(None)
                got, place = shortened(str(column[index])), self.place(name, index)
                raise invalid(place, got=got, expected="a number, or nothing for a missing value", hint=_hint(got))
            values = np.array(found, np.float64)
        too_large = ~(np.abs(np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)) <= np.finfo(np.float32).max)
        if too_large.any():
            index = int(too_large.argmax())
            raise invalid(self.place(name, index), got=values[index], expected="a number that float32 can hold")
        return values

    def texts(self, name: str) -> list[str]:
        """A column as texts; whole numbers of a binary file without a decimal point."""
        column = self.column(name)
        if not isinstance(column, np.ndarray):
            return [entry.strip() for entry in column]
        if column.dtype.kind == "f" and len(column) and bool((column == np.round(column)).all()):
            column = column.astype(np.int64)
        return [str(entry) for entry in column.tolist()]


def _number(entry: str) -> float | None:
    try:
        return None if "_" in entry else float(entry)
    except ValueError:
        return None


def _hint(got: str) -> str:
    if "," in got:
        return "write decimal points, not commas"
    return "name a column of texts in task.categories, or by init --category"


def shortened_list(names: Sequence[str], most: int = 20) -> str:
    """The first names of a list, for a message.

    >>> shortened_list(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(printable(name)[:80] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
