"""GloVe word vectors."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from .._errors import invalid
from .._files import read_file
from .folder import data_folder

_MAX_BYTES = 1 << 30
_NAME = "glove_6B_50d_subset.npz"


@dataclass(frozen=True)
class WordVectors:
    """Row i of `vectors`, float32 (1 + words, size), belongs to the word of number i; row 0 is zero, for all others."""

    numbers: dict[str, int]
    vectors: np.ndarray

    def of(self, tokens: list[str]) -> np.ndarray:
        """The number of each token, in lower case; 0 for one without a vector."""
        return np.array([self.numbers.get(token.lower(), 0) for token in tokens], int)


def load_glove() -> WordVectors:
    """Read `glove/glove_6B_50d_subset.npz` in the data folder.

    `words` is one text, a word on each line, and `vectors`, floats (words, size), has a row for each.

    Raises:
        ValueError: the file is missing, damaged, or not of this form.

    Pennington, Socher, Manning: GloVe: Global vectors for word representation, 2014.
    """
    path = data_folder() / "glove" / _NAME
    if not path.is_file():
        raise invalid(
            "GloVe",
            got=f"no {_NAME} in {path.parent}",
            expected="the file of word vectors",
            hint="set COMPACTRNN_DATA to the folder that holds glove/, or see: compactrnn data list",
        )
    try:
        raw = read_file(path, "GloVe", _MAX_BYTES)
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_BYTES:
            raise ValueError(f"unpacks to {unpacked:,} bytes")
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            words, vectors = str(archive["words"]).split("\n"), archive["vectors"]
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, ValueError) as error:
        raise invalid("GloVe", got=f"{path} ({error})", expected="an .npz file of words and vectors") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) != len(words) or not np.isfinite(vectors).all():
        got = f"{path}: {len(words)} words, vectors {vectors.dtype} {vectors.shape}"
        raise invalid("GloVe", got=got, expected="finite floats, a row for each word")
    table = np.concatenate([np.zeros((1, vectors.shape[1])), vectors]).astype(np.float32)
    return WordVectors({word: number for number, word in enumerate(words, 1)}, table)
