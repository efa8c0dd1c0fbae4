"""What int8 costs a speech enhancer that people ship, GTCRN, in the metric that is used for enhancers.

    COMPACTRNN_DATA=data python benchmarks/enhancement.py

The file lies in the folder `models` beside the data, with its noisy recording. Scale-invariant signal-to-distortion
ratio, in dB, of what the int8 file gives, the float32 file's output being the reference; and of that one against the
output that the authors publish. Calibration is with the first half of the recording, the ratio with the second.
"""

import argparse
import json
import tempfile
import warnings
import wave
from pathlib import Path

import numpy as np
from onnx_agreement import MODELS
from published import RESULTS

import compactrnn as cr
from compactrnn._machine import describe_machine

WIDTH, HOP = 512, 256
WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WIDTH) / WIDTH))


def recording(name: str) -> np.ndarray:
    with wave.open(str(MODELS / name)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def spectra(audio: np.ndarray) -> np.ndarray:
    """(frames, 257, 1, 2), real and imaginary parts of frames around every 256th sample."""
    padded = np.pad(audio, (HOP, HOP + -len(audio) % HOP))
    found = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, WIDTH)[::HOP] * WINDOW)
    return np.stack([found.real, found.imag], -1)[:, :, None].astype(np.float32)


def samples(found: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `spectra`."""
    halves = found.reshape(len(found), -1, 2)
    frames = np.fft.irfft(halves[..., 0] + 1j * halves[..., 1]) * WINDOW
    audio = np.zeros(HOP * (len(frames) + 1))
    for number, frame in enumerate(frames):
        audio[number * HOP : number * HOP + WIDTH] += frame
    return audio[HOP : HOP + count]


def ratio(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux, Wisdom, Erdogan, Hershey, 2019)."""
    target = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * np.log10((target @ target) / np.sum((target - estimate) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "enhancement.json")
    out = parser.parse_args().out
    warnings.simplefilter("ignore", UserWarning)
    noisy, published = recording("gtcrn_mix.wav"), recording("gtcrn_enhanced.wav")
    given, second = spectra(noisy), slice(len(noisy) // 2, min(len(noisy), len(published)) - WIDTH)
    enhanced, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for weights in ("float32", "int8"):
            file = Path(folder) / f"{weights}.crnn"
            half = given[: len(given) // 2]
            cr.pack(MODELS / "gtcrn_stream.onnx", file, weights=weights, notes=False, calibration=[half])
            enhanced[weights] = samples(np.asarray(cr.Engine(file).run(given)), len(noisy))[second]
            sizes[weights] = file.stat().st_size
    result = {
        "what": "GTCRN: dB of int8 against float32, and of float32 against the authors' output",
        "bytes": sizes,
        "int8": ratio(enhanced["float32"], enhanced["int8"]),
        "float32": ratio(published[second], enhanced["float32"]),
        "machine": describe_machine(),
    }
    print(f"int8 {result['int8']:.1f} dB, float32 {result['float32']:.1f} dB, bytes {sizes}")
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
