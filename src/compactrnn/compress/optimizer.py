"""An optimiser that goes on after its model has been cut."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..graph.copy import copy_module


@torch.no_grad()
def move_optimizer_(
    optimizer: Optimizer, model: nn.Module, small: nn.Module, cut: Callable[[nn.Module], nn.Module]
) -> None:
    """Point `optimizer` from the parameters of `model` to those of `small`, cutting its state by the same rows.

    A moment has the shape of its parameter: it is put in the parameter's place in a copy of the model, and the copy is
    cut as the model was. Parameters that `small` stores in another structure start without state.
    """
    old = dict(model.named_parameters())
    new = dict(small.named_parameters())
    renamed = {name: _name_in(name, new) for name in old}
    slots = {key for p in old.values() for key, v in optimizer.state.get(p, {}).items() if _is_moment(v, p)}
    cut_slots = {slot: _cut_slot(optimizer, model, slot, cut) for slot in sorted(slots)}
    for group in optimizer.param_groups:
        moved = []
        for parameter in group["params"]:
            name = next((n for n, p in old.items() if p is parameter), None)
            if name is None:
                moved.append(parameter)
                continue
            target = renamed[name]
            state = optimizer.state.pop(parameter, {})
            if target is None:
                continue
            moved.append(new[target])
            if state:
                optimizer.state[new[target]] = {
                    k: cut_slots[k][target].clone() if k in cut_slots and _is_moment(v, parameter) else v
                    for k, v in state.items()
                }
        group["params"] = moved


def _is_moment(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0


def _cut_slot(
    optimizer: Optimizer, model: nn.Module, slot: str, cut: Callable[[nn.Module], nn.Module]
) -> dict[str, Tensor]:
    """One moment of all parameters, cut."""
    twin = copy_module(model)
    for (_, parameter), (_, stand_in) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        value = optimizer.state.get(parameter, {}).get(slot)
        stand_in.data.copy_(value if value is not None else torch.zeros_like(parameter))
    return {name: p.detach() for name, p in cut(twin).named_parameters()}


def _name_in(name: str, names: dict[str, nn.Parameter]) -> str | None:
    """The parameter's name in the cut model: the same, or within a scattered layer."""
    parts = name.split(".")
    scattered = (".".join([*parts[:i], "layer", *parts[i:]]) for i in reversed(range(len(parts))))
    return next((n for n in (name, *scattered) if n in names), None)
