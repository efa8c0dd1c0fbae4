"""Whole sequences through bidirectional LSTM layers, one thread: packed files against torch and onnxruntime.

    python benchmarks/whole_sequences.py [--rounds 15] [--models 80-256-256 ...] [--steps 64 128 512] [--page]

A model is the size of the input and the units of each layer and direction. torch with and without oneDNN, in float32
and dynamically quantized; onnxruntime with its own operator, in float32 and dynamically quantized in each of its ways,
inputs and outputs bound. All answers are compared with float32 first. With --page the figures go to
docs/performance.md; take those of an idle machine.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from published import RESULTS, publish
from torch import Tensor, nn

import compactrnn as cr
from compactrnn.report.bench.base import AbstractRunner
from compactrnn.report.bench.engine_runner import EngineRunner
from compactrnn.report.bench.timing import distance, one_core, time_interleaved
from compactrnn.report.bench.torch_runner import torch_settings_kept
from compactrnn.report.insert import insert

RESULT, PAGE = RESULTS / "whole_sequences.json", Path(__file__).parents[1] / "docs" / "performance.md"
MODELS, STEPS, WEIGHTS = ("80-256-256", "80-384-384-384"), (64, 128, 512), ("float32", "int8")


class _Network(nn.Module):
    """Bidirectional LSTM layers: (batch, time, inputs) -> (batch, time, 2 * units)."""

    def __init__(self, spec: str):
        super().__init__()
        inputs, *units = (int(size) for size in spec.split("-"))
        sizes = [inputs, *(2 * n for n in units)]
        self.layers = nn.ModuleList(
            nn.LSTM(size, n, batch_first=True, bidirectional=True) for size, n in zip(sizes, units, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        return x


class _Torch(AbstractRunner):
    def __init__(self, network: nn.Module, *, onednn: bool = True, quantized: str | None = None):
        self.model, self.onednn, self.quantized = network, onednn, quantized
        if quantized:
            self.activate()
            from torch.ao.quantization import quantize_dynamic as quantize

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.model = quantize(network, {nn.LSTM}, torch.qint8)

    def activate(self) -> None:
        torch.set_num_threads(1)
        torch._C._set_mkldnn_enabled(self.onednn)
        if self.quantized:
            torch.backends.quantized.engine = self.quantized

    def prepare(self, inputs: np.ndarray) -> Tensor:
        return torch.from_numpy(inputs)[None]

    @torch.inference_mode()
    def feed(self, prepared: Tensor) -> Tensor:
        return self.model(prepared)

    def reset(self) -> None:
        """No state is kept."""

    def to_numpy(self, output: Tensor) -> np.ndarray:
        return output[0].numpy()


class _Onnxruntime(AbstractRunner):
    def __init__(self, path: Path, shape: tuple[int, int], outputs: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.x = value(np.zeros((shape[0], 1, shape[1]), np.float32))
        self.y = value(np.zeros((shape[0], 1, outputs), np.float32))
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("x", self.x)
        self.binding.bind_ortvalue_output("y", self.y)

    def prepare(self, inputs: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(inputs[:, None])

    def feed(self, prepared: np.ndarray) -> Any:
        self.x.update_inplace(prepared)
        self.session.run_with_iobinding(self.binding)
        return self.y

    def reset(self) -> None:
        """No state is kept."""

    def to_numpy(self, output: Any) -> np.ndarray:
        return output.numpy()[:, 0].copy()


def write_onnx(network: _Network, steps: int, path: Path) -> None:
    """An LSTM node for each layer, both directions in one; x (steps, 1, inputs), y (steps, 1, outputs)."""
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    value = "x"
    shape = constant("shape", np.array([0, 0, -1]))
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, nn.LSTM)
        arrays = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}

        def of_gates(array: np.ndarray) -> np.ndarray:
            i, f, g, o = np.split(array, 4)
            return np.concatenate([i, o, f, g])

        kinds = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        w, r, *biases = (np.stack([of_gates(arrays[kind + end]) for end in ("", "_reverse")]) for kind in kinds)
        given = [
            constant(f"w{number}", w),
            constant(f"r{number}", r),
            constant(f"b{number}", np.concatenate(biases, 1)),
        ]
        made, turned, last = f"made{number}", f"turned{number}", number == len(network.layers) - 1
        size = {"hidden_size": layer.hidden_size, "direction": "bidirectional"}
        nodes.append(helper.make_node("LSTM", [value, *given], [made], **size))
        nodes.append(helper.make_node("Transpose", [made], [turned], perm=[0, 2, 1, 3]))
        value = "y" if last else f"layer{number}"
        nodes.append(helper.make_node("Reshape", [turned, shape], [value]))
    first, end = network.layers[0], network.layers[-1]
    assert isinstance(first, nn.LSTM) and isinstance(end, nn.LSTM)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (steps, 1, first.input_size))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (steps, 1, 2 * end.hidden_size))
    graph = helper.make_graph(nodes, "layers", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def runners_of(network: _Network, steps: int, folder: Path) -> dict[str, tuple[str, AbstractRunner]]:
    """Each contender by name, with the type of its weights."""
    first, end = network.layers[0], network.layers[-1]
    assert isinstance(first, nn.LSTM) and isinstance(end, nn.LSTM)
    inputs, outputs = first.input_size, 2 * end.hidden_size
    found: dict[str, tuple[str, AbstractRunner]] = {}
    for weights in WEIGHTS:
        path = folder / f"{weights}.crnn"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # without calibration data: as the others are quantized
            cr.pack(network, path, torch.randn(1, 8, inputs), weights=weights)
        data = path.read_bytes()
        found[f"compactrnn {weights}"] = weights, EngineRunner(cr.Engine(data), data, steps)
    found["torch"] = "float32", _Torch(network)
    found["torch no oneDNN"] = "float32", _Torch(network, onednn=False)
    for engine in ("x86", "onednn"):
        found[f"torch int8 {engine}"] = "int8", _Torch(network, quantized=engine)
    plain = folder / "plain.onnx"
    write_onnx(network, steps, plain)
    files = {"onnxruntime": ("float32", plain)}
    ways: list[tuple[str, dict[str, Any]]] = [
        ("signed", {"weight_type": QuantType.QInt8}),
        ("unsigned", {"weight_type": QuantType.QUInt8}),
        ("per channel", {"weight_type": QuantType.QUInt8, "per_channel": True}),
    ]
    for way, given in ways:
        path = folder / f"{way.replace(' ', '-')}.onnx"
        quantize_dynamic(plain, path, **given)
        files[f"onnxruntime int8 {way}"] = "int8", path
    for name, (weights, path) in files.items():
        found[name] = weights, _Onnxruntime(path, (steps, inputs), outputs)
    return found


def measured(spec: str, steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """The figures of one model and length."""
    torch.manual_seed(0)
    network = _Network(spec).eval()
    found = runners_of(network, steps, folder)
    x = np.random.default_rng(0).normal(size=(steps, int(spec.split("-")[0]))).astype(np.float32)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(x)[None])[0].numpy()
    for weights, runner in found.values():
        runner.activate()
        distance(runner.to_numpy(runner.feed(runner.prepare(x))), wanted, weights)
    hot = {
        name: kinds["hot"]
        for name, kinds in time_interleaved({n: r for n, (_, r) in found.items()}, [x], rounds=rounds).items()
    }

    def best(*types: str) -> str:
        others = [n for n, (weights, _) in found.items() if weights in types and not n.startswith("compactrnn")]
        return min(others, key=lambda name: hot[name].median)

    ratios = {weights: hot[best(weights)].times(hot[f"compactrnn {weights}"]) for weights in WEIGHTS}
    return {
        "model": spec,
        "steps": steps,
        "microseconds": {name: timing.as_dict() for name, timing in hot.items()},
        "best of others": {weights: best(weights) for weights in WEIGHTS},
        "times faster": ratios,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each model and length."""
    head = ["layers", "steps", "float32, times faster than", "", "int8, times faster than", ""]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [row["model"], str(row["steps"])]
        for weights in WEIGHTS:
            cells += [f"{row['times faster'][weights]:.2f}", row["best of others"][weights]]
        lines.append(cells)
    return "\n" + "".join("| " + " | ".join(cells) + " |\n" for cells in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--page", action="store_true", help="write the figures to docs/performance.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, torch_settings_kept(), one_core():
        rows = [measured(spec, steps, given.rounds, Path(scratch)) for spec in given.models for steps in given.steps]
    print(table(rows))
    publish(given, "microseconds for a sequence, one thread, in turns", rows=rows)
    if given.page:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(insert(page, "whole sequences", table(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
