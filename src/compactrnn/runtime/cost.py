"""What a matrix costs in one form or another, and which form is the better one."""

from __future__ import annotations

from dataclasses import dataclass

from .gates import LANES
from .layout import LINE

# Bytes of a number, those of the scales of groups included.
NUMBER_BYTES = {"float32": 4.0, "int8": 1.0, "int4": 0.52}
_ROW_BYTES = {"float32": 0, "int8": 8, "int4": 4}  # of the scale of a row, and its sum


@dataclass(frozen=True)
class Cost:
    """`bytes` in the file, and how many `loads` a product makes: of lines of 64 bytes, or of single entries.

    Each is a load, a multiplication and an addition, and takes 0.3 to 0.5 ns from a cache whichever it is
    (`benchmarks/sparse_products.py`). Of lines the bytes decide where they come from memory, too.
    """

    bytes: float
    loads: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.loads + other.loads)

    def is_better_than(self, other: Cost) -> bool:
        """Whether it is smaller, and no slower; or, if it is slower, at most half as large.

        >>> dense = in_lines(512, 512, "int8")
        >>> [single_entries(n, 512, 512, "int8").is_better_than(dense) for n in (40000, 45000)]
        [True, False]
        """
        if self.bytes >= other.bytes:
            return False
        return self.loads <= other.loads or 2 * self.bytes <= other.bytes


def in_lines(rows: int, columns: int, kind: str) -> Cost:
    """Of a matrix all of whose entries are stored, in float32, int8 or int4."""
    return lines_of(rows * columns, rows, kind)


def lines_of(numbers: int, rows: int, kind: str) -> Cost:
    """Of so many numbers that are stored without their places, of a matrix of so many rows."""
    size = numbers * NUMBER_BYTES[kind]
    return Cost(size + rows * _ROW_BYTES[kind], size / LINE)


def stored_lines(lines: int, rows: int, kind: str) -> Cost:
    """Of lines, each stored with its number, of a matrix of so many rows (`sparse`)."""
    return Cost((LINE + 2) * lines + 4 * (rows // LANES + 1) + rows * _ROW_BYTES[kind], lines)


def single_entries(count: int, rows: int, columns: int, kind: str) -> Cost:
    """Of entries, each stored with its row (`entries`)."""
    scales = 4 * rows if kind == "int8" else 0
    return Cost((NUMBER_BYTES[kind] + 2) * count + 4 * (columns + 1) + scales, count)
