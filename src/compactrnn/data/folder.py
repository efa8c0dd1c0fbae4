"""The folder that holds the user's data sets."""

import os
from pathlib import Path


def data_folder() -> Path:
    """`$COMPACTRNN_DATA`, or `compactrnn` in the user's cache folder.

    >>> data_folder().is_absolute()
    True
    """
    named = os.environ.get("COMPACTRNN_DATA")
    if named:
        return Path(named).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache").absolute() / "compactrnn"
