"""Words from audio or features, by a packed acoustic model."""

from __future__ import annotations

import numpy as np

from .._errors import invalid
from ..runtime.engine import Engine
from .alphabet import log_softmax
from .spec import RecognizerSpec

BLOCK = 1024  # steps that a stream runs at once


class Recognizer:
    """Recognizes one recording after the other, each given at once or in chunks as it comes.

    The model's file says what it takes (`RecognizerSpec`): audio, (samples,), float from -1 to 1 or int16, or frames of
    features, (frames, coefficients). Its first output are log-probabilities or logits of the symbols. At the end, audio
    is filled up with silence to a whole step, and features that do not fill a step are left out.

    Words do not depend on how a recording is cut into chunks. A model that needs whole sequences (`engine.offline`)
    gives all of them at the end.

    Args:
        engine: the packed model.
        decode: "greedy" or "lexicon"; default: with the lexicon of the file, if it has one.
        spec: what the file does not say, or says otherwise.

    Raises:
        ValueError: a model that is no recognizer, or whose inputs or outputs are not those of its description.

    >>> import tempfile, torch, compactrnn as cr
    >>> from compactrnn.decoding import RecognizerSpec
    >>> class Acoustic(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.output = torch.nn.LSTM(26, 16, batch_first=True), torch.nn.Linear(16, 4)
    ...
    ...     def forward(self, x):
    ...         return self.output(self.lstm(x)[0])
    >>> path, x = tempfile.mkdtemp() + "/acoustic.crnn", torch.randn(1, 9, 26)
    >>> spec = RecognizerSpec(("", " ", "a", "b"), frames_per_step=2)
    >>> report = cr.pack(Acoustic(), path, x, calibration=[x], metadata=spec.metadata())
    >>> recognizer = cr.Recognizer(cr.Engine(path))
    >>> words = []
    >>> for frames in np.zeros((20, 5, 13), np.float32):
    ...     words += recognizer.feed(frames)
    >>> words + recognizer.finish() == cr.recognize(cr.Engine(path), np.zeros((100, 13)))
    True
    """

    def __init__(self, engine: Engine, decode: str | None = None, spec: RecognizerSpec | None = None):
        self.engine = engine
        self.spec = spec = RecognizerSpec.from_metadata(engine.metadata) if spec is None else spec
        self.decoder = spec.decoder(decode)
        self._width = _width(engine, spec)
        self._stream = None if engine.offline else engine.stream()
        self._start()

    def _start(self) -> None:
        self._rest = np.zeros((0, self._width), np.float32)  # frames of a step that is not complete
        self._kept: list[np.ndarray] = []  # all steps, for a model that needs whole sequences
        if self._stream is not None:
            self._stream.reset()

    def frames(self, chunk) -> np.ndarray:
        """A chunk as float32 (frames, coefficients), audio as (samples, 1); `ValueError` for what it cannot be."""
        array = np.asarray(chunk)
        audio = self.spec.input == "audio"
        fits = array.ndim == 1 if audio else array.ndim == 2 and array.shape[1] == self._width
        if not fits or (array.dtype.kind != "f" and not (audio and array.dtype == np.int16)):
            wanted = "(samples,), float or int16" if audio else f"(frames, {self._width}), float"
            raise invalid(self.spec.input, got=f"shape {array.shape}, {array.dtype}", expected=wanted)
        with np.errstate(over="ignore"):
            frames = array.astype(np.float32).reshape(-1, self._width)
        if not np.isfinite(frames).all():
            raise invalid(self.spec.input, got="NaN or infinity", expected="finite float32 numbers")
        return frames / np.float32(32768) if array.dtype == np.int16 else frames

    def feed(self, chunk) -> list[str]:
        """Take the next chunk; the words that have become certain by it."""
        frames = np.concatenate([self._rest, self.frames(chunk)])
        per_step = self.spec.frames_per_step
        whole = len(frames) // per_step * per_step
        self._rest = frames[whole:]
        return self._run(frames[:whole])

    @property
    def partial(self) -> str:
        """What is likely to follow the words returned so far; later chunks may change it."""
        return self.decoder.partial

    def finish(self) -> list[str]:
        """The remaining words; the next `feed` begins another recording."""
        words = []
        if self.spec.input == "audio" and len(self._rest):
            silence = np.zeros((self.spec.frames_per_step - len(self._rest), 1), np.float32)
            words = self._run(np.concatenate([self._rest, silence]))
        if self._kept:
            words = self.decoder.feed(self._log_probabilities(self.engine.run(np.concatenate(self._kept))))
        self._start()
        return words + self.decoder.finish()

    def _run(self, frames: np.ndarray) -> list[str]:
        steps = frames.reshape(-1, *self.engine.inputs[0].shape)
        if self._stream is None:
            self._keep(steps)
            return []
        words: list[str] = []
        for start in range(0, len(steps), BLOCK):
            words += self.decoder.feed(self._log_probabilities(self._stream.run(steps[start : start + BLOCK])))
        return words

    def _keep(self, steps: np.ndarray) -> None:
        if len(steps):
            self._kept.append(steps)
            total, limit = sum(map(len, self._kept)), self.engine.memory_limit
            if limit is not None and (size := self.engine.workspace_bytes(total)) > limit:
                got = f"{total} steps, which take {size} bytes"
                raise invalid(
                    "recording", got=got, expected=f"at most memory_limit={limit} for a model that is offline"
                )

    def _log_probabilities(self, outputs) -> np.ndarray:
        return log_softmax(outputs[0] if isinstance(outputs, tuple) else outputs)


def recognize(engine: Engine, recording, decode: str | None = None) -> list[str]:
    """The words of a whole recording, audio or features as `Recognizer` takes them."""
    recognizer = Recognizer(engine, decode)
    return recognizer.feed(recording) + recognizer.finish()


def _width(engine: Engine, spec: RecognizerSpec) -> int:
    """Numbers of a frame: coefficients, or 1 of audio."""
    port, output = engine.inputs[0], engine.outputs[0]
    size = int(np.prod(port.shape))
    if len(engine.inputs) != 1 or port.vocabulary or not size or size % spec.frames_per_step:
        got = f"{len(engine.inputs)} inputs, the first of shape {port.shape}, vocabulary {port.vocabulary}"
        raise invalid("model", got=got, expected=f"one input of {spec.frames_per_step} frames, as its metadata says")
    if spec.input == "audio" and size != spec.frames_per_step:
        raise invalid("model", got=f"{size} samples a step", expected=f"the {spec.frames_per_step} of its metadata")
    if output.final or output.shape != (len(spec.symbols),):
        got = f"an output of shape {output.shape}" + (" after the last step" if output.final else "")
        raise invalid("model", got=got, expected=f"one of {len(spec.symbols)} symbols at every step")
    return size // spec.frames_per_step
