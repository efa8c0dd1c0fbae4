"""OpenVINO in each configuration; states are model variables, which was faster than inputs and outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino._offline_transformations import apply_make_stateful_transformation

from .base import AbstractRunner, Config
from .model import PlainModel
from .onnx_files import INPUT, OUTPUT, write_cells, write_layers


class _Stateful(AbstractRunner):
    """One thread, latency hint, one inference request with fixed tensors."""

    def __init__(self, write: Callable[..., None], precision: str, model: PlainModel, steps: int):
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write(model, steps, path)
            read = core.read_model(path)
            names = [given.get_any_name() for given in read.inputs]
            apply_make_stateful_transformation(read, {name: f"new_{name}" for name in names if name != INPUT})
            settings = {
                "INFERENCE_NUM_THREADS": 1,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": precision,
                "ENABLE_CPU_PINNING": False,
            }
            self.request: Any = core.compile_model(read, "CPU", settings).create_infer_request()
        kind = np.float32 if model.embedding is None else np.int64
        x, y = self.request.get_tensor(INPUT), self.request.get_tensor(OUTPUT)
        self.x = openvino.Tensor(np.zeros(x.shape, kind))
        self.y = openvino.Tensor(np.zeros(y.shape, np.float32))
        self.request.set_tensor(INPUT, self.x)
        self.request.set_tensor(OUTPUT, self.y)
        self.view = self.x.data

    def prepare(self, inputs: np.ndarray) -> np.ndarray:
        return inputs.reshape(self.view.shape).astype(self.view.dtype)

    def feed(self, prepared: np.ndarray) -> Any:
        self.view[...] = prepared
        self.request.infer()
        return self.y

    def reset(self) -> None:
        self.request.reset_state()

    def to_numpy(self, output: Any) -> np.ndarray:
        return output.data.reshape(-1, output.shape[-1]).copy()


def _form(name: str, precision: str, write: Callable[..., None], hint: str) -> Config:
    return Config(f"openvino {name}", precision, partial(_Stateful, write, hint))


CONFIGS = (
    _form("layers float32", "float32", write_layers, "f32"),
    _form("layers bfloat16", "bfloat16", write_layers, "bf16"),
    _form("cells float32", "float32", partial(write_cells, product="float32"), "f32"),
    _form("cells bfloat16", "bfloat16", partial(write_cells, product="float32"), "bf16"),
    _form("cells int8 weights", "int8", partial(write_cells, product="blocks8"), "bf16"),
)
