"""Polyphonic music: which of 88 keys sound in each time step of a piece."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._errors import invalid
from .arrays import read_arrays
from .folder import data_folder

KEYS = 88
CORPORA = ("JSB_Chorales", "Nottingham", "Piano_midi", "MuseData")
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Music:
    """Pieces of the parts train, valid and test: bool (steps, 88) each, of two steps at least."""

    train: tuple[np.ndarray, ...]
    valid: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]


def load_polymusic(corpus: str) -> Music:
    """Read `polymusic/polymusic.npz` in the data folder: "JSB_Chorales", "Nottingham", "Piano_midi" or "MuseData".

    For each corpus and part it has `CORPUS/PART/bits`, the rows of all pieces one after the other, uint8 (steps, 11) as
    `numpy.packbits` makes them of 88 keys, and `CORPUS/PART/len`, the number of steps of each piece.

    Raises:
        ValueError: another corpus; the file is missing, damaged, or not of this form.
    """
    if corpus not in CORPORA:
        raise invalid("corpus", got=repr(corpus), expected=f"one of {', '.join(CORPORA)}")
    path = data_folder() / "polymusic" / "polymusic.npz"
    if not path.is_file():
        raise invalid(
            "polyphonic music",
            got=f"no polymusic.npz in {path.parent}",
            expected="the file of piano rolls",
            hint="set COMPACTRNN_DATA to the folder that holds polymusic/, or see: compactrnn data list",
        )
    names = [f"{corpus}/{part}/{kind}" for part in PARTS for kind in ("bits", "len")]
    arrays = read_arrays(path, "polyphonic music", names)
    pieces = {}
    for part in PARTS:
        bits, lengths = arrays[f"{corpus}/{part}/bits"], arrays[f"{corpus}/{part}/len"]
        sound = bits.dtype == np.uint8 and bits.shape[1:] == (-(-KEYS // 8),) and lengths.dtype.kind in "iu"
        sound = sound and lengths.ndim == 1 and len(lengths) and int(lengths.min()) >= 2
        if not sound or int(lengths.sum(dtype=np.int64)) != len(bits):
            got = f"{path}: {corpus}/{part} {bits.dtype} {bits.shape}, lengths {lengths.dtype} {lengths.shape}"
            expected = f"uint8 (steps, {-(-KEYS // 8)}), and pieces of two steps or more that are as long together"
            raise invalid("polyphonic music", got=got, expected=expected)
        rows = np.unpackbits(bits, axis=1)[:, :KEYS].astype(bool)
        pieces[part] = tuple(np.split(rows, np.cumsum(lengths.astype(np.int64))[:-1]))
    return Music(**pieces)
