"""Reading of model files, with the header checked before the rest is read."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .._errors import ModelFileError
from .._files import open_regular
from . import layout as lay


def read_source(source: Any) -> tuple[str, bytes]:
    """A name for messages, and all bytes of a path or buffer that begins as a model file of this size does.

    Raises:
        ModelFileError: another kind of file; or it is longer or shorter than its header says.
        OSError: it cannot be opened.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        view = memoryview(source)
        try:
            view = view.cast("B")
        except TypeError:
            raise ModelFileError("model file: expected contiguous bytes") from None
        _check_start(bytes(view[: lay.LINE]), view.nbytes, "model file")
        return "model file", source if isinstance(source, bytes) else bytes(view)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source: expected a path or bytes, got {type(source).__name__}")
    name = os.fsdecode(source)
    try:
        file = open_regular(source, "model file")
    except ValueError as error:
        raise ModelFileError(str(error)) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(lay.LINE)
        _check_start(start, size, name)
        data = start + file.read(size - len(start))
    if len(data) != size:
        raise ModelFileError(f"{name}: it changed while it was read")
    return name, data


def _check_start(start: bytes, size: int, name: str) -> None:
    if start[: len(lay.MAGIC)] != lay.MAGIC:
        raise ModelFileError(f"{name}: not a compactrnn model file")
    if len(start) < lay.LINE:
        raise ModelFileError(f"{name}: the file is shorter or longer than its header says")
    header = np.frombuffer(start, lay.HEADER, 1)[0]
    if int(header["version"]) != lay.VERSION:
        raise ModelFileError(
            f"{name}: the file has another format version than this library reads: pack the model again"
        )
    if int(header["file_bytes"]) != size:
        raise ModelFileError(f"{name}: the file is shorter or longer than its header says")
