"""Conversion of a plain model to torch modules and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._errors import invalid
from ...models.recurrent_lm import LanguageModel
from .model import Layer, PlainModel

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class TorchModel(nn.Module):
    """Embedding, nn.LSTM or nn.GRU (one where the sizes allow it, else one a layer), nn.Linear."""

    def __init__(self, model: PlainModel):
        super().__init__()
        self.embedding = torch_embedding(model)
        self.layers = nn.ModuleList(_recurrent(model.layers))
        self.output = torch_output(model)
        self.eval()

    def advance(self, x: Tensor, states: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Inputs (1, time) or (1, time, size) -> outputs (1, time, size), and the states after them."""
        if self.embedding is not None:
            x = self.embedding(x)
        new = []
        for layer, state in zip(self.layers, states or [None] * len(self.layers), strict=True):
            x, state = layer(x, state)
            new.append(state)
        return x if self.output is None else self.output(x), new

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, starting from zero states."""
        return self.advance(x)[0]


def torch_embedding(model: PlainModel) -> nn.Module | None:
    """The embedding, if there is one."""
    return None if model.embedding is None else nn.Embedding.from_pretrained(_tensor(model.embedding))


def torch_output(model: PlainModel) -> nn.Module | None:
    """The linear layer at the end, if there is one."""
    if model.output is None:
        return None
    weight, bias = model.output
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": _tensor(weight), "bias": _tensor(bias)})
    return linear.eval()


def torch_cell(layer: Layer) -> nn.Module:
    """The layer as an nn.LSTMCell or nn.GRUCell."""
    kind = nn.LSTMCell if layer.cell == "lstm" else nn.GRUCell
    cell = kind(layer.input_size, layer.hidden_size)
    cell.load_state_dict({name: _tensor(array) for name, array in zip(NAMES, _arrays(layer), strict=True)})
    return cell.eval()


def plain_model(model: LanguageModel) -> PlainModel:
    """Weights of a language model; `ValueError` unless its layers are dense LSTM or GRU, all that others run."""
    recurrent: Any = model.recurrent
    cell = next((name for name, kind in (("lstm", nn.LSTM), ("gru", nn.GRU)) if isinstance(recurrent, kind)), None)
    weights = recurrent.state_dict()
    count = recurrent.num_layers
    if cell is None or set(weights) != {f"{name}_l{k}" for name in NAMES for k in range(count)}:
        raise invalid(
            "model", got=repr(recurrent), expected="dense LSTM or GRU layers, which the other frameworks can run"
        )
    layers = [Layer(cell, *(weights[f"{name}_l{k}"].numpy() for name in NAMES)) for k in range(count)]
    output = (model.output.weight.detach().numpy(), model.output.bias.detach().numpy())
    return PlainModel(tuple(layers), model.embedding.weight.detach().numpy(), output)


@torch.inference_mode()
def answers(model: Any, inputs: np.ndarray) -> np.ndarray:
    """What a torch model gives for one sequence from zero states: (time,) or (time, size) -> (time, size)."""
    return model(torch.as_tensor(inputs)[None])[0].numpy()


def _recurrent(layers: tuple[Layer, ...]) -> list[nn.Module]:
    kind = nn.LSTM if layers[0].cell == "lstm" else nn.GRU
    together = len({layer.hidden_size for layer in layers}) == 1
    built: list[nn.Module] = []
    for group in [layers] if together else [(layer,) for layer in layers]:
        module = kind(group[0].input_size, group[0].hidden_size, len(group), batch_first=True)
        state: Mapping[str, Tensor] = {
            f"{name}_l{k}": _tensor(array)
            for k, layer in enumerate(group)
            for name, array in zip(NAMES, _arrays(layer), strict=True)
        }
        module.load_state_dict(state)
        built.append(module)
    return built


def _arrays(layer: Layer) -> tuple[np.ndarray, ...]:
    return layer.input_weight, layer.hidden_weight, layer.input_bias, layer.hidden_bias


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array)
