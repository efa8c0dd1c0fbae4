"""Putting gates on the tensors of a model, and multiplying them into the weights of a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .._errors import UnsupportedModelError
from ..weights.base import AbstractWeight
from ..weights.masked import MaskedWeight
from .computed import Factors
from .gates import Gated


def gate_tensor_(model: nn.Module, owner: nn.Module, name: str, gated: Gated) -> None:
    """Put `gated` on the tensor `name` of `owner`, and on the same parameter wherever else `model` has it."""
    same = [place for place in _tensors(model) if _tensor(*place) is _tensor(owner, name)]
    factors = Factors(getattr(owner, name).detach())  # for the pruner's own use, the same ones in every place
    for module, attribute in same:
        parametrize.register_parametrization(module, attribute, gated, unsafe=True)
        parametrize.register_parametrization(module, attribute, factors, unsafe=True)
        if isinstance(module, nn.RNNBase):
            setattr(type(module), "__deepcopy__", _deepcopy)  # noqa: B010  (of the class of this very module)


def _deepcopy(layer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of a parametrized layer of torch, without the graph of the weights that its last call has computed."""
    if id(layer) in memo:
        return memo[id(layer)]
    twin = memo[id(layer)] = layer.__new__(type(layer))
    twin.__dict__ = copy.deepcopy({**layer.__dict__, "_flat_weights": []}, memo)
    with torch.no_grad():
        twin._init_flat_weights()  # pyright: ignore
    return twin


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The module and the name of every parameter, plain or parametrized."""
    for module in model.modules():
        if not isinstance(module, parametrize.ParametrizationList):
            names = [*module._parameters, *getattr(module, "parametrizations", ())]
            yield from ((module, name) for name in names)


def _tensor(module: nn.Module, name: str) -> object:
    """The parameter, or what the parametrized one is computed from."""
    chain = getattr(module, "parametrizations", {})
    return getattr(chain[name], "original", chain[name]) if name in chain else module._parameters[name]


def gate_weight_(model: nn.Module, weight: AbstractWeight, axis: int, gated: Gated) -> None:
    """Put `gated` on the rows or the columns of a structured weight, wherever `model` has it.

    Raises:
        UnsupportedModelError: the weight has a factor in common with another one.
    """
    if not isinstance(weight, MaskedWeight):
        own = {id(p) for p in weight.parameters()}
        within = set(weight.modules())
        others = {id(p) for m in model.modules() if m not in within for p in m._parameters.values()}
        if own & others:
            raise UnsupportedModelError(
                f"{type(model).__name__}: a {type(weight).__name__} shares a factor with another weight, and a gate"
                " belongs to one of them; give each its own factor, or use a method without gates"
            )
        masked = MaskedWeight(weight)
        for parent in [m for m in model.modules() if m is not masked]:
            for name, child in parent._modules.items():
                if child is weight:
                    parent._modules[name] = masked
        weight = masked
    name = "columns_kept" if axis else "rows_kept"
    gated.to(getattr(weight, name).device)
    parametrize.register_parametrization(weight, name, gated, unsafe=True)


def fold_masks_(model: nn.Module) -> nn.Module:
    """Multiply the masks of every weight that can scale its rows and columns exactly into it, and take them off.

    Of a copy without parametrizations, in which a gate has become part of the mask. Returns the model.
    """
    plain: dict[nn.Module, AbstractWeight] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, MaskedWeight) and type(child.inner).scale_ is not AbstractWeight.scale_:
                if child not in plain:
                    plain[child] = child.inner.scale_(out=child.rows_kept, inp=child.columns_kept)
                parent._modules[name] = plain[child]
    return model
