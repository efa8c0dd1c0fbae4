"""ONNX Runtime in each configuration; states are inputs and outputs of the graph."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from .base import AbstractRunner, Config, Unsupported
from .model import PlainModel
from .onnx_files import INPUT, OUTPUT, write_cells, write_layers

Writer = Callable[[PlainModel, int, Path], None]


class _Bound(AbstractRunner):
    """One thread, I/O binding to fixed memory, double-buffered states."""

    def __init__(self, write: Writer, model: PlainModel, steps: int):
        self.session = _session(write, model, steps)
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        shapes = _shapes(self.session)
        self.x = value(np.zeros(shapes[INPUT], np.float32 if model.embedding is None else np.int64))
        self.y = value(np.zeros(self.session.get_outputs()[-1].shape, np.float32))
        self.banks = [{n: value(np.zeros(s, np.float32)) for n, s in shapes.items() if n != INPUT} for _ in range(2)]
        self.bindings = [self._bind(*self.banks), self._bind(*self.banks[::-1])]
        self.repetition = 0

    def _bind(self, before: dict[str, Any], after: dict[str, Any]) -> Any:
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(INPUT, self.x)
        for name in before:
            binding.bind_ortvalue_input(name, before[name])
        for output in self.session.get_outputs():
            name = output.name
            binding.bind_ortvalue_output(name, self.y if name == OUTPUT else after[name.removeprefix("new_")])
        return binding

    def prepare(self, inputs: np.ndarray) -> np.ndarray:
        return _as(inputs, self.x.shape())

    def feed(self, prepared: np.ndarray) -> Any:
        self.x.update_inplace(prepared)
        self.session.run_with_iobinding(self.bindings[self.repetition])
        self.repetition = 1 - self.repetition
        return self.y

    def reset(self) -> None:
        for bank in self.banks:
            for value in bank.values():
                value.update_inplace(np.zeros(value.shape(), np.float32))

    def to_numpy(self, output: Any) -> np.ndarray:
        array = output.numpy().copy()
        return array.reshape(-1, array.shape[-1])


class _Run(AbstractRunner):
    """One thread, plain `session.run(names, feeds)`."""

    def __init__(self, write: Writer, model: PlainModel, steps: int):
        self.session = _session(write, model, steps)
        self.shapes = _shapes(self.session)
        self.names = [output.name for output in self.session.get_outputs()]
        self.reset()

    def prepare(self, inputs: np.ndarray) -> np.ndarray:
        return _as(inputs, self.shapes[INPUT])

    def feed(self, prepared: np.ndarray) -> np.ndarray:
        self.feeds[INPUT] = prepared
        *states, y = self.session.run(self.names, self.feeds)
        for name, state in zip(self.names, states, strict=False):
            self.feeds[name[4:]] = state
        return y

    def reset(self) -> None:
        self.feeds = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}

    def to_numpy(self, output: np.ndarray) -> np.ndarray:
        return output.reshape(-1, output.shape[-1])


def _session(write: Writer, model: PlainModel, steps: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(model, steps, path)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _shapes(session: Any) -> dict[str, tuple[int, ...]]:
    return {given.name: tuple(given.shape) for given in session.get_inputs()}


def _as(inputs: np.ndarray, shape: Any) -> np.ndarray:
    kind = np.float32 if inputs.dtype.kind == "f" else np.int64
    return np.ascontiguousarray(inputs, kind).reshape(shape)


def _quantized(model: PlainModel, steps: int, path: Path, *, signed: bool, per_channel: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, root = path.with_name("plain.onnx"), logging.getLogger()
    write_layers(model, steps, plain)
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        kind = QuantType.QInt8 if signed else QuantType.QUInt8
        quantize_dynamic(plain, path, weight_type=kind, per_channel=per_channel)
    finally:
        root.setLevel(level)
    left = {node.op_type for node in onnx.load(path).graph.node} & {"LSTM", "GRU"}
    if left:
        raise Unsupported(f"its quantizer leaves {left.pop()} in float32")


def _form(name: str, precision: str, write: Writer, kind: Callable[..., AbstractRunner] = _Bound) -> Config:
    return Config(f"onnxruntime {name}", precision, partial(kind, write))


# cells int4/256: weights of four bits, a scale for each 256 inputs of a row
CONFIGS = (
    _form("run()", "float32", write_layers, _Run),
    _form("bound", "float32", write_layers),
    _form("int8 signed", "int8", partial(_quantized, signed=True, per_channel=False)),
    _form("int8 unsigned", "int8", partial(_quantized, signed=False, per_channel=False)),
    _form("int8 per channel", "int8", partial(_quantized, signed=False, per_channel=True)),
    _form("cells float32", "float32", partial(write_cells, product="float32")),
    _form("cells int8", "int8", partial(write_cells, product="int8")),
    _form("cells int8/256", "int8", partial(write_cells, product="blocks8")),
    _form("cells int4/32", "int4", partial(write_cells, product="blocks4", block=32)),
    _form("cells int4/256", "int4", partial(write_cells, product="blocks4")),
)
