"""Samples from .wav files and to them: one channel, 16 bits."""

from __future__ import annotations

import io
import os
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO

import numpy as np

from .._errors import invalid
from .._files import open_regular

STANDARD_INPUT = "-"
UNKNOWN = 0x7FFF0000  # from so many bytes on, a header was written before the audio was there
MOST_BYTES = 0xFFFFFFFF - 64  # that a header can tell


@contextmanager
def wav_chunks(path: str, rate: float, count: int) -> Iterator[tuple[Iterator[np.ndarray], int | None]]:
    """The samples of a .wav file, or of standard input, `-`: int16, `count` at a time; and how many, where it is known.

    Raises:
        ValueError: another kind of file or another rate, or a file shorter than its header says.
        OSError: it cannot be opened.
    """
    live = path == STANDARD_INPUT
    with nullcontext(sys.stdin.buffer) if live else open_regular(path, "recording") as file:
        reader = _reader(file, path, rate)
        size = reader.getnframes()
        yield _chunks(reader, count), None if live or 2 * size >= UNKNOWN else size


def read_wav(path: str | os.PathLike[str], rate: float) -> np.ndarray:
    """All samples of a .wav file that has some, (samples,), int16; errors as of `wav_chunks`."""
    with wav_chunks(os.fspath(path), rate, 1 << 20) as (chunks, _):
        samples = np.concatenate([np.empty(0, np.int16), *chunks])
    if not len(samples):
        raise invalid("recording", got=f"{path} without samples", expected="at least one")
    return samples


def _reader(file: IO[bytes], path: str, rate: float) -> wave.Wave_read:
    """A reader at the first sample."""
    hint = f"ffmpeg -i IN -ac 1 -ar {rate:g} -c:a pcm_s16le OUT.wav converts any"
    wanted = f"PCM of one channel, 16 bits and {rate:g} samples a second"
    try:
        reader = wave.open(file, "rb")
    except (wave.Error, EOFError) as error:
        why = str(error) or "it ends within its header"
        raise invalid("recording", got=f"{path}, no PCM .wav file ({why})", expected=wanted, hint=hint) from None
    channels, width, found = reader.getnchannels(), reader.getsampwidth(), reader.getframerate()
    if (channels, width, found) != (1, 2, rate):
        got = f"{path} of {channels} channels, {8 * width} bits and {found} samples a second"
        raise invalid("recording", got=got, expected=wanted, hint=hint)
    size = 2 * reader.getnframes()
    if path != STANDARD_INPUT and size < UNKNOWN:
        there = os.fstat(file.fileno()).st_size - file.tell()
        if there < size:
            raise invalid("recording", got=f"{path} with {there} bytes of audio", expected=f"the {size} of its header")
    return reader


def _chunks(reader: wave.Wave_read, count: int) -> Iterator[np.ndarray]:
    while content := reader.readframes(count):
        yield np.frombuffer(content[: len(content) // 2 * 2], "<i2").astype(np.int16, copy=False)


def as_wav(samples: np.ndarray, rate: int) -> bytes:
    """A .wav file of samples from -1 to 1; louder ones are clipped."""
    whole = np.clip(np.round(samples * np.float64(32768)), -32768, 32767).astype("<i2")
    if whole.nbytes > MOST_BYTES:
        raise invalid(
            "recording", got=f"{len(whole):,} samples", expected=f"at most {MOST_BYTES // 2:,} in a .wav file"
        )
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(whole.tobytes())
    return content.getvalue()
