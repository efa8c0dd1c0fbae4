"""Sequences of numbers from a user's own file, with targets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .._errors import invalid
from .._text import shortened
from .folder import data_folder
from .series_camels import ARCHIVE as CAMELS
from .series_camels import read_camels
from .series_csv import read_csv
from .series_npz import ARCHIVE, read_npz, split_archive
from .series_table import MISSING, SeriesTable, shortened_list
from .series_time import starts_after_gaps
from .series_ts import read_ts

SUFFIXES = (".csv", ".csv.gz", ".npz", ".ts", ".ts.gz", CAMELS)


@dataclass(frozen=True)
class Layout:
    """Which columns and attributes of a file are what.

    `channels` are read as inputs; `categories` are those of them that are texts, with the words that occur (none: those
    of this file); `missing` are those that may lack values. Steps with the same entry of `sequence` one after the other
    are a sequence. `targets` are classes with `labels`, else numbers, of each step with `every_step`, else of each
    sequence. `group` says what belongs together, such as the recordings of a person. `rows` is how many steps of the
    file are used, from the first on; 0: all.
    """

    channels: tuple[str, ...]
    targets: tuple[str, ...] = ()
    labels: bool = False
    every_step: bool = False
    sequence: str = ""
    group: str = ""
    time: tuple[str, ...] = ()
    categories: Mapping[str, Sequence[str]] | None = None
    missing: tuple[str, ...] = ()
    rows: int = 0


@dataclass(frozen=True)
class Series:
    """The sequences of a file, one after the other.

    `values`, float32 (steps, channels), are as they stand in the file: not normalized, NaN where one is missing,
    categories as their position in `categories`. Sequence i has the steps from `offsets[i]` to `offsets[i + 1]`.
    `targets`, float32 (sequences, n) or (steps, n), or texts (sequences,); None without. `groups`, texts (sequences,).
    `breaks` are steps before which time is missing. `places` says of a sequence where it begins in the file.
    """

    path: str
    values: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray | None
    groups: np.ndarray | None
    breaks: np.ndarray
    categories: dict[str, tuple[str, ...]]
    places: tuple[str, ...]


def find_file(path: str) -> str:
    """`path` as it is, or else in the data folder; `ValueError` where there is no such file."""
    if not path:
        raise invalid("task.file", got="none", expected=f"the path of a file: {', '.join(SUFFIXES)}")
    for candidate in (path, str(data_folder() / path)):
        if split_archive(candidate)[0].is_file():
            return candidate
    if os.path.exists(path):
        raise invalid("data", got=f"{path}, a folder or device", expected="the path of a file")
    got = f"{path}, which is neither here nor in {data_folder()}"
    raise invalid("data", got=got, expected="the path of a file", hint="COMPACTRNN_DATA names the data folder")


def read_table(path: str) -> SeriesTable:
    """Read a file of any of these formats, by the end of its name.

    Raises:
        ValueError: the file is missing, damaged or of another format.
    """
    found = find_file(path)
    name = str(split_archive(found)[0]).lower()
    readers = (
        ((".csv", ".csv.gz"), read_csv),
        ((".ts", ".ts.gz"), read_ts),
        ((ARCHIVE,), read_npz),
        ((CAMELS,), read_camels),
    )
    for ends, reader in readers:
        if name.endswith(ends):
            return reader(found)
    raise invalid("data", got=path, expected=f"a file of one of these: {', '.join(SUFFIXES)}")


def read_series(path: str, layout: Layout) -> Series:
    """The sequences of a file as `layout` describes them.

    Raises:
        ValueError: the file cannot be read, a column is not there, or a value is not what it should be; says where.

    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("id,x,kind\\n1,0.5,a\\n1,0.25,a\\n2,8,b\\n")
    >>> series = read_series(str(path), Layout(("x",), ("kind",), labels=True, sequence="id"))
    >>> series.offsets.tolist(), series.targets.tolist()
    ([0, 2, 3], ['a', 'b'])
    """
    table = read_table(path)
    steps = min(table.steps, layout.rows or table.steps)
    offsets = _offsets(table, layout.sequence, steps)
    begins = offsets[:-1]
    values, categories = _values(table, layout, steps)
    targets = _targets(table, layout, offsets)
    groups = None
    if layout.group:
        groups = np.array(_of_sequences(table, layout.group, table.texts(layout.group), offsets))
    breaks = starts_after_gaps(table, layout.time, begins) if layout.time else np.zeros(0, int)
    each = table.offsets is not None
    places = [table.where(n if each else int(step), each) for n, step in enumerate(begins)]
    return Series(table.path, values, offsets, targets, groups, breaks[breaks < steps], categories, tuple(places))


def _offsets(table: SeriesTable, sequence: str, steps: int) -> np.ndarray:
    """Where the sequences begin, and the last one ends."""
    if table.offsets is not None:
        if sequence:
            raise invalid("task.sequence", got=repr(sequence), expected="none: the file says where sequences begin")
        inside = table.offsets[table.offsets < steps]
        return np.append(inside, steps)
    if not sequence:
        return np.array([0, steps])
    entries = table.texts(sequence)[:steps]
    begins = [0, *(row for row in range(1, steps) if entries[row] != entries[row - 1])]
    seen: dict[str, int] = {}
    for row in begins:
        if (before := seen.setdefault(entries[row], row)) != row:
            got = f"{shortened(entries[row])} again, after {table.place(sequence, before)}"
            raise invalid(table.place(sequence, row), got=got, expected="the steps of a sequence one after the other")
    return np.array([*begins, steps])


def _values(table: SeriesTable, layout: Layout, steps: int) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
    if not layout.channels:
        raise invalid("task.channels", got="none", expected=f"some of {shortened_list(list(table.columns))}")
    known = layout.categories or {}
    for name in (*known, *layout.missing):
        if name not in layout.channels:
            expected = f"one of the channels: {shortened_list(layout.channels)}"
            raise invalid("task.categories, task.missing", got=repr(name), expected=expected)
    values = np.empty((steps, len(layout.channels)), np.float32)
    words: dict[str, tuple[str, ...]] = {}
    for number, name in enumerate(layout.channels):
        if name not in table.columns:
            table.column(name)
            raise invalid("task.channels", got=f"{name!r}, which has one entry a sequence", expected="values of steps")
        if name in known:
            words[name], column = _codes(table, name, known[name], steps)
        else:
            column = table.numbers(name)[:steps]
        if name not in layout.missing and (lacking := np.isnan(column)).any():
            place, count = table.place(name, int(lacking.argmax())), int(lacking.sum())
            got = f"a missing value, the first of {count:,}"
            raise invalid(place, got=got, expected="a value", hint=f"name {name} in task.missing, and train with it")
        values[:, number] = column
    return values, words


def _codes(table: SeriesTable, name: str, words: Sequence[str], steps: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The words of a category, and for each step the position of its word; NaN where it is missing."""
    texts = table.texts(name)[:steps]
    known = tuple(words) or tuple(sorted({text for text in texts if text not in MISSING}))
    position = {word: float(number) for number, word in enumerate(known)}
    column = np.array([position.get(text, np.nan) for text in texts])
    for row in np.flatnonzero(np.isnan(column)):
        if texts[row] not in MISSING:
            expected = f"one of the words trained on: {shortened_list(known)}"
            raise invalid(table.place(name, int(row)), got=shortened(texts[row]), expected=expected)
    return known, column


def _targets(table: SeriesTable, layout: Layout, offsets: np.ndarray) -> np.ndarray | None:
    if not layout.targets:
        return None
    steps = int(offsets[-1])
    if layout.labels:
        (name,) = layout.targets
        found = np.array(_of_sequences(table, name, table.texts(name), offsets))
        for number, label in enumerate(found.tolist()):
            if label in MISSING:
                index = number if name in table.attributes else int(offsets[number])
                raise invalid(table.place(name, index), got=shortened(label), expected="a class")
        return found
    columns = []
    for name in layout.targets:
        numbers = table.numbers(name)
        if layout.every_step:
            if name not in table.columns:
                raise invalid("task.targets", got=f"{name!r}, one a sequence", expected="a value at every step")
            columns.append(numbers[:steps])
        else:
            columns.append(np.array(_of_sequences(table, name, numbers.tolist(), offsets)))
    return np.stack(columns, axis=1).astype(np.float32)


def _of_sequences(table: SeriesTable, name: str, entries: Sequence, offsets: np.ndarray) -> list:
    """One entry for each sequence; `ValueError` for a column that changes within one."""
    if name in table.attributes:
        return list(entries[: len(offsets) - 1])
    found = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        one = entries[begin]
        odd = next((row for row in range(begin, end) if entries[row] != one and entries[row] == entries[row]), None)
        if odd is not None:
            hint = "name the column that tells sequences apart in task.sequence"
            got = f"{shortened(entries[odd])}, after {shortened(one)} in the same sequence"
            raise invalid(table.place(name, odd), got=got, expected="one value a sequence", hint=hint)
        found.append(one)
    return found
