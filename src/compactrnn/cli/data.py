"""`compactrnn data`."""

from typing import Annotated

import typer

from .errors import reported
from .output import JsonFlag, print_json, print_line, print_table

app = typer.Typer(help="List data sets and download them.", no_args_is_help=True)


@app.command("list")
@reported
def list_(json: JsonFlag = False) -> None:
    """List the data sets known by name, their licenses, and whether they are in the data folder.

    COMPACTRNN_DATA names the folder; the default is the user's cache folder.
    """
    from ..data import DATASETS, data_folder

    rows = [(d.name, d.present(), d.about, d.license) for d in DATASETS.values()]
    if json:
        names = ("name", "present", "about", "license")
        print_json({"folder": str(data_folder()), "sets": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    shown = [(name, "yes" if present else "no", about, license) for name, present, about, license in rows]
    print_table(f"data folder: {data_folder()}", ("name", "here", "what", "license"), shown)


@app.command("get")
@reported
def get(name: Annotated[str, typer.Argument(help="A name from: compactrnn data list")], json: JsonFlag = False) -> None:
    """Download a data set, if its license allows, and verify its checksum.

    Example:

        compactrnn data get tinyshakespeare
    """
    from ..data import fetch

    paths = [str(path) for path in fetch(name)]
    if json:
        print_json({"name": name, "paths": paths})
    else:
        for line in paths or [f"{name} comes with the package"]:
            print_line(line)
