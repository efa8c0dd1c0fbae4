"""Files of NumPy arrays that a user has placed in the data folder."""

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._errors import invalid
from .._files import read_file

_MAX_BYTES = 1 << 28


def read_arrays(path: Path, what: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays `keys` of an .npz file, of 256 MiB at most; objects are not read.

    Raises:
        ValueError: the file is too large, damaged, or has other arrays.
    """
    try:
        raw = read_file(path, what, _MAX_BYTES)
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_BYTES:
            raise invalid(what, got=f"{path}, which unpacks to {unpacked:,} bytes", expected=f"at most {_MAX_BYTES:,}")
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            return {key: archive[key] for key in keys}
    except KeyError as error:
        raise invalid(what, got=f"{path} ({error.args[0]})", expected=f"arrays {', '.join(keys)}") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        if str(error).startswith(f"{what}: "):
            raise
        raise invalid(what, got=f"{path} ({error})", expected="an .npz file of plain arrays") from error
