"""Columns that say when a step was: their order, and gaps between them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from .._errors import invalid
from .._text import shortened
from .series_table import SeriesTable

PARTS = ("year", "month", "day", "hour", "minute", "second")  # columns that make a time together
GAP = 1.5  # times the usual step


def read_times(table: SeriesTable, names: Sequence[str]) -> np.ndarray:
    """Seconds, or the numbers of a column of numbers: float64 (steps,).

    One column has numbers or dates of ISO 8601, `2016-07-01 00:00:00`; several are called year, month, day, hour, ...

    Raises:
        ValueError: an entry is no time; says where it stands.
    """
    if len(names) > 1:
        return _of_parts(table, names)
    (name,) = names
    if table.share_of_numbers(name) == 1:
        times = table.numbers(name)
        if (missing := np.isnan(times)).any():
            raise invalid(table.place(name, int(missing.argmax())), got="nothing", expected="a time")
        return times
    return np.array([_seconds(table, name, row, text) for row, text in enumerate(table.texts(name))])


def starts_after_gaps(table: SeriesTable, names: Sequence[str], begins: np.ndarray) -> np.ndarray:
    """The steps before which time is missing, more than half a usual step; `begins` are those of the sequences.

    Raises:
        ValueError: a step is not later than the one before it.
    """
    times = read_times(table, names)
    steps = np.diff(times)
    inner = np.ones(len(times) - 1, bool)
    inner[begins[begins > 0] - 1] = False
    if (back := inner & ~(steps > 0)).any():
        row = int(back.argmax()) + 1
        place = table.place(names[-1], row)
        hint = "sort the lines, name a column in task.sequence, or leave task.time empty"
        raise invalid(place, got="a time not after the one before it", expected="a later one", hint=hint)
    usual = np.median(steps[inner]) if inner.any() else 0.0
    return 1 + np.flatnonzero(inner & (steps > GAP * usual))


def _seconds(table: SeriesTable, name: str, row: int, text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        expected = "a date and time such as 2016-07-01 00:00:00"
        hint = "leave task.time empty if the steps are in order and evenly spaced"
        raise invalid(table.place(name, row), got=shortened(text), expected=expected, hint=hint) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _of_parts(table: SeriesTable, names: Sequence[str]) -> np.ndarray:
    known = {name.lower(): name for name in names}
    if list(known) != list(PARTS[: len(known)]) or len(known) < len(names):
        raise invalid("task.time", got=list(names), expected=f"one column, or the first of {', '.join(PARTS)}")
    columns = [table.numbers(name).tolist() for name in names]
    found = []
    for row, values in enumerate(zip(*columns, strict=True)):
        try:
            year, month, day, *clock = (_whole(value) for value in (*values, *(1.0,) * (3 - len(values))))
            found.append(datetime(year, month, day, *clock, tzinfo=UTC).timestamp())
        except (ValueError, OverflowError) as error:
            raise invalid(table.place(names[-1], row), got=f"{list(values)} ({error})", expected="a time") from None
    return np.array(found)


def _whole(value: float) -> int:
    if value != round(value):  # also where it is missing: round raises ValueError
        raise ValueError("not a whole number")
    return int(value)
