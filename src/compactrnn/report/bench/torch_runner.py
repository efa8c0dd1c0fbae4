"""PyTorch in each configuration (`torch.compile`, bfloat16 included, was never the fastest and is left out)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .base import AbstractRunner, Config, Unsupported
from .model import PlainModel
from .torch_model import TorchModel, torch_cell, torch_embedding, torch_output


class _Layers(AbstractRunner):
    """`nn.LSTM` or `nn.GRU` with or without oneDNN, or dynamically quantized."""

    def __init__(self, model: PlainModel, *, onednn: bool = True, engine: str | None = None):
        self.onednn, self.engine = onednn, engine
        self.model: Any = TorchModel(model)
        if engine is not None:
            if engine not in torch.backends.quantized.supported_engines:
                raise Unsupported(f"this torch has no quantized engine {engine}")
            self.activate()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.ao.quantization import quantize_dynamic

                self.model = quantize_dynamic(self.model, {nn.LSTM, nn.GRU, nn.Linear}, torch.qint8)
        self.reset()

    def activate(self) -> None:
        torch.set_num_threads(1)
        torch._C._set_mkldnn_enabled(self.onednn)
        if self.engine is not None:
            torch.backends.quantized.engine = self.engine

    def prepare(self, inputs: np.ndarray) -> Tensor:
        return torch.as_tensor(inputs)[None]

    @torch.inference_mode()
    def feed(self, prepared: Tensor) -> Tensor:
        output, self.states = self.model.advance(prepared, self.states)
        return output

    def reset(self) -> None:
        self.states: list[Any] | None = None

    def to_numpy(self, output: Tensor) -> np.ndarray:
        return output[0].numpy()


class _Cells(AbstractRunner):
    """`nn.LSTMCell` or `nn.GRUCell` step by step; the output layer once per call."""

    def __init__(self, model: PlainModel, steps: int):
        self.embedding, self.output = torch_embedding(model), torch_output(model)
        self.cells = [torch_cell(layer) for layer in model.layers]
        self.reset()

    def activate(self) -> None:
        torch.set_num_threads(1)
        torch._C._set_mkldnn_enabled(True)

    def prepare(self, inputs: np.ndarray) -> list[Tensor]:
        return list(torch.as_tensor(inputs)[:, None])

    @torch.inference_mode()
    def feed(self, prepared: list[Tensor]) -> Tensor:
        outputs = []
        for x in prepared:
            if self.embedding is not None:
                x = self.embedding(x)
            for number, cell in enumerate(self.cells):
                state = cell(x, self.states[number])
                self.states[number] = state
                x = state[0] if isinstance(state, tuple) else state
            outputs.append(x)
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return y if self.output is None else self.output(y)

    def reset(self) -> None:
        self.states: list[Any] = [None] * len(self.cells)

    def to_numpy(self, output: Tensor) -> np.ndarray:
        return output.numpy()


@contextmanager
def torch_settings_kept() -> Iterator[None]:
    """Restores torch's global settings."""
    threads, onednn = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    engine = torch.backends.quantized.engine
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch._C._set_mkldnn_enabled(onednn)
        torch.backends.quantized.engine = engine


def _layers(**options: Any) -> Callable[[PlainModel, int], AbstractRunner]:
    return lambda model, steps: _Layers(model, **options)


CONFIGS = (
    Config("torch layers", "float32", _layers()),
    Config("torch layers no oneDNN", "float32", _layers(onednn=False)),
    Config("torch cells", "float32", _Cells),
    Config("torch int8 x86", "int8", _layers(engine="x86")),
    Config("torch int8 onednn", "int8", _layers(engine="onednn")),
)
