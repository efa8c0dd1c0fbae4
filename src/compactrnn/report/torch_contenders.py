"""Torch in the race, in each of its forms."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import invalid
from ..tasks.recurrent_lm import LanguageModel
from .race import AbstractContender


class _Plain(nn.Module):
    """The language model in torch's own modules: one nn.LSTM where the sizes allow it, else one a layer."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.embedding, self.output = copy.deepcopy(model.embedding), copy.deepcopy(model.output)
        self.layers = nn.ModuleList(plain_layers(model))

    def forward(self, tokens: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        x, new = self.embedding(tokens), []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, state)
            new.append(state)
        return self.output(x), new


class TorchContender(AbstractContender):
    """`nn.LSTM` or `nn.GRU` in inference mode, with oneDNN or without, or quantised dynamically to int8."""

    def __init__(self, model: LanguageModel, form: str):
        self.name = f"torch {form}"
        self.exact = form != "int8"
        self.onednn = form != "without oneDNN"
        self.model: nn.Module = _Plain(model).eval()
        self.count = len(self.model.layers)  # type: ignore[arg-type]
        if form == "int8":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.ao.quantization import quantize_dynamic

                self.model = quantize_dynamic(self.model, {nn.LSTM, nn.GRU, nn.Linear}, torch.qint8)
        self.reset()

    def activate(self) -> None:
        """One thread; oneDNN as this form wants it."""
        torch.set_num_threads(1)
        torch._C._set_mkldnn_enabled(self.onednn)

    def prepare(self, tokens: np.ndarray) -> Tensor:
        """(1, time)."""
        return torch.as_tensor(tokens)[None]

    @torch.inference_mode()
    def feed(self, prepared: Tensor) -> Tensor:
        """One call."""
        output, self.states = self.model(prepared, self.states)
        return output

    def reset(self) -> None:
        """No states yet."""
        self.states = [None] * self.count

    def to_numpy(self, output: Tensor) -> np.ndarray:
        """(time, symbols)."""
        return output[0].numpy()


class TorchCellContender(AbstractContender):
    """`nn.LSTMCell` or `nn.GRUCell`, step by step."""

    name = "torch cells"

    def __init__(self, model: LanguageModel):
        self.embedding, self.output = model.embedding, model.output
        self.cells = [_cell(layer, k) for layer in plain_layers(model) for k in range(layer.num_layers)]
        self.reset()

    def activate(self) -> None:
        """One thread."""
        torch.set_num_threads(1)
        torch._C._set_mkldnn_enabled(True)

    def prepare(self, tokens: np.ndarray) -> list[Tensor]:
        """A (1,) tensor a step."""
        return list(torch.as_tensor(tokens)[:, None])

    @torch.inference_mode()
    def feed(self, prepared: list[Tensor]) -> Tensor:
        """Step by step, the output layer once."""
        outputs = []
        for token in prepared:
            x = self.embedding(token)
            for number, cell in enumerate(self.cells):
                state = cell(x, self.states[number])
                self.states[number] = state
                x = state[0] if isinstance(state, tuple) else state
            outputs.append(x)
        return self.output(outputs[0] if len(outputs) == 1 else torch.cat(outputs))

    def reset(self) -> None:
        """No states yet."""
        self.states: list[Any] = [None] * len(self.cells)

    def to_numpy(self, output: Tensor) -> np.ndarray:
        """(time, symbols)."""
        return output.numpy()


@contextmanager
def torch_settings_kept() -> Iterator[None]:
    """Afterwards torch uses oneDNN as before."""
    before = torch._C._get_mkldnn_enabled()
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def torch_contenders(model: LanguageModel) -> list[AbstractContender]:
    """All forms."""
    forms = ("float32", "without oneDNN", "int8")
    return [*(TorchContender(model, form) for form in forms), TorchCellContender(model)]


def plain_layers(model: LanguageModel) -> list[Any]:
    """Torch's own modules with the model's weights: one for all layers of the same size, else one a layer."""
    recurrent: Any = model.recurrent
    kind = next((k for k in (nn.LSTM, nn.GRU) if isinstance(recurrent, k)), None)
    weights = recurrent.state_dict()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    count = recurrent.num_layers
    if kind is None or set(weights) != {f"{name}_l{k}" for name in names for k in range(count)}:
        raise invalid("model", got=repr(recurrent), wanted="LSTM or GRU layers of dense weights, which torch can run")
    sizes = [weights[f"weight_hh_l{k}"].shape[1] for k in range(count)]
    inputs = weights["weight_ih_l0"].shape[1]
    if len(set(sizes)) == 1:
        groups = [(kind(inputs, sizes[0], count, batch_first=True), weights)]
    else:
        groups = []
        for k, (before, size) in enumerate(zip([inputs, *sizes], sizes, strict=False)):
            mine = {f"{name}_l0": weights[f"{name}_l{k}"] for name in names}
            groups.append((kind(before, size, 1, batch_first=True), mine))
    for layer, state in groups:
        layer.load_state_dict(state)
    return [layer.eval() for layer, _ in groups]


def _cell(layer: Any, number: int) -> nn.Module:
    kind = nn.LSTMCell if isinstance(layer, nn.LSTM) else nn.GRUCell
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    state = {name: getattr(layer, f"{name}_l{number}").detach() for name in names}
    cell = kind(state["weight_ih"].shape[1], state["weight_hh"].shape[1])
    cell.load_state_dict(state)
    return cell.eval()
