"""`compactrnn run` for models of audio: a recording in, a recording out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from .._errors import invalid
from .._files import check_writable, write_atomically
from ..runtime.audio_stream import AudioStream
from ..runtime.engine import Engine
from ..runtime.wav import STANDARD_INPUT, as_wav, wav_chunks
from .errors import INTERRUPTED
from .output import print_json, print_line

CHUNKS = 4  # a second


def run_audio(model: str, engines: Sequence[Engine], files: Sequence[str], json: bool) -> None:
    """Write what the models make of `files[0]` to the new file `files[1]`, and say how long it took."""
    if len(files) != 2:
        expected = "two for a model of audio: the recording, and the .wav file to write"
        raise invalid("FILE", got=" ".join(files), expected=expected)
    source, out = files
    stream = AudioStream(*engines)
    if not out.lower().endswith((".wav", ".wave")):
        raise invalid("FILE", got=repr(out), expected="the name of a .wav file to write")
    if check_writable(out, "recording").exists():
        raise invalid(
            "FILE", got=f"{out}, which is there", expected="a new file", hint="name another one, or remove it"
        )
    samples, computing, interrupted = _through(stream, source)
    if not len(samples):
        raise invalid("recording", got=f"{source} without samples", expected="at least one")
    write_atomically(out, as_wav(samples, stream.rate), "recording")
    clipped = int(np.count_nonzero((samples < -1) | (samples > 32767 / 32768)))
    seconds = len(samples) / stream.rate
    record: dict[str, Any] = {
        "model": model,
        "file": source,
        "out": out,
        "runs_on": engines[0].isa,
        "latency_seconds": stream.latency / stream.rate,
        "seconds": seconds,
        "compute_seconds": computing,
        "real_time_factor": computing / seconds,
        "clipped_samples": clipped,
    }
    if json:
        print_json(record)
    louder = f"; {clipped} samples clipped, louder than the file can hold" if clipped else ""
    print_line(
        f"{out}: {seconds:.2f} s in {computing:.2f} s, real-time factor {computing / seconds:.3g};"
        f" latency {1000 * stream.latency / stream.rate:.3g} ms, {engines[0].isa}{louder}",
        err=True,
    )
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _through(stream: AudioStream, source: str) -> tuple[np.ndarray, float, bool]:
    """The samples in their places, seconds of computing, and whether standard input was interrupted."""
    parts, computing, interrupted = [], 0.0, False
    console = Console(stderr=True)
    with (
        wav_chunks(source, stream.rate, max(1, stream.rate // CHUNKS)) as (chunks, total),
        # drawn between the chunks only: a thread that draws would take its time from what is measured
        Progress(console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as bar,
    ):
        line = bar.add_task("samples", total=total)
        while True:
            try:
                chunk = next(chunks, None)
            except KeyboardInterrupt:  # how a microphone's stream ends
                if source != STANDARD_INPUT:
                    raise
                chunk, interrupted = None, True
            began = time.perf_counter()
            parts.append(stream.finish() if chunk is None else stream.feed(chunk))
            computing += time.perf_counter() - began
            if chunk is None:
                break
            bar.update(line, advance=len(chunk), refresh=True)
    return np.concatenate(parts)[stream.latency :], computing, interrupted
