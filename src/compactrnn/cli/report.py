"""`compactrnn report`."""

from pathlib import Path
from typing import Annotated

import typer

from .output import print_line


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write tables and plots of finished runs to one self-contained HTML page.

    Example:

        compactrnn report runs/tiny runs/wide --out report.html
    """
    from ..report.page import write_page

    write_page(runs, out)
    print_line(out)
