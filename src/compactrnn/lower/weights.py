"""Weights outside of recurrent layers, as the terms that the core multiplies with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ..cells.base import AbstractCell
from ..layers import Embedding, is_recurrent
from ..weights.base import AbstractWeight
from .adaptive_softmax import AdaptiveLogSoftmax
from .factors import Factored

M = TypeVar("M", bound=nn.Module)
_LOW_RANK = {"left": "factor0", "right": "factor1"}  # of an embedding, which is exported as it is


@torch.no_grad()
def with_products(model: M) -> M:
    """A copy of `model`, on the same parameters, with `Factored` ones in place of weights; as it is where it has none.

    An adaptive softmax becomes one that can be exported.

    Recurrent layers and cells have their own way, and an embedding looks up rows of its weight.
    """
    if is_recurrent(model) or isinstance(model, AbstractCell | Embedding):
        return model
    parts = {name: child and _product(child) for name, child in model._modules.items()}
    if all(part is child for part, child in zip(parts.values(), model._modules.values(), strict=True)):
        return model
    twin = copy.copy(model)
    twin._modules = parts
    return twin


def _product(module: nn.Module) -> nn.Module:
    if isinstance(module, AbstractWeight):
        return Factored(module)
    module = with_products(module)
    return AdaptiveLogSoftmax.of(module) if type(module) is nn.AdaptiveLogSoftmaxWithLoss else module


def outer_weights(model: nn.Module) -> dict[str, AbstractWeight]:
    """The weights outside of recurrent layers and cells, by the path of the module that has each as its `weight`."""
    inner = tuple(
        f"{path}." for path, module in model.named_modules() if is_recurrent(module) or isinstance(module, AbstractCell)
    )
    return {
        path.removesuffix(".weight"): module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, AbstractWeight) and not path.startswith(inner)
    }


def product_names(model: nn.Module) -> Callable[[str], str]:
    """What the factors of these weights are called: those of `fc` are `fc.factor0` and `fc.factor1`."""
    weights = outer_weights(model)

    def rename(name: str) -> str:
        owner = next((path for path in weights if f"{name}.".startswith(f"{path}.weight.")), None)
        if owner is None:
            return name
        if len(weights[owner].terms()) == 1:
            return owner
        part = name.removeprefix(f"{owner}.weight.")
        return f"{owner}.{_LOW_RANK.get(part, part)}"

    return rename
