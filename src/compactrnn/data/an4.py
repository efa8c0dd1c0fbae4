"""AN4: spelled names, numbers and commands, recorded at Carnegie Mellon University in 1991."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._errors import invalid
from .arrays import read_arrays
from .folder import data_folder

_KEYS = ("mfcc", "offsets", "ids", "text", "split")
MEL_FILTERS, LOWEST, HIGHEST = 40, 130.0, 6800.0  # of its cepstra: number of filters, and their range in Hz


@dataclass(frozen=True)
class Utterance:
    """Features, float32 (frames, coefficients), at 100 frames a second, and the words that were said."""

    name: str
    speaker: str
    features: np.ndarray
    text: str


@dataclass(frozen=True)
class An4:
    """The utterances of the training part (948 of 74 speakers) and of the test part (130 of 10 others)."""

    train: tuple[Utterance, ...]
    test: tuple[Utterance, ...]


def load_an4() -> An4:
    """Read `an4/an4_mfcc13.npz` in the data folder.

    It has the 13 cepstra of CMU's own front end, of all frames one after the other (`mfcc`, float32 (frames, 13)), the
    frames where each utterance begins and where the last one ends (`offsets`), and of each utterance its path in the
    corpus (`ids`, "an4_clstk/SPEAKER/NAME"), its words (`text`) and its part (`split`, 0 training, 1 test).

    Raises:
        ValueError: the file is missing, damaged, or not of this form.
    """
    path = data_folder() / "an4" / "an4_mfcc13.npz"
    if not path.is_file():
        raise invalid(
            "AN4",
            got=f"no an4_mfcc13.npz in {path.parent}",
            expected="the file of cepstra and transcripts",
            hint="set COMPACTRNN_DATA to the folder that holds an4/, or see: compactrnn data list",
        )
    return _utterances(path, read_arrays(path, "AN4", _KEYS))


def _utterances(path: Path, arrays: Mapping[str, np.ndarray]) -> An4:
    features, offsets, ids, texts, split = (arrays[key] for key in _KEYS)
    count = len(ids) if ids.ndim == 1 else -1
    one_each = texts.shape == split.shape == (count,) and offsets.shape == (count + 1,)
    numbers = features.ndim == 2 and features.dtype == np.float32 and bool(np.isfinite(features).all())
    whole = all(np.issubdtype(a.dtype, np.integer) for a in (offsets, split))
    named = all(a.dtype.kind == "U" for a in (ids, texts))
    if not (one_each and numbers and whole and named):
        got = ", ".join(f"{key} {arrays[key].dtype} {arrays[key].shape}" for key in _KEYS)
        expected = (
            "finite float32 (frames, coefficients), and of each utterance an offset, a name, its words and 0 or 1"
        )
        raise invalid("AN4", got=f"{path}: {got}", expected=expected)
    if offsets[0] != 0 or offsets[-1] != len(features) or bool((np.diff(offsets) < 1).any()):
        raise invalid(
            "AN4: offsets", got=f"{path}", expected=f"increasing numbers from 0 to {len(features)}, the frames"
        )
    parts: tuple[list[Utterance], list[Utterance]] = ([], [])
    for number, name in enumerate(ids.tolist()):
        pieces = name.split("/")
        if len(pieces) != 3 or split[number] not in (0, 1) or not str(texts[number]).split():
            got = f"{path}: {name!r} of part {split[number]}, text {str(texts[number])!r}"
            raise invalid("AN4", got=got, expected="FOLDER/SPEAKER/NAME, part 0 or 1 and at least one word")
        frames = features[offsets[number] : offsets[number + 1]]
        words = " ".join(str(texts[number]).split())
        parts[int(split[number])].append(Utterance(pieces[2], pieces[1], frames, words))
    if not all(parts):
        raise invalid("AN4", got=f"{path} of {len(parts[0])} and {len(parts[1])} utterances", expected="both parts")
    return An4(tuple(parts[0]), tuple(parts[1]))
