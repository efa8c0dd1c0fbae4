"""Plain-text tables of plans and reports."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns; the last cell of a short row may be longer than its column.

    >>> table([["a", "b"], ["first", "x"], ["a sentence that spans the columns"]])
    ['a      b', 'first  x', 'a sentence that spans the columns']
    """
    columns = max(map(len, rows))
    widths = [
        max((len(row[i]) for row in rows if i < len(row) - (len(row) < columns)), default=0) for i in range(columns)
    ]
    return ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=False)).rstrip() for row in rows]


def size_lines(sizes: object, names: Sequence[str]) -> list[str]:
    """Sizes before and after, one line each, of an object with these pairs."""
    rows = []
    for name in names:
        before, after = getattr(sizes, name)
        rows.append(f"{name.replace('_', ' ')}: {before:,} -> {after:,} ({before / max(after, 1):.2f}x)")
    return rows
