"""The Free Spoken Digit Dataset, and strings of connected digits made from it."""

from __future__ import annotations

import re
import wave
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from .._errors import invalid
from .._files import read_file
from .folder import data_folder

_MAX_BYTES = 1 << 28
RATE, DIGITS, TAKES, TEST_TAKES = 8000, 10, 50, 5
SHORTEST_STRING, LONGEST_STRING = 3, 7
_NAME = re.compile(r"(\d)_([a-z]+)_(\d{1,2})\.wav")
_ARRAYS = ("audio", "offsets", "digit", "speaker", "take", "rate", "speakers")


@dataclass(frozen=True)
class SpokenDigits:
    """Recordings at 8 kHz: recording i is `audio[offsets[i]:offsets[i + 1]]`, int16, of 0.14 to 2.3 seconds.

    `digit`, `speaker` and `take`, int64 (recordings,), are what is said, by which of `speakers` (a number from 0), and
    the number of the recording among those of the same digit and speaker.
    """

    audio: np.ndarray
    offsets: np.ndarray
    digit: np.ndarray
    speaker: np.ndarray
    take: np.ndarray
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.digit)

    def samples(self, index: int) -> np.ndarray:
        """A recording as float32 numbers from -1 to 1."""
        return self.audio[self.offsets[index] : self.offsets[index + 1]].astype(np.float32) / np.float32(32768)

    def official(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the recordings to train on, takes from 5 on, and of those to test on, takes 0 to 4."""
        return np.flatnonzero(self.take >= TEST_TAKES), np.flatnonzero(self.take < TEST_TAKES)

    def fold(self, speaker: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the recordings of all others, to train on, and of `speaker`, to test on."""
        if not 0 <= speaker < len(self.speakers):
            raise invalid("speaker", got=speaker, expected=f"0 to {len(self.speakers) - 1}: {', '.join(self.speakers)}")
        return np.flatnonzero(self.speaker != speaker), np.flatnonzero(self.speaker == speaker)


@dataclass(frozen=True)
class DigitString:
    """Digits said one after the other: `recordings` of one speaker, and samples of silence before each and at the end.

    `pauses` has one number more than `recordings`.
    """

    recordings: tuple[int, ...]
    pauses: tuple[int, ...]

    def samples(self, digits: SpokenDigits) -> np.ndarray:
        """The audio, float32."""
        parts = [np.zeros(self.pauses[0], np.float32)]
        for index, pause in zip(self.recordings, self.pauses[1:], strict=True):
            parts += [digits.samples(index), np.zeros(pause, np.float32)]
        return np.concatenate(parts)

    def labels(self, digits: SpokenDigits) -> np.ndarray:
        """The digits, int64."""
        return digits.digit[list(self.recordings)]


def digit_strings(
    digits: SpokenDigits, numbers: np.ndarray, count: int, random: np.random.Generator
) -> list[DigitString]:
    """`count` strings of 3 to 7 of the recordings `numbers`, each string of one speaker, with pauses of 50 to 300 ms.

    Give the numbers of one part of a split, so that no recording is in strings of two parts.
    """
    by_speaker = [found for s in range(len(digits.speakers)) if len(found := numbers[digits.speaker[numbers] == s])]
    strings = []
    for _ in range(count):
        own = by_speaker[random.integers(len(by_speaker))]
        chosen = random.choice(own, random.integers(SHORTEST_STRING, LONGEST_STRING + 1))
        pauses = random.integers(RATE // 20, RATE * 3 // 10 + 1, len(chosen) + 1)
        strings.append(DigitString(tuple(map(int, chosen)), tuple(map(int, pauses))))
    return strings


def load_fsdd() -> SpokenDigits:
    """Read the recordings in `fsdd/` of the data folder: a clone of the repository, or `fsdd.npz`.

    The repository has a file `recordings/{digit}_{speaker}_{take}.wav` each. The arrays of `fsdd.npz` are `audio`,
    int16, all recordings end to end, their `offsets`, for each its `digit`, `speaker` (a number into `speakers`) and
    `take`, and `rate`, 8000.

    Raises:
        ValueError: there is neither, or a file is not of this form.
    """
    folder = data_folder() / "fsdd"
    if (folder / "fsdd.npz").is_file():
        return _from_arrays(folder / "fsdd.npz")
    if (folder / "recordings").is_dir():
        return _from_recordings(folder / "recordings")
    raise invalid(
        "Free Spoken Digit Dataset",
        got=f"neither fsdd.npz nor recordings in {folder}",
        expected="one of them",
        hint="set COMPACTRNN_DATA to the folder that holds fsdd/, or see: compactrnn data get fsdd",
    )


def _from_arrays(path: Path) -> SpokenDigits:
    raw = read_file(path, "FSDD file", _MAX_BYTES)
    try:
        with np.load(BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        got = f"{path} ({type(error).__name__}: {error})"
        raise invalid("FSDD file", got=got, expected=f"an .npz file of {', '.join(_ARRAYS)}") from error
    return _checked(arrays, path)


def _from_recordings(folder: Path) -> SpokenDigits:
    parts = [found.groups() for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))]
    speakers = sorted({speaker for _, speaker, _ in parts})
    parts.sort(key=lambda part: (part[1], int(part[0]), int(part[2])))
    audio = [_read_wav(folder / f"{digit}_{speaker}_{take}.wav") for digit, speaker, take in parts]
    arrays = {
        "audio": np.concatenate([np.zeros(0, np.int16), *audio]),
        "offsets": np.cumsum([0, *map(len, audio)]),
        "digit": np.array([int(digit) for digit, _, _ in parts]),
        "speaker": np.array([speakers.index(speaker) for _, speaker, _ in parts]),
        "take": np.array([int(take) for _, _, take in parts]),
        "rate": np.array(RATE),
        "speakers": np.array(speakers),
    }
    return _checked(arrays, folder)


def _read_wav(path: Path) -> np.ndarray:
    try:
        with wave.open(BytesIO(read_file(path, "WAV file", _MAX_BYTES))) as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise invalid("WAV file", got=f"{path} ({error})", expected=f"16-bit PCM, mono, {RATE} Hz") from error
    if form != (1, 2, RATE) or len(raw) % 2:
        got = f"{path}: {form[0]} channels of {form[1]} bytes at {form[2]} Hz"
        raise invalid("WAV file", got=got, expected=f"16-bit PCM, mono, {RATE} Hz")
    return np.frombuffer(raw, "<i2").astype(np.int16)


def _checked(arrays: dict[str, np.ndarray], path: Path) -> SpokenDigits:
    audio, offsets, rate, names = (arrays[name] for name in ("audio", "offsets", "rate", "speakers"))
    labels = [arrays[name] for name in ("digit", "speaker", "take")]
    count = len(labels[0]) if labels[0].ndim == 1 else 0
    sound = (
        audio.dtype == np.int16
        and audio.ndim == 1
        and count > 0
        and offsets.dtype.kind in "iu"
        and offsets.shape == (count + 1,)
        and (int(offsets[0]), int(offsets[-1])) == (0, len(audio))
        and bool((np.diff(offsets.astype(np.int64)) > 0).all())
        and rate.size == 1
        and rate.reshape(-1)[0] == RATE
        and all(
            values.dtype.kind in "iu" and values.shape == (count,) and 0 <= values.min() and values.max() < bound
            for values, bound in zip(labels, (DIGITS, names.size, TAKES), strict=True)
        )
    )
    if not sound:
        got = f"{path}: audio {audio.dtype} {audio.shape}, offsets {offsets.shape}, {count} labels, rate {rate}"
        raise invalid("FSDD", got=got, expected=f"int16 audio at {RATE} Hz, and a digit, speaker and take each")
    digit, speaker, take = (values.astype(np.int64) for values in labels)
    return SpokenDigits(audio, offsets.astype(np.int64), digit, speaker, take, tuple(map(str, names.reshape(-1))))
