"""Errors for models that cannot be exported, with the reason and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.parameter import is_lazy

from .._errors import UnsupportedModelError
from ..layers import is_cell

_BASES = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def check_model(model: Any) -> None:
    """Raise an error for what is no nn.Module, is TorchScript inside, or has no values yet, or NaN among them."""
    if not isinstance(model, nn.Module):
        hint = "; make a model and load these weights into it: model.load_state_dict(...)"
        weights = isinstance(model, Mapping) and any(isinstance(v, Tensor) for v in model.values())
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}{hint if weights else ''}")
    kind = type(model).__name__
    for name, module in model.named_modules():
        if name and isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"{kind}: {name} is a torch.jit.ScriptModule, which torch.export cannot follow; put the Python module"
                " that it was made from in its place"
            )
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise UnsupportedModelError(
                f"{kind}: {name} is of a lazy layer, which has no values yet: call the model once, and load the trained"
                " weights"
            )
        if tensor.is_meta:
            raise UnsupportedModelError(
                f"{kind}: {name} is on the meta device, where numbers have no values: load the trained"
                " weights first, by model.load_state_dict(weights, assign=True)"
            )
        if isinstance(tensor, nn.Parameter) and (count := int(tensor.detach().isnan().sum())):
            raise UnsupportedModelError(f"{kind}: {name} has {count} NaN among its {tensor.numel()} numbers")


def no_recurrent_layer(model: nn.Module) -> UnsupportedModelError:
    """The error for a model without a layer that runs over sequences; names what comes nearest to one."""
    found = [text for name, module in model.named_modules() if (text := _nearest(name, module))]
    wanted = "nn.LSTM, nn.GRU, nn.RNN, a cell of these, or a layer of compactrnn"
    advice = (
        "; it is units of such layers that are removed. Use one of them, or write the step as a cell"
        " (compactrnn.AbstractCell) and run it with compactrnn.Recurrent, see docs/extending.md"
    )
    held = [f"{n} ({type(m).__name__})" for n, m in model.named_modules() if n and not any(m.children())]
    code = f"its recurrence, if it has one, is code around {', '.join(held[:5]) or 'operations'}, not such a layer"
    here = "; ".join(found) or code
    return UnsupportedModelError(f"{type(model).__name__} holds no recurrent layer ({wanted}): {here}{advice}")


def not_exported(what: str, error: Exception) -> UnsupportedModelError:
    """The error for code that torch.export fails on, in terms of the model's code."""
    reason = str(error).strip().split("\n")[0]
    if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in reason:
        return UnsupportedModelError(
            f"{what}: its Python code depends on values of tensors, as `if x.mean() > 0`, `float(x)` or `x.item()` do;"
            " what runs must be the same for all inputs: use torch.where, and keep such numbers as tensors"
        )
    if ".numpy()" in reason:
        return UnsupportedModelError(
            f"{what}: takes numbers out of tensors into NumPy, where they cannot be followed; use torch operations"
        )
    return UnsupportedModelError(f"{what}: torch.export cannot follow it ({type(error).__name__}: {reason})")


def _nearest(name: str, module: nn.Module) -> str:
    where = name or "the model"
    if is_cell(module):
        kind = type(module).__name__
        layer = f"nn.{kind.removesuffix('Cell')}"
        return f"{where} is an nn.{kind}, one step that Python code repeats, which is not followed (use {layer})"
    base = next((b for b in _BASES if isinstance(module, b)), None)
    if base is not None:
        kind = type(module)
        return (
            f"{where} ({kind.__name__}) is a subclass of nn.{base.__name__} with a forward of its own, of which nothing"
            f" is known (put a plain nn.{base.__name__} inside a module of yours)"
        )
    if isinstance(module, torch.jit.ScriptModule):
        return f"{where} is a TorchScript module, which cannot be changed (give the model that it was made from)"
    if type(module).__module__.startswith("torch.ao.nn") and type(module).__name__ in ("LSTM", "GRU", "RNN"):
        return f"{where} is quantized (give the float model)"
    return ""
