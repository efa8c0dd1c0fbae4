"""`compactrnn report`."""

from pathlib import Path
from typing import Annotated

import typer

from .._errors import invalid
from .output import print_line


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    inside: Annotated[bool, typer.Option("--inside", help="Show what each layer does on an example.")] = False,
    example: Annotated[
        int | None, typer.Option(help="Which sequence of the test part, from 1; with --inside.", show_default="1")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="What a language model is to read; with --inside.", show_default="some of the test part"),
    ] = None,
) -> None:
    """Write tables and plots of finished runs to one self-contained HTML page.

    With --inside it has the states, gates, gradients and eigenvalues of each recurrent layer: docs/inside.md.

    Examples:

        compactrnn report runs/tiny runs/wide --out report.html

        compactrnn report runs/tiny --inside --example 3
    """
    from ..report.inside.section import Choice
    from ..report.page import write_page

    for name, value in (("--example", example), ("--text", text)):
        if value is not None and not inside:
            raise invalid(name, got=repr(value), expected="it with --inside")
    if example is not None and text is not None:
        raise invalid("--text", got="--example, too", expected="one of them")
    choice = Choice(1 if example is None else example, text) if inside else None
    write_page(runs, out, choice)
    print_line(out)
