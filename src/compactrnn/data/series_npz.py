"""Sequences in NumPy archives."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .._errors import invalid
from .._files import read_file
from .series_table import SeriesTable, shortened_list

_MAX_BYTES = 1 << 30
VALUES = ("x", "X", "data", "values")
LENGTHS = ("lengths", "length", "len")
OFFSETS = ("offsets",)
ARCHIVE = ".npz"


def split_archive(path: str) -> tuple[Path, str]:
    """The path of an archive, and that of a folder in it, with a slash at its end, or "".

    >>> split_archive("data/all.npz/small/train")
    (PosixPath('data/all.npz'), 'small/train/')
    """
    before, found, inside = path.partition(f"{ARCHIVE}/")
    inside = inside.strip("/")
    return Path(before + ARCHIVE if found else path), f"{inside}/" if inside else ""


def read_npz(path: str | Path) -> SeriesTable:
    """Read an .npz file, or the arrays below a folder in it: `all.npz/small/train`.

    The values are an array `x` (or X, data, values): (steps, channels) of all sequences one after the other, with their
    lengths in an array `lengths` (or length, len) or where they begin and the last one ends in `offsets`; or
    (sequences, steps, channels) for sequences of one length; NaN is missing. Without lengths (steps, channels) is one
    sequence, unless another array has as many entries as it has rows: then it is a sequence a row, of one channel.
    Arrays with an entry for each sequence are attributes. The channels are called x1, x2, ..., or what an array
    `channels` says.

    Raises:
        ValueError: the file is damaged, holds objects, or its arrays do not fit together.
    """
    archive, folder = split_archive(str(path))
    arrays = _arrays(archive, folder, str(path))
    name = next((name for name in VALUES if name in arrays), None)
    if name is None:
        raise invalid(f"{path}", got=f"arrays {shortened_list(list(arrays))}", expected=f"one of {', '.join(VALUES)}")
    values = arrays.pop(name)
    if values.dtype.kind not in "fiub" or values.ndim not in (1, 2, 3) or not values.size:
        got = f"{values.dtype} {values.shape}"
        raise invalid(f"{path}: {name}", got=got, expected="numbers of one to three axes, at least one of them")
    names = arrays.pop("channels", None)
    offsets = _offsets(arrays, values, str(path))
    values = values.reshape(int(offsets[-1]), -1)
    count = len(offsets) - 1
    attributes = {key: a for key, a in arrays.items() if a.shape == (count,) and a.dtype.kind in "fiubU"}
    channels = [f"x{number}" for number in range(1, values.shape[1] + 1)]
    if names is not None and names.shape == (len(channels),) and names.dtype.kind == "U":
        channels = [str(channel) for channel in names.tolist()]
    if len({*channels, *attributes}) < len(channels) + len(attributes):
        expected = "a name for each channel, once, and for no array"
        raise invalid(f"{path}: channels", got=shortened_list(channels), expected=expected)
    columns = {channel: column for channel, column in zip(channels, values.T, strict=True)}
    return SeriesTable(str(path), columns, attributes, len(values), offsets)


def _arrays(archive: Path, folder: str, path: str) -> dict[str, np.ndarray]:
    try:
        raw = read_file(archive, "NumPy archive", _MAX_BYTES)
        with zipfile.ZipFile(io.BytesIO(raw)) as entries:
            if (unpacked := sum(entry.file_size for entry in entries.infolist())) > _MAX_BYTES:
                raise ValueError(f"unpacks to {unpacked:,} bytes, more than {_MAX_BYTES:,}")
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            inside = {name.removeprefix(folder): name for name in file.files if name.startswith(folder)}
            arrays = {key: file[name] for key, name in inside.items() if "/" not in key}
            known = sorted({name.rpartition("/")[0] for name in file.files})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        got = f"{path} ({getattr(error, 'strerror', None) or error})"
        raise invalid("NumPy archive", got=got, expected="an .npz file of plain arrays") from error
    if not arrays:
        raise invalid(path, got="no array there", expected=f"{archive} with one of {shortened_list(known)}")
    return arrays


def _offsets(arrays: dict[str, np.ndarray], values: np.ndarray, path: str) -> np.ndarray:
    """Where each sequence begins, and the last one ends; takes the array that says so."""
    lengths = next((name for name in LENGTHS if name in arrays), None)
    begins = next((name for name in OFFSETS if name in arrays), None)
    steps = values.shape[0] if values.ndim < 3 else values.shape[0] * values.shape[1]
    if values.ndim == 3:
        return np.arange(values.shape[0] + 1) * values.shape[1]
    if lengths is None and begins is None:
        each = values.ndim == 2 and any(a.shape == (len(values),) for a in arrays.values())
        return np.arange(len(values) + 1) * values.shape[1] if each else np.array([0, steps])
    name = lengths or begins
    assert name is not None
    given = arrays.pop(name)
    if given.dtype.kind not in "iu" or given.ndim != 1 or not len(given):
        raise invalid(f"{path}: {name}", got=f"{given.dtype} {given.shape}", expected="whole numbers, one axis")
    found = given.astype(np.int64) if lengths is None else np.cumsum([0, *given.tolist()])
    if found[0] != 0 or found[-1] != steps or len(found) < 2 or bool((np.diff(found) < 1).any()):
        shortest = int(np.diff(found).min(initial=0))
        got = f"{len(found) - 1} sequences of {int(found[-1])} steps, the shortest of {shortest}"
        raise invalid(f"{path}: {name}", got=got, expected=f"sequences of at least one step, {steps} in all")
    return found
