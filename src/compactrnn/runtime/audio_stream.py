"""Audio through models, as a stream."""

from __future__ import annotations

import copy

import numpy as np

from .._errors import invalid
from .audio import Audio, as_samples, frames_of, given_frames, taken
from .engine import Engine

BLOCK = 64  # frames that are computed at once


class AudioStream:
    """Audio through a model, in chunks of any length, as it comes; or a whole recording.

    `feed` gives as many samples as it takes, `latency` samples later: `width - 1`, which is what a frame needs that may
    end with any sample. What it gives does not depend on how the audio is cut into chunks.

    Several engines are one after the other within a frame: what the first makes of its samples is the frame of the
    second, as in DTLN, of which one masks the spectrum and the other works on samples.

    Args:
        engines: packed models, with their `Audio` in the metadata, the same rate, frames and window in all.

    Raises:
        UnsupportedModelError: a model that needs whole sequences.
        ValueError: a model whose file does not say how it takes audio, or whose inputs or outputs are not as it says.

    >>> import tempfile, torch, compactrnn as cr
    >>> class Mask(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gru, self.mask = torch.nn.GRU(33, 16, batch_first=True), torch.nn.Linear(16, 33)
    ...
    ...     def forward(self, magnitudes):
    ...         return torch.sigmoid(self.mask(self.gru(magnitudes)[0]))
    >>> path, x = tempfile.mkdtemp() + "/mask.crnn", torch.rand(1, 9, 33)
    >>> audio = cr.Audio(rate=8000, width=64, hop=32, window="sqrt-hann", takes="magnitude", gives="mask")
    >>> report = cr.pack(Mask(), path, x, calibration=[x], audio=audio)
    >>> stream, noisy = cr.AudioStream(cr.Engine(path)), np.random.randn(1000)
    >>> parts = [stream.feed(part) for part in np.split(noisy, [7, 500])] + [stream.finish()]
    >>> [len(part) for part in parts]
    [7, 493, 500, 63]
    >>> bool((np.concatenate(parts)[stream.latency :] == stream.recording(noisy)).all())
    True
    """

    def __init__(self, *engines: Engine):
        if not engines:
            raise invalid("engines", got="none", expected="at least one")
        self.stages = [Audio.from_metadata(engine.metadata) for engine in engines]
        self._engines, self._streams = engines, [engine.stream() for engine in engines]
        self.audio = first = self.stages[0]
        if len({(audio.rate, audio.width, audio.hop, audio.window) for audio in self.stages}) > 1:
            raise invalid("engines", got="; ".join(map(str, self.stages)), expected="the same rate, frames and window")
        for audio, engine in zip(self.stages, engines, strict=True):
            audio.check(engine.inputs, engine.outputs)
        self._window = self._last = first.weights()
        if self.stages[-1].gives != "samples":
            self._last = self._window / np.resize(first.envelope(), first.width)
        self.reset()

    def __copy__(self) -> AudioStream:
        return copy.deepcopy(self)

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self.audio.rate

    @property
    def latency(self) -> int:
        """By how many samples what `feed` gives is behind what it takes."""
        return self.audio.latency

    def reset(self) -> None:
        """Begin another recording."""
        width, hop = self.audio.width, self.audio.hop
        self._waiting, self._ready = np.zeros(width - hop), np.zeros(hop - 1)
        self._sums = np.zeros((-(-width // hop) - 1, hop))  # of the frames so far, where later ones add to them
        for stream in self._streams:
            stream.reset()

    def feed(self, samples) -> np.ndarray:
        """As many samples as are given, float32, of what went in `latency` samples before.

        `samples` are (samples,), float from -1 to 1 or int16.

        Raises:
            ValueError: another shape or type, or numbers that are not finite, given or found.
        """
        given = as_samples(samples)
        self._waiting = np.concatenate([self._waiting, given])
        frames = frames_of(self.audio, self._waiting)
        done = [self._ready]
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(frames), BLOCK):
                done.append(self._added(self._through(frames[start : start + BLOCK] * self._window)))
            self._waiting = self._waiting[len(frames) * self.audio.hop :]
            ready = np.concatenate(done)
            self._ready = ready[len(given) :]
            found = ready[: len(given)].astype(np.float32)
        if not np.isfinite(found).all():
            raise invalid("model", got="samples that are NaN or infinite", expected="finite ones")
        return found

    def finish(self) -> np.ndarray:
        """The last `latency` samples; the next `feed` begins another recording."""
        rest = self.feed(np.zeros(self.latency))
        self.reset()
        return rest

    def recording(self, samples) -> np.ndarray:
        """A whole recording, from the initial state: as many samples as are given, in their places."""
        self.reset()
        return np.concatenate([self.feed(samples), self.finish()])[self.latency :]

    def _through(self, frames: np.ndarray) -> np.ndarray:
        """What the models make of frames, (frames, width)."""
        for audio, engine, stream in zip(self.stages, self._engines, self._streams, strict=True):
            spectrum = np.fft.rfft(frames)
            found = stream.run(taken(audio, frames, spectrum, engine.inputs[0].shape))
            frames = given_frames(audio, found, spectrum, engine.outputs[0].shape)
        return frames if self.stages[-1].gives == "samples" else frames * self._last

    def _added(self, frames: np.ndarray) -> np.ndarray:
        """The samples to which no later frame adds, (frames * hop,)."""
        hop, count = self.audio.hop, len(frames)
        sums = np.concatenate([self._sums, np.zeros((count, hop))])
        parts = np.pad(frames, ((0, 0), (0, -frames.shape[1] % hop))).reshape(count, -1, hop)
        for number in reversed(range(parts.shape[1])):  # earlier frames first, however many there are
            sums[number : number + count] += parts[:, number]
        self._sums = sums[count:]
        return sums[:count].ravel()
