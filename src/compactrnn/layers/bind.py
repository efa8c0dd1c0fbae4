"""The cell that the parameters of a torch layer make."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._errors import UnsupportedModelError
from .._ordinary import who_looks_on
from ..cells import GRU, LSTM, AbstractCell, DeltaCell, Elman, Projected
from ..weights.base import AbstractWeight
from ..weights.dense import DenseWeight

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_MODES = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU", nn.RNNCell: "RNN_TANH"}
# torch's name of a part, and ours
PARTS = {
    "weight_ih": "input",
    "weight_hh": "hidden",
    "bias_ih": "input_bias",
    "bias_hh": "hidden_bias",
    "weight_hr": "projection",
}


def bind(module: Any, suffix: str) -> AbstractCell:
    """The cell on the parameters of `module`, torch's or a subclass, whose names end in `suffix`: `_l0_reverse`.

    Those of torch's cells have none.
    """
    return _cell(module, suffix, _parts(module, suffix))


def _cell(module: Any, suffix: str, parts: dict[str, Any]) -> AbstractCell:
    mode = _mode(module)
    gates = GATES[mode]
    rows, columns = p.shape if isinstance(p := parts["input"], Tensor) else (p.out_features, p.in_features)
    hidden_size = rows // gates
    options: dict[str, Any] = {"bias": "input_bias" in parts}
    with torch.device("meta"):
        if mode == "LSTM":
            cell = LSTM(columns, hidden_size, **options)
            if (p := parts.get("projection")) is not None:
                cell = Projected(cell, p.shape[0] if isinstance(p, Tensor) else p.out_features)
        elif mode == "GRU":
            cell = GRU(columns, hidden_size, **options)
        else:
            cell = Elman(columns, hidden_size, nonlinearity=module.nonlinearity, **options)
    for name, part in parts.items():
        delattr(cell, name)
        if isinstance(part, Tensor) and part.dim() == 2:
            part = DenseWeight.of(part, 1 if name == "projection" else gates)
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):  # computed
            cell.register_buffer(name, part)
        else:
            setattr(cell, name, part)
    thresholds = module._buffers.get(thresholds_name(suffix))
    return cell if thresholds is None else DeltaCell(cell, thresholds)


def thresholds_name(suffix: str) -> str:
    """The name of the buffer that has the thresholds of a layer's cell, see `DeltaCell`."""
    return f"thresholds{suffix}"


_Kept = tuple[dict[str, Any], dict[str, tuple[int, ...]], AbstractCell]
_bound: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, frozenset[str], int], _Kept]] = weakref.WeakKeyDictionary()


def bound_cell(module: Any, suffix: str) -> AbstractCell:
    """`bind(module, suffix)`, the same cell for as long as the parameters are the same objects of the same sizes.

    The cell is to be run only. Parts that are computed, by a parametrization or for `torch.func.functional_call`, have
    their present value. Its loop over time is traced once, so a layer that is run by cells needs the same ones every
    time. Threads may run a module at a time: computed values belong to one call, so each thread then has its own cell.
    """
    given = _parts(module, suffix, computed=True)
    thresholds = module._buffers.get(thresholds_name(suffix))
    sizes = {n: tuple(p.shape) if isinstance(p, Tensor) else (p.out_features, p.in_features) for n, p in given.items()}
    computed = {own for own, part in given.items() if isinstance(part, Tensor) and not isinstance(part, nn.Parameter)}
    lasting = {own: part for own, part in given.items() if own not in computed} | {"thresholds": thresholds}
    key = suffix, frozenset(computed), threading.get_ident() if computed else 0
    kept = _bound.setdefault(module, {}).get(key)
    if kept is not None and kept[1] == sizes and kept[0].keys() == lasting.keys():
        if all(kept[0][name] is part for name, part in lasting.items()):
            return _with_values(kept[2], {own: given[own] for own in computed})
    cell = _cell(module, suffix, given)
    if not (computed and (thresholds is not None or who_looks_on())):
        _bound[module][key] = lasting, sizes, cell
    return cell


def _with_values(cell: AbstractCell, values: Mapping[str, Tensor]) -> AbstractCell:
    """The cell with other tensors in the place of buffers."""
    for name, value in values.items():
        held = cell if value.dim() == 1 else getattr(cell, name)
        held._buffers[name if held is cell else "weight"] = value
    return cell


def _mode(module: Any) -> str:
    return (
        module.mode if isinstance(module, nn.RNNBase) else next(m for k, m in _MODES.items() if isinstance(module, k))
    )


def _has(module: Any, name: str) -> bool:
    if name == "weight_hr":
        return getattr(module, "proj_size", 0) != 0
    return module.bias or not name.startswith("bias")


def _parts(module: Any, suffix: str, computed: bool = False) -> dict[str, Any]:
    return {own: _part(module, name + suffix, computed) for name, own in PARTS.items() if _has(module, name)}


def _part(module: nn.Module, name: str, computed: bool) -> Tensor | AbstractWeight:
    part = module._parameters.get(name)
    if part is None:
        part = module._modules.get(name)
    if part is None and computed and parametrize.is_parametrized(module, name):
        part = getattr(module, name)
    if isinstance(part, Tensor | AbstractWeight):
        return part
    raise UnsupportedModelError(
        f"{type(module).__name__}.{name} is not a parameter but computed from others (weight norm, spectral norm,"
        " torch's pruning); make it one first: torch.nn.utils.parametrize.remove_parametrizations,"
        " remove_weight_norm or prune.remove"
    )
