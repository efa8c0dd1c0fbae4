"""The folder that holds the user's data sets."""

import os
from pathlib import Path

from .._errors import invalid


def data_folder() -> Path:
    """`$COMPACTRNN_DATA`, or `compactrnn` in the user's cache folder.

    >>> data_folder().is_absolute()
    True
    """
    name = "COMPACTRNN_DATA" if os.environ.get("COMPACTRNN_DATA") else "XDG_CACHE_HOME"
    given = os.environ.get(name) or "~/.cache"
    try:
        folder = Path(given).expanduser().absolute()
    except RuntimeError as error:
        what = f"data folder, of {name}" if os.environ.get(name) else "data folder"
        got = f"{given}, a home folder that is not known"
        raise invalid(what, got=got, expected="a folder", hint="set COMPACTRNN_DATA") from error
    return folder if name == "COMPACTRNN_DATA" else folder / "compactrnn"
