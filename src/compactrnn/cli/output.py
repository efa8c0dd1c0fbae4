"""Standard output: a table, or one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._text import printable

JsonFlag = Annotated[bool, typer.Option("--json", help="One line of JSON on standard output, and nothing else there.")]

_LONGEST = 500  # characters of a cell


def print_json(record: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(record, allow_nan=False))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; numbers stand to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=_shown(title), title_justify="left", title_style="bold")
    for number, name in enumerate(header):
        numeric = bool(rows) and all(isinstance(row[number], (int, float)) for row in rows)
        table.add_column(_shown(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(_text(cell)) for cell in row))
    Console().print(table)


def print_record(title: str, record: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    print_table(title, ("", ""), record.items())


def print_line(text: object, err: bool = False) -> None:
    """One line, without what could steer a terminal."""
    typer.echo(printable(text), err=err)


def _shown(text: str) -> Text:
    """Text that is no markup; the beginning of what is very long."""
    return Text(printable(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."))


def _text(cell: Any) -> str:
    if isinstance(cell, bool) or cell is None:
        return "" if cell is None else str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.4g}" if isinstance(cell, float) else str(cell)
