"""Benchmark rows as tables on the console."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..._text import printable
from .run import Row

_HEADER = ("entry", "hot", "[quartiles]", "cold", "in C", "roofline", "x any", "x as fine", "x f32")


def show(rows: Sequence[Row], console: Console) -> None:
    """A table for each model and number of steps, fastest first, then what could not run and why."""
    for (model, steps), group in groupby(rows, key=lambda row: (row.model, row.steps)):
        mine = list(group)
        title = f"{model}, {steps} step{'s' * (steps > 1)} a call: microseconds"
        table = Table(
            title=Text(printable(title)),
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for position, name in enumerate(_HEADER):
            table.add_column(Text(name), justify="right" if position else "left", no_wrap=True)
        for row in sorted((row for row in mine if row.hot), key=lambda row: (row.hot or {})["median"]):
            table.add_row(*map(Text, _cells(row)), style="bold" if row.ours else None)
        console.print(table)
        for row in mine:
            if row.note:
                console.print(printable(f"  {row.entry}: {row.note}"), markup=False, highlight=False, soft_wrap=True)
        console.print()
    console.print("roofline: share of the rate of a plain read; x any, x as fine, x f32: times faster than the fastest")
    console.print("framework in any config, with weights of at least as many bits, and in float32")


def number(value: float) -> str:
    """Three significant digits.

    >>> number(0.7812), number(1234.5)
    ('0.781', '1,234')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cells(row: Row) -> list[str]:
    hot = row.hot or {}
    return [
        row.entry,
        number(hot["median"]),
        f"[{number(hot['lower_quartile'])} {number(hot['upper_quartile'])}]",
        *("" if timing is None else number(timing["median"]) for timing in (row.cold, row.in_c)),
        "" if row.fraction is None else f"{row.fraction:.0%}",
        *(
            "" if ratio is None else f"{ratio:.2f}"
            for ratio in (row.against_fastest, row.against_as_fine, row.against_float32)
        ),
    ]
