"""Recordings from files, in chunks: audio from .wav, audio or features from .npy and .npz."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .._errors import invalid
from .._files import read_file
from ..runtime.wav import STANDARD_INPUT, wav_chunks
from .recognizer import Recognizer

MAX_ARRAY_BYTES = 1 << 30
CHUNK_SECONDS = 0.1


@contextmanager
def opened(path: str, recognizer: Recognizer) -> Iterator[Iterator[np.ndarray]]:
    """The chunks of a recording, a tenth of a second each, once it is known to be what the recognizer takes.

    `path` is a .wav file (mono, 16 bits, of the model's sample rate), a .npy file or a .npz file of one array, or `-`,
    a .wav from standard input.

    Raises:
        ValueError: another kind of file, another rate or shape, or a .wav file shorter than its header says.
        OSError: it cannot be opened.
    """
    rate = recognizer.spec.sample_rate
    count = max(1, round(rate * CHUNK_SECONDS))
    name = path.lower()
    if path == STANDARD_INPUT or name.endswith((".wav", ".wave")):
        if recognizer.spec.input != "audio":
            raise invalid("recording", got=f"audio, {path}", expected="a .npy file of features, which this model takes")
        with wav_chunks(path, rate, count) as (chunks, _):
            yield chunks
    elif name.endswith((".npy", ".npz")):
        array = _array(path)
        try:
            recognizer.frames(array[:1] if array.ndim else array)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        yield (array[start : start + count] for start in range(0, len(array), count))
    else:
        wanted = f"a .wav, .npy or .npz file, or {STANDARD_INPUT} for standard input"
        raise invalid("recording", got=repr(path), expected=wanted)


def _array(path: str) -> np.ndarray:
    data = read_file(path, "recording", MAX_ARRAY_BYTES)
    try:
        if path.lower().endswith(".npz"):
            data = _only_member(data)
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise invalid("recording", got=f"{path} ({error or 'damaged'})", expected="an array of numbers") from None
    if not isinstance(array, np.ndarray):  # an archive by another name
        raise invalid("recording", got=f"{path}, an archive", expected="one array", hint="is it a .npz file?")
    return array


def _only_member(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = ", ".join(member.filename.removesuffix(".npy") for member in members[:8])
            raise ValueError(f"{len(members)} arrays: {names}; numpy.save writes one to a .npy file")
        if members[0].file_size > MAX_ARRAY_BYTES:
            raise ValueError(f"{members[0].file_size:,} bytes unpacked, more than {MAX_ARRAY_BYTES:,}")
        return archive.read(members[0])
