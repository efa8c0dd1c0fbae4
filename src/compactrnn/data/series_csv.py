"""Tables of comma-separated values, a step a line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from .._errors import invalid
from .._text import shortened
from .series_table import SeriesTable
from .text import read_text

_DELIMITERS = ",;\t"


def read_csv(path: str | Path) -> SeriesTable:
    """Read a .csv or .csv.gz file: a line with the names of the columns, then a line for each step.

    Commas, semicolons or tabs separate the fields, whichever the first line has most of; empty lines are left out.

    Raises:
        ValueError: a line has another number of fields, a name is missing or there twice, or there is no row.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("time,x\\n0,1.5\\n1,NA\\n")
    >>> read_csv(path).numbers("x").tolist()
    [1.5, nan]
    """
    text = read_text(path)
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for fields in reader:
            if not fields:
                continue
            if not names:
                names = _names(path, reader.line_num, fields)
                continue
            if len(fields) != len(names):
                hint = f"fields are separated by {delimiter!r}"
                got = f"{len(fields)} fields"
                raise invalid(f"{path}, line {reader.line_num}", got=got, expected=f"{len(names)}", hint=hint)
            rows.append(fields)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise invalid(f"{path}, line {reader.line_num}", got=str(error), expected="comma-separated values") from error
    if not rows:
        raise invalid(str(path), got="no row", expected="a line with the names of the columns, and rows")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return SeriesTable(str(path), columns, {}, len(rows), lines=np.array(lines, np.int64))


def _names(path: str | Path, line: int, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    where = f"{path}, line {line}"
    if all(_is_number(name) for name in names):
        hint = "add a first line with a name for each column"
        raise invalid(where, got=f"numbers only, {shortened(names[0])} first", expected="names of columns", hint=hint)
    if "" in names or len(set(names)) < len(names):
        odd = next(name for number, name in enumerate(names) if not name or name in names[:number])
        raise invalid(where, got=f"{odd!r} in column {names.index(odd) + 1}", expected="a name for each column, once")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
