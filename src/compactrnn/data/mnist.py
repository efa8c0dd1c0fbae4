"""The MNIST digits, from the files that LeCun, Cortes and Burges published."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._errors import invalid
from .folder import data_folder
from .text import read_unpacked

_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Mnist:
    """Images, uint8 (count, 784), and labels, int64 (count,), of the training file and of the test file."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load_mnist() -> Mnist:
    """Read the four files in `mnist/` of the data folder."""
    return Mnist(*((_images(f"{part}-images-idx3-ubyte"), _labels(f"{part}-labels-idx1-ubyte"))
                   for part in ("train", "t10k")))  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in an IDX file, plain or gzip-compressed: magic 0 0 8 n, n sizes as big-endian int32, data."""
    raw = read_unpacked(path, "IDX file", _MAX_BYTES)
    axes = raw[3] if len(raw) > 4 and raw[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}i", raw[4:start]) if axes and len(raw) >= start else ()
    if not shape or min(shape) < 0 or len(raw) - start != math.prod(shape):
        raise invalid("IDX file", got=f"{path}, {len(raw)} bytes", expected="unsigned bytes of the shape that it names")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _images(name: str) -> np.ndarray:
    images = read_idx(_find(name))
    return images.reshape(len(images), int(np.prod(images.shape[1:])))


def _labels(name: str) -> np.ndarray:
    return read_idx(_find(name)).astype(np.int64)


def _find(name: str) -> Path:
    folder = data_folder() / "mnist"
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise invalid(
        "MNIST",
        got=f"no {name} or {name}.gz in {folder}",
        expected="the four IDX files",
        hint="set COMPACTRNN_DATA to the folder that holds mnist/, or run: compactrnn data get mnist",
    )
