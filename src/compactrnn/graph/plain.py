"""Parametrized tensors replaced by their present values."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

M = TypeVar("M", bound=nn.Module)

_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)


def plain_(model: M) -> M:
    """Replace what `torch.nn.utils.parametrize`, weight norm, spectral norm and pruning compute by its present value.

    In place; returns the model. Each of these parameters is frozen if all that it was computed from are.

    >>> layer = plain_(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)))
    >>> [name for name, _ in layer.named_parameters()]
    ['bias', 'weight']
    """
    made: dict[tuple[int, ...], nn.Parameter] = {}
    for module in list(model.modules()):
        if isinstance(module, torch.jit.ScriptModule):  # has nothing of this, and no plain dicts
            continue
        before = set(module._parameters)
        if parametrize.is_parametrized(module):
            _plain_tensors_(module, made)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _HOOKS):
                hook.remove(module)
                del module._forward_pre_hooks[key]
        if isinstance(module, nn.RNNBase) and set(module._parameters) != before:
            module._init_flat_weights()
    return model


@torch.no_grad()
def _plain_tensors_(module: nn.Module, made: dict[tuple[int, ...], nn.Parameter]) -> None:
    """`made` are the parameters so far: what is computed in the same way from the same tensors is one parameter."""
    # not by remove_parametrizations: it changes the class, which copies of a module have in common
    parametrizations = module._modules.pop("parametrizations")
    assert isinstance(parametrizations, nn.ModuleDict)
    parametrizations.eval()  # spectral norm goes on estimating in training
    module.__class__ = type(module).__bases__[0]
    for name, computed in parametrizations.items():
        value = computed().detach().clone()
        if parameters := list(computed.parameters(recurse=False)):
            same = (*map(id, parameters), *map(id, computed.children()))
            one = made.setdefault(same, nn.Parameter(value, any(p.requires_grad for p in parameters)))
            module.register_parameter(name, one)
        else:
            module.register_buffer(name, value)


def computed_by_hook(module: nn.Module, name: str) -> bool:
    """Whether a hook computes the attribute before each call, as the older weight norm and torch's pruning do."""
    hooks = (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _HOOKS))
    return any(getattr(hook, "name", getattr(hook, "_tensor_name", None)) == name for hook in hooks)
