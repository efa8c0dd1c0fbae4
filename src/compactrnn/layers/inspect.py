"""Any recurrent layer as the cells that it is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..cells import GRU, LSTM, AbstractCell, Elman
from ..weights.base import AbstractWeight
from ..weights.dense import DenseWeight
from .fused import GATES, AbstractFused
from .recurrent import Recurrent

# torch's name of a part, and ours
PARTS = {
    "weight_ih": "input",
    "weight_hh": "hidden",
    "bias_ih": "input_bias",
    "bias_hh": "hidden_bias",
    "weight_hr": "projection",
}
_FORWARDS = {nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward, AbstractFused.forward}


def is_recurrent(module: nn.Module) -> bool:
    """Whether `module` is a recurrent layer: `torch.nn.LSTM`, `GRU`, `RNN`, an heir that runs as they do, or ours.

    A subclass with a `forward` of its own is not: nobody knows what it does.
    """
    if isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        return type(module).forward in _FORWARDS
    return isinstance(module, Recurrent)


def cells_of(module: nn.Module) -> list[list[AbstractCell]]:
    """The cells of a recurrent layer, `[layer][direction]`, on the layer's live parameters.

    Nothing is copied: `cells_of(lstm)[0][0].hidden.weight is lstm.weight_hh_l0`. What is put in the place of a part of
    a cell does not reach the layer.

    >>> from torch import nn
    >>> lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True)
    >>> [[cell.input_size for cell in row] for row in cells_of(lstm)]
    [[8, 8], [32, 32]]
    """
    if isinstance(module, Recurrent):
        return module.rows()
    if not is_recurrent(module):
        raise TypeError(
            f"cells_of: got a {type(module).__name__}, wanted an nn.LSTM, nn.GRU or nn.RNN whose forward is torch's,"
            " or a compactrnn layer"
        )
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    return [[_bind(module, f"_l{i}{suffix}") for suffix in suffixes] for i in range(module.num_layers)]  # pyright: ignore


def _bind(module: Any, suffix: str) -> AbstractCell:
    gates = GATES[module.mode]
    parts = {own: _part(module, name + suffix) for name, own in PARTS.items() if _has(module, name)}
    rows, columns = p.shape if isinstance(p := parts["input"], Tensor) else (p.out_features, p.in_features)
    hidden_size = rows // gates
    options: dict[str, Any] = {"bias": "input_bias" in parts}
    with torch.device("meta"):
        if module.mode == "LSTM":
            projection = parts["projection"].shape[0] if "projection" in parts else 0  # pyright: ignore
            cell = LSTM(columns, hidden_size, proj_size=projection, **options)  # pyright: ignore
        elif module.mode == "GRU":
            cell = GRU(columns, hidden_size, **options)
        else:
            cell = Elman(columns, hidden_size, nonlinearity=module.nonlinearity, **options)
    for name, part in parts.items():
        delattr(cell, name)
        if isinstance(part, Tensor) and part.dim() == 2:
            part = DenseWeight.of(part, 1 if name == "projection" else gates)
        setattr(cell, name, part)
    return cell


def _has(module: Any, name: str) -> bool:
    return (module.bias or not name.startswith("bias")) and (module.proj_size != 0 or name != "weight_hr")


def _part(module: nn.Module, name: str) -> Tensor | AbstractWeight:
    part = module._parameters.get(name)
    if part is None:
        part = module._modules.get(name)
    if isinstance(part, Tensor | AbstractWeight):
        return part
    raise UnsupportedModelError(
        f"{type(module).__name__}.{name} is not a parameter but computed from others (weight norm, spectral norm,"
        " torch's pruning); make it one first: torch.nn.utils.parametrize.remove_parametrizations,"
        " remove_weight_norm or prune.remove"
    )
