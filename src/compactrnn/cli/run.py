"""`compactrnn run`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .._errors import invalid
from .._text import printable
from .errors import INTERRUPTED
from .output import JsonFlag, print_json, print_line

if TYPE_CHECKING:
    import numpy as np

    from ..decoding import Recognizer


def run(
    model: Annotated[Path, typer.Argument(help="A .crnn file of a recognizer, or of a model that gives audio.")],
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Recordings; or one, and the .wav file to write; see above.")
    ],
    decode: Annotated[
        Literal["greedy", "lexicon"] | None,
        typer.Option(help="How to decode.", show_default="lexicon, if the model has one"),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Recognize speech: print the words of recordings while they are read. Or write what a model makes of a recording.

    Which of the two it is, the model's file says. Of a recognizer a FILE is one of

    - a .wav file, mono, 16 bits, of the model's sample rate, for a model that takes audio;

    - a .npy file, (frames, coefficients), or of audio (samples,), or a .npz file of one such array;

    - `-`: a .wav from standard input, such as a microphone's.

    Each FILE gives a line. A word is printed when it is certain; a terminal also shows what is likely to follow. At the
    end standard error says the real-time factor: computing time divided by the duration of the recordings. A model that
    needs whole sequences gives all words at the end.

    Greedy decoding takes the most likely symbols. With a lexicon the words are those that the model's file lists, the
    most likely ones by its language model.

    A model that takes audio and gives audio, such as a denoiser that was packed with --audio, gets two: the recording,
    a .wav file as above or `-`, and a new .wav file, which it writes with as many samples. Of a model in several files,
    such as the two stages of DTLN, MODEL has their names, with commas between them; each works on the frames of the one
    before.

    Examples:

        compactrnn run digits.crnn one.wav two.wav

        compactrnn run gtcrn.crnn noisy.wav clean.wav

        compactrnn run dtln_1.crnn,dtln_2.crnn noisy.wav clean.wav

        arecord -f S16_LE -r 8000 -c 1 -t wav | compactrnn run digits.crnn -

        compactrnn run an4.crnn features.npy --decode greedy --json
    """
    from ..decoding import Recognizer
    from ..decoding.recordings import opened
    from ..decoding.spec import KEY as RECOGNIZER
    from ..runtime.audio import KEY as AUDIO
    from ..runtime.engine import Engine
    from ..runtime.wav import STANDARD_INPUT

    names = [str(model)] if model.exists() else str(model).split(",")
    if not all(names):
        raise invalid("MODEL", got=str(model), expected="the path of a model file, or several with commas between them")
    engines = [Engine(name) for name in names]
    if len(engines) > 1 or AUDIO in engines[0].metadata:
        from .run_audio import run_audio

        if decode is not None:
            raise invalid("--decode", got=f"{decode} for a model of audio", expected="none: it is for recognizers")
        return run_audio(str(model), engines, files, json)
    if RECOGNIZER not in engines[0].metadata:
        hint = "pack the model again, with --audio, which `compactrnn pack --help` describes"
        expected = "a recognizer, or a model that says how it takes and gives audio"
        raise invalid("model metadata", got=f"neither in {model}", expected=expected, hint=hint)
    if files.count(STANDARD_INPUT) > 1:
        raise invalid("FILE", got=f"{STANDARD_INPUT} more than once", expected="standard input once")
    recognizer = Recognizer(engines[0], decode)
    for path in files:
        if path != STANDARD_INPUT:
            with opened(path, recognizer):
                pass  # a mistake in a later file is known before the first is read
    records: list[dict[str, Any]] = []
    for path in files:
        line = None if json else _Line(f"{path}: " if len(files) > 1 else "")
        with opened(path, recognizer) as chunks:
            records.append({"file": path, **_recognize(recognizer, chunks, line)})
        if records[-1]["interrupted"]:
            break
    seconds, computing = (sum(record[name] for record in records) for name in ("seconds", "compute_seconds"))
    summary = {
        "decode": decode or recognizer.spec.default_decoder,
        "streaming": not recognizer.engine.offline,
        "runs_on": recognizer.engine.isa,
        "seconds": seconds,
        "compute_seconds": computing,
        "real_time_factor": computing / seconds if seconds else None,
    }
    if json:
        print_json({"model": str(model), **summary, "files": records})
    _print_summary(summary)
    if records[-1]["interrupted"]:
        raise typer.Exit(INTERRUPTED)


def _recognize(recognizer: Recognizer, chunks: Iterator[np.ndarray], line: _Line | None) -> dict[str, Any]:
    """Words with the times at which they were certain, the duration, and the time that it took."""
    words: list[dict[str, Any]] = []
    count, seconds, computing, interrupted = 0, 0.0, 0.0, False
    chunk: np.ndarray | None = None
    while True:
        try:
            chunk = next(chunks, None)
        except KeyboardInterrupt:  # how a microphone's stream ends
            chunk, interrupted = None, True
        began = time.perf_counter()
        found = recognizer.finish() if chunk is None else recognizer.feed(chunk)
        computing += time.perf_counter() - began
        count += 0 if chunk is None else len(chunk)
        seconds = count / recognizer.spec.sample_rate
        words += [{"word": word, "at": round(seconds, 3)} for word in found]
        if line is not None:
            line.show(found, recognizer.partial)
        if chunk is None:
            break
    if line is not None:
        line.end()
    text = " ".join(word["word"] for word in words)
    times = {"seconds": seconds, "compute_seconds": computing}
    return {"text": text, "words": words, **times, "interrupted": interrupted}


class _Line:
    """A line of words on standard output, followed on a terminal by what is not certain yet."""

    def __init__(self, start: str):
        self._out, self._terminal = sys.stdout, sys.stdout.isatty()
        self._column, self._first = 0, True
        self._write(start)

    def show(self, words: list[str], partial: str) -> None:
        if self._terminal:
            self._out.write("\x1b[K")  # the partial words, to the right of the cursor
        for word in words:
            self._write(word if self._first else f" {word}")
            self._first = False
        if self._terminal and partial:
            room = max(0, shutil.get_terminal_size().columns - self._column - 1)
            text = (printable(partial) if self._first else f" {printable(partial)}")[:room]
            self._out.write(f"\x1b[2m{text}\x1b[0m" + "\b" * len(text))
        if words or self._terminal:
            self._out.flush()

    def end(self) -> None:
        self._out.write("\n")
        self._out.flush()

    def _write(self, text: str) -> None:
        text = printable(text)
        self._column = (self._column + len(text)) % max(1, shutil.get_terminal_size().columns)
        self._out.write(text)


def _print_summary(summary: dict[str, Any]) -> None:
    factor = summary["real_time_factor"]
    speed = "" if factor is None else f", real-time factor {factor:.3g}"
    way = "as a stream" if summary["streaming"] else "at the end, as the model needs whole sequences"
    spent = f"{summary['seconds']:.2f} s of recordings in {summary['compute_seconds']:.2f} s{speed}"
    print_line(f"{spent}; {summary['decode']} decoding, {way}, {summary['runs_on']}", err=True)
