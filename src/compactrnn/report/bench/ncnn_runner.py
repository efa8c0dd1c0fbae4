"""ncnn; on x86 its LSTM and GRU compute in float32 or int8 only (16-bit options change nothing)."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ncnn import Mat, Net  # pyright: ignore[reportAttributeAccessIssue]

from .base import AbstractRunner, Config
from .model import Layer, PlainModel

_INT8 = 0x000D4B38  # what stands before int8 weights in ncnn's files


class _Net(AbstractRunner):
    """One thread; states are inputs and outputs. NumPy does the embedding; the linear layer is never int8."""

    def __init__(self, precision: str, model: PlainModel, steps: int):
        self.embedding = model.embedding
        self.net = Net()
        self.net.opt.num_threads = 1
        self.net.opt.use_fp16_storage = self.net.opt.use_fp16_packed = precision != "float32"
        with tempfile.TemporaryDirectory() as folder:
            structure, weights = Path(folder) / "model.param", Path(folder) / "model.bin"
            with weights.open("wb") as file:
                structure.write_text(_write(model, precision == "int8", file), encoding="ascii")
            if self.net.load_param(str(structure)) or self.net.load_model(str(weights)):
                raise ValueError("ncnn could not load the model")
        self.sizes = {f"{s}{k}": layer.hidden_size for k, layer in enumerate(model.layers) for s in layer.states}
        self.reset()

    def prepare(self, inputs: np.ndarray) -> np.ndarray:
        return inputs

    def feed(self, prepared: np.ndarray) -> Any:
        x = prepared if self.embedding is None else self.embedding[prepared]
        extractor = self.net.create_extractor()
        extractor.input("x", Mat(x))
        for name, state in self.states.items():
            extractor.input(name, state)
        y = extractor.extract("y")[1]
        self.states = {name: extractor.extract(f"new_{name}")[1] for name in self.states}
        return y

    def reset(self) -> None:
        self.states = {name: _zeros(size) for name, size in self.sizes.items()}

    def to_numpy(self, output: Any) -> np.ndarray:
        return np.array(output).reshape(-1, output.w)


def _zeros(size: int) -> Any:
    array = np.zeros((1, size), np.float32)
    return Mat(array).clone()  # a Mat of an array borrows its memory


def _write(model: PlainModel, int8: bool, file: BinaryIO) -> str:
    """The .param text; the weights are written to `file`."""
    lines, blobs, x = ["Input x 0 1 x"], 1, "x"
    for number, layer in enumerate(model.layers):
        lines += [f"Input {state}{number} 0 1 {state}{number}" for state in layer.states]
    for number, layer in enumerate(model.layers):
        last = number + 1 == len(model.layers) and model.output is None
        before = [x, *(f"{state}{number}" for state in layer.states)]
        x = "y" if last else f"y{number}"
        after = [x, *(f"new_{state}{number}" for state in layer.states)]
        kind, count = layer.cell.upper(), len(before)
        options = f"0={layer.hidden_size} 1={layer.input_weight.size}" + (" 8=2" if int8 else "")
        lines.append(f"{kind} layer{number} {count} {count} {' '.join([*before, *after])} {options}")
        blobs += len(before) - 1 + len(after)
        _weights(layer, int8, file)
    if model.output is not None:
        weight, bias = model.output
        lines.append(f"InnerProduct output 1 1 {x} y 0={len(bias)} 1=1 2={weight.size}")
        _float(weight, file)
        file.write(bias.astype("<f4").tobytes())
        blobs += 1
    return "\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""])


def _weights(layer: Layer, int8: bool, file: BinaryIO) -> None:
    bias = layer.input_bias + layer.hidden_bias
    if layer.cell == "gru":  # r, z, and the two parts of n
        size = 2 * layer.hidden_size
        bias = np.concatenate([bias[:size], layer.input_bias[size:], layer.hidden_bias[size:]])
    arrays = [_ncnn_order(layer, array) for array in (layer.input_weight, bias, layer.hidden_weight)]
    if not int8:
        for array in arrays:
            _float(array, file)
        return
    scales = [127 / np.maximum(np.abs(array).max(1), 1e-30) for array in arrays[::2]]
    _int8(arrays[0], scales[0], file)
    _float(arrays[1], file)
    _int8(arrays[2], scales[1], file)
    for scale in scales:
        file.write(scale.astype("<f4").tobytes())


def _ncnn_order(layer: Layer, array: np.ndarray) -> np.ndarray:
    """Reorders torch's gates i, f, g, o to ncnn's i, f, o, g; a GRU's are the same."""
    if layer.cell == "gru":
        return array
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, f, o, g])


def _int8(array: np.ndarray, scale: np.ndarray, file: BinaryIO) -> None:
    whole = np.rint(array * scale[:, None]).astype(np.int8).tobytes()
    file.write(np.uint32(_INT8).tobytes() + whole + bytes(-len(whole) % 4))


def _float(array: np.ndarray, file: BinaryIO) -> None:
    file.write(bytes(4) + array.astype("<f4").tobytes())


CONFIGS = (
    Config("ncnn float32", "float32", partial(_Net, "float32")),
    Config("ncnn int8", "int8", partial(_Net, "int8")),
)
