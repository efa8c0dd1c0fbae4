"""How models take audio and give audio: frames that overlap, their spectra, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from .._errors import check_positive, invalid
from .._text import shortened
from .program import Input, Output

KEY = "audio"  # of a model file's metadata
TAKES = ("samples", "spectrum", "magnitude", "log-power")
GIVES = ("samples", "spectrum", "mask")
WINDOWS: dict[str, Callable[[int], np.ndarray]] = {
    "none": np.ones,
    "hann": lambda width: 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width),
    "sqrt-hann": lambda width: np.sin(np.pi * np.arange(width) / width),
    "sqrt-hann-symmetric": lambda width: np.sqrt(np.hanning(width)),
}
Layouts = dict[tuple[int, ...], int | None]
LEAST_POWER = 1e-12
MOST_RATE, MOST_WIDTH = 1_000_000, 1 << 16


@dataclass(frozen=True)
class Audio:
    """How a model takes and gives audio; in the metadata of a model file it is the entry "audio".

    Frame k has the samples `x[k hop], ..., x[k hop + width - 1]`; the model takes something of it at step k, and gives
    what becomes of it:

        X_k = rfft(window * frame_k)
        y   = sum over k of window * irfft(Y_k) / e,   e[n] = sum over k of window[n - k hop]^2

    `Y_k` is what the model gives, or its mask times `X_k`, so a mask of ones changes nothing. Samples that a model
    gives are those of a frame, and are added up as they are. Analysis and synthesis are of J. Allen, Short term
    spectral analysis, synthesis, and modification by discrete Fourier transform, 1977.

    Attributes:
        rate: samples a second.
        width: samples of a frame; a spectrum has `width // 2 + 1` bins.
        hop: samples from the beginning of a frame to that of the next.
        window: "none", "hann", "sqrt-hann", both periodic, or "sqrt-hann-symmetric", as of `numpy.hanning`.
        takes: "samples"; "spectrum", real and imaginary parts on an axis of length two, the first or the last;
            "magnitude", `|X|`; or "log-power", `log10(max(|X|^2, 1e-12))`.
        gives: "samples", "spectrum", or "mask": a factor for each bin, complex where there are two numbers.
        least_gain: what smaller factors of a mask that is not complex are raised to.

    Raises:
        ValueError: a value of another type, or out of range; frames so far apart that samples are lost.

    >>> audio = Audio(rate=16000, width=512, hop=256, window="sqrt-hann", takes="spectrum", gives="spectrum")
    >>> Audio.from_metadata(audio.metadata()) == audio
    True
    >>> audio.features(np.zeros(1000), (257, 2)).shape
    (5, 257, 2)
    """

    rate: int
    width: int
    hop: int
    window: str = "none"
    takes: str = "samples"
    gives: str = "samples"
    least_gain: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("rate", MOST_RATE), ("width", MOST_WIDTH), ("hop", self.width)):
            if check_positive(getattr(self, name), name) > most:
                raise invalid(name, got=getattr(self, name), expected=f"at most {most}")
        for name, known in (("window", tuple(WINDOWS)), ("takes", TAKES), ("gives", GIVES)):
            if getattr(self, name) not in known:
                raise invalid(name, got=shortened(getattr(self, name)), expected=f"one of {', '.join(known)}")
        if self.width < 4 and (self.takes, self.gives) != ("samples", "samples"):
            raise invalid("width", got=self.width, expected="at least 4 where there is a spectrum")
        gain = self.least_gain
        if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 <= gain <= 1:
            raise invalid("least_gain", got=shortened(gain), expected="a number from 0 to 1")
        if self.gives != "samples" and self.envelope().min() < 1e-6:
            raise invalid("hop", got=self.hop, expected=f"less: windows of {self.width} do not cover every sample")

    @property
    def latency(self) -> int:
        """By how many samples what an `AudioStream` gives is behind what it takes."""
        return self.width - 1

    def weights(self) -> np.ndarray:
        """The window, (width,)."""
        return WINDOWS[self.window](self.width)

    def envelope(self) -> np.ndarray:
        """The squares of all windows over a sample, (hop,): of the sample n in `envelope()[n % hop]`."""
        squares = np.zeros(-(-self.width // self.hop) * self.hop)
        squares[: self.width] = self.weights() ** 2
        return squares.reshape(-1, self.hop).sum(0)

    def features(self, samples, shape: Sequence[int]) -> np.ndarray:
        """What a model whose input has this shape takes of a recording: (frames, *shape), to calibrate with.

        `cr.pack(..., audio=audio, calibration=[samples])` does it for the recordings that an ONNX file is given.
        """
        early = self.width - self.hop
        audio = np.pad(as_samples(samples), (early, self.latency))
        frames = frames_of(self, audio) * self.weights()
        return taken(self, frames, np.fft.rfft(frames), shape)

    def check(self, inputs: Sequence[Input], outputs: Sequence[Output]) -> None:
        """Raise `ValueError` where a model with these inputs and outputs does not take and give such audio."""
        if len(inputs) != 1 or len(outputs) != 1 or outputs[0].final or inputs[0].vocabulary:
            names = ", ".join(port.name for port in (*inputs, *outputs))
            got = f"{len(inputs)} inputs and {len(outputs)} outputs ({names})"
            hint = "pack(..., outputs=[...]) leaves others out of an ONNX file"
            raise invalid("model of audio", got=got, expected="one input and one output of numbers a step", hint=hint)
        _layout(self, "takes", inputs[0].shape)
        _layout(self, "gives", outputs[0].shape)

    def metadata(self) -> dict[str, Any]:
        """`{"audio": ...}`, what `cr.pack(..., audio=...)` adds to the metadata of the file."""
        return {KEY: asdict(self)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """That of a packed model; the metadata may be anyone's."""
        section, names = metadata.get(KEY), [f.name for f in fields(cls)]
        if not isinstance(section, Mapping):
            hint = "pack(..., audio=cr.Audio(...)), or `compactrnn pack --audio`, says how it takes and gives audio"
            raise invalid("model metadata", got="no audio", expected=f"an entry {KEY!r}", hint=hint)
        if set(section) - set(names) or not {"rate", "width", "hop"} <= set(section):
            got, expected = shortened(sorted(map(str, section))), f"rate, width, hop, some of {', '.join(names[3:])}"
            raise invalid(f"model metadata: {KEY}", got=got, expected=expected)
        try:
            return cls(**section)
        except (ValueError, TypeError) as error:
            raise ValueError(f"model metadata: {KEY}: {error}") from None

    def __str__(self) -> str:
        frames = f"{self.rate} samples a second, frames of {self.width} every {self.hop}, window {self.window}"
        return f"{frames}: takes {self.takes}, gives {self.gives}"


def as_samples(samples) -> np.ndarray:
    """Audio as float64, (samples,), from -1 to 1; `ValueError` for what it cannot be."""
    array = np.asarray(samples)
    if array.ndim != 1 or (array.dtype.kind != "f" and array.dtype != np.int16):
        raise invalid("audio", got=f"shape {array.shape}, {array.dtype}", expected="(samples,), float or int16")
    with np.errstate(over="ignore"):
        audio = array.astype(np.float32)
    if not np.isfinite(audio).all():
        raise invalid("audio", got="NaN or infinity", expected="finite float32 numbers")
    return audio.astype(np.float64) / (32768 if array.dtype == np.int16 else 1)


def frames_of(audio: Audio, samples: np.ndarray) -> np.ndarray:
    """The whole frames of samples, (frames, width)."""
    if len(samples) < audio.width:
        return np.empty((0, audio.width))
    return np.lib.stride_tricks.sliding_window_view(samples, audio.width)[:: audio.hop]


def _layout(audio: Audio, side: str, shape: Sequence[int]) -> int | None:
    """Where a frame of this shape has real and imaginary parts: on axis 0 or 1 of those longer than one, or nowhere."""
    kind, bins = getattr(audio, side), audio.width // 2 + 1
    plain: Layouts = {(audio.width if kind == "samples" else bins,): None}
    pairs: Layouts = {(bins, 2): 1, (2, bins): 0}
    known = pairs if kind == "spectrum" else {**plain, **pairs} if kind == "mask" else plain
    found = tuple(n for n in shape if n != 1) or (1,)
    if found not in known:
        expected = " or ".join(map(str, known))
        raise invalid(f"model of audio: what it {side}", got=f"shape {tuple(shape)}", expected=f"{expected}, {kind}")
    return known[found]


def taken(audio: Audio, frames: np.ndarray, spectrum: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """What a model takes of frames and their spectra, float32 of (frames, *shape)."""
    axis = _layout(audio, "takes", shape)
    if axis is not None:
        found = np.stack([np.real(spectrum), np.imag(spectrum)], axis + 1)
    elif audio.takes == "samples":
        found = frames
    elif audio.takes == "magnitude":
        found = np.abs(spectrum)
    else:
        found = np.log10(np.maximum(np.real(spectrum) ** 2 + np.imag(spectrum) ** 2, LEAST_POWER))
    return found.astype(np.float32).reshape(-1, *shape)


def given_frames(audio: Audio, found: Any, spectrum: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The frames that a model gives, (frames, width)."""
    axis = _layout(audio, "gives", shape)
    values = np.asarray(found, np.float64).reshape(len(spectrum), *(n for n in shape if n != 1))
    if audio.gives == "samples":
        return values.reshape(-1, audio.width)
    if axis is None:
        factors = np.maximum(values, audio.least_gain)
    else:
        real, imaginary = np.moveaxis(values, axis + 1, 0)
        factors = real + 1j * imaginary
    return np.fft.irfft(factors if audio.gives == "spectrum" else factors * spectrum, audio.width)
