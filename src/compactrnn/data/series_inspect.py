"""What a file of sequences holds, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .series_table import MISSING, SeriesTable
from .series_time import PARTS, starts_after_gaps

Role = Literal["number", "category", "text", "time", "counter", "constant", "empty"]

TIMES = ("date", "datetime", "time", "timestamp")
SEQUENCES = ("sequence", "sequence_id", "series", "series_id", "recording", "recording_id", "trial", "trial_id")
GROUPS = ("group", "subject", "person", "speaker", "patient", "user")
TARGETS = ("label", "labels", "target", "class", "y")
MOST_WORDS = 32  # of a category
MOSTLY = 0.5  # of the entries of a column that are not missing: it is meant to hold numbers


@dataclass(frozen=True)
class ColumnFound:
    """What a column holds: how many entries are missing, how many different ones there are."""

    name: str
    role: Role
    missing: int
    distinct: int
    of_sequences: bool


@dataclass(frozen=True)
class Found:
    """What a file holds. `lengths` are those of its sequences, where it says where they begin."""

    path: str
    steps: int
    columns: tuple[ColumnFound, ...]
    lengths: np.ndarray | None
    gaps: int = 0

    def named(self, name: str) -> ColumnFound:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)

    def of(self, *roles: Role) -> list[str]:
        """The columns of these roles that have an entry for every step."""
        return [column.name for column in self.columns if column.role in roles and not column.of_sequences]

    def first(self, names: Sequence[str], of_sequences: bool | None = None) -> str:
        """The first column called like one of `names`, in small or capital letters, or ""."""
        known = {c.name.lower(): c.name for c in reversed(self.columns) if of_sequences in (None, c.of_sequences)}
        return next((known[name] for name in names if name in known), "")


def inspect_table(table: SeriesTable, texts: Sequence[str] = ()) -> Found:
    """Look at every column of a file.

    A column of whole numbers that grow by one from line to line counts them; one that never changes tells nothing;
    texts of up to 32 words are categories. Times are dates, or a column called time, in whose order the lines are.

    Raises:
        ValueError: a column that is not among `texts` has numbers for the most part, and something else; says where.

    >>> table = SeriesTable("a.csv", {"no": ["1", "2", "3"], "x": ["0.5", "NA", "2"], "wind": list("NSN")}, {}, 3)
    >>> [(column.name, column.role, column.missing) for column in inspect_table(table).columns]
    [('no', 'counter', 0), ('x', 'number', 1), ('wind', 'category', 0)]
    """
    columns = [_column(table, name, name in texts) for name in table.names()]
    lengths = None if table.offsets is None else np.diff(table.offsets)
    found = Found(table.path, table.steps, tuple(columns), lengths)
    for times in _times(found):
        try:
            gaps = len(starts_after_gaps(table, times, np.zeros(1, int)))
        except ValueError:  # no times, or lines in another order: a column like any other
            continue
        columns = [replace(column, role="time") if column.name in times else column for column in columns]
        return replace(found, columns=tuple(columns), gaps=gaps)
    return found


def _column(table: SeriesTable, name: str, is_text: bool) -> ColumnFound:
    of_sequences = name in table.attributes
    if is_text or table.share_of_numbers(name) < MOSTLY:
        words = [text for text in table.texts(name) if text not in MISSING]
        distinct, missing = len(set(words)), len(table.column(name)) - len(words)
        role: Role = "constant" if distinct == 1 and not missing else "category" if distinct <= MOST_WORDS else "text"
        return ColumnFound(name, role, missing, distinct, of_sequences)
    values = table.numbers(name)
    known = values[~np.isnan(values)]
    distinct = len(np.unique(known))
    role = "number"
    if not len(known):
        role = "empty"
    elif distinct == 1 and len(values) > 1:
        role = "constant"
    elif len(values) > 2 and len(known) == len(values) and bool((np.diff(values) == 1).all()):
        role = "counter"
    return ColumnFound(name, role, len(values) - len(known), distinct, of_sequences)


def _times(found: Found) -> Iterator[tuple[str, ...]]:
    """The columns that may say when a step was, the likeliest first."""
    known = {column.name.lower(): column.name for column in found.columns if not column.of_sequences}
    parts = [known[part] for part in PARTS if part in known]
    if [name.lower() for name in parts] == list(PARTS[: len(parts)]) and len(parts) > 1:
        yield tuple(parts)
    yield from ((known[name],) for name in TIMES if name in known)
    yield from ((name,) for name in found.of("text", "category"))
