"""Remove noise from a recording, as a stream, with a speech enhancer as its authors ship it: GTCRN or DTLN.

python examples/denoise_file.py gtcrn_stream.onnx noisy.wav clean.wav
python examples/denoise_file.py dtln_1.onnx,dtln_2.onnx noisy.wav clean.wav

The .onnx files are packed first, in float32; pack them yourself, in int8 and with calibration data, and give the
.crnn files. A recording is a .wav file, mono, 16 bits, 16,000 samples a second. A microphone's samples take the same
way, `hop` at a time.
"""

import argparse
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
from rich.progress import Progress

import compactrnn as cr

RATE = 16_000


class GTCRN:
    """Spectrum in, spectrum out: frames of 512 samples, every 256 of them, under the square root of a Hann window."""

    width, hop = 512, 256
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512))

    def __init__(self, engine: cr.Engine):
        self.stream = engine.stream()

    def clean(self, frame: np.ndarray) -> np.ndarray:
        """What a frame of 512 samples adds to the result."""
        spectrum = np.fft.rfft(frame * self.window)
        parts = np.stack([spectrum.real, spectrum.imag], -1)[:, None].astype(np.float32)
        found = np.asarray(self.stream.step(parts)).reshape(257, 2)
        return np.fft.irfft(found[:, 0] + 1j * found[:, 1]) * self.window


class DTLN:
    """Two networks: one masks the magnitudes of a frame of 512 samples, every 128 of them, one works on its samples."""

    width, hop = 512, 128

    def __init__(self, first: cr.Engine, second: cr.Engine):
        self.first, self.second = first.stream(), second.stream()

    def clean(self, frame: np.ndarray) -> np.ndarray:
        """What a frame of 512 samples adds to the result."""
        spectrum = np.fft.rfft(frame)
        mask = np.asarray(self.first.step(np.abs(spectrum).astype(np.float32))).ravel()
        return np.asarray(self.second.step(np.fft.irfft(mask * spectrum).astype(np.float32))).ravel()


def denoise(enhancer: GTCRN | DTLN, noisy: np.ndarray, advance=lambda samples: None) -> np.ndarray:
    """The samples without noise, as many as there are; `advance` is told of each `hop`."""
    width, hop = enhancer.width, enhancer.hop
    early = width - hop  # what comes out is done so many samples after it went in
    padded = np.pad(noisy, (early, early + -len(noisy) % hop))
    clean = np.zeros(len(padded))
    for start in range(0, len(padded) - width + 1, hop):
        clean[start : start + width] += enhancer.clean(padded[start : start + width])
        advance(hop)
    return clean[early : early + len(noisy)]


def load(names: str) -> GTCRN | DTLN:
    """The enhancer of one file or of two, .onnx or .crnn."""
    engines = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names.split(",")):
            path = Path(name)
            if not path.is_file():
                raise ValueError(f"model: no file {name}")
            if path.suffix == ".onnx":
                path = Path(folder) / f"{number}.crnn"
                cr.pack(name, path, weights="float32")
            engines.append(cr.Engine(path))
    if len(engines) > 2:
        raise ValueError(f"model: expected one file (GTCRN) or two (DTLN), got {len(engines)}")
    return GTCRN(*engines) if len(engines) == 1 else DTLN(*engines)


def read(path: Path) -> np.ndarray:
    """Samples from -1 to 1."""
    try:
        with wave.open(str(path), "rb") as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: no PCM .wav file ({error or 'it ends within its header'})") from None
    if form != (1, 2, RATE):
        got = f"{form[0]} channels of {8 * form[1]} bits, {form[2]} samples a second"
        raise ValueError(f"{path}: expected one channel of 16 bits, {RATE} samples a second, got {got}")
    if len(data) < 2:
        raise ValueError(f"{path}: it has no samples")
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2") / 32768


def write(path: Path, samples: np.ndarray) -> None:
    """A .wav file; louder samples than it can hold are clipped."""
    whole = np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2")
    with path.open("xb") as out, wave.open(out, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(whole.tobytes())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a file of GTCRN, or two of DTLN with a comma between them")
    parser.add_argument("noisy", type=Path)
    parser.add_argument("clean", type=Path, help="a new file")
    given = parser.parse_args(arguments)
    try:
        if given.clean.exists():
            raise ValueError(f"{given.clean}: it is there already")
        noisy, enhancer = read(given.noisy), load(given.model)
        began = time.perf_counter()
        with Progress(transient=True) as progress:
            task = progress.add_task("denoising", total=len(noisy) + enhancer.width)
            clean = denoise(enhancer, noisy, lambda samples: progress.advance(task, samples))
        spent, seconds = time.perf_counter() - began, len(noisy) / RATE
        write(given.clean, clean)
    except (ValueError, OSError) as error:
        sys.exit(f"denoise_file: {error}")
    print(f"{seconds:.2f} s of sound in {spent:.2f} s, real-time factor {spent / seconds:.3g}")


if __name__ == "__main__":
    main()
