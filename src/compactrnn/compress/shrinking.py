"""Cutting units out of a model in place, while a pruner goes on with it."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import UnsupportedModelError
from ..graph.follow import follow
from ..graph.trace import Trace
from ..graph.units import find_units
from .gates import AbstractGate
from .group_finding import find_groups
from .groups import Group
from .optimizer_state import cut_state, move_optimizer_
from .plan import PruningPlan
from .surgery import apply_plan, cut, recorded

if TYPE_CHECKING:
    from .pruner import Pruner


@torch.no_grad()
def shrink_in_place(pruner: Pruner, optimizer: Optimizer | None) -> PruningPlan | None:
    """Cut what the method of a pruner has given up for good; returns what was cut, None for nothing.

    All is tried on a copy before the model, the pruner or the optimizer is changed.

    Raises:
        UnsupportedModelError: a layer would keep its width outside, or the smaller model cannot be followed.
    """
    model, groups = pruner.model, pruner.groups
    active = [group for group in groups if not group.left_alone]
    before = copy.deepcopy(model.state_dict())  # also what is no tensor, of modules with an extra state
    try:
        small, plan = _plan(pruner, active, {group.name: group.gate for group in active})
    finally:
        model.load_state_dict(before)
    if all(len(_kept(plan, group)) == group.count for group in groups):
        return None
    plan = replace(plan, weights=recorded(model, digests=False))
    _go_on_with(pruner, small, plan, optimizer)
    return plan


@torch.no_grad()
def cut_in_place(pruner: Pruner, plan: PruningPlan, optimizer: Optimizer | None) -> None:
    """Cut what `shrink_in_place` has cut out of an equal model, whatever the weights are.

    Raises:
        ValueError: the model has another structure; nothing was changed then.
    """
    _go_on_with(pruner, apply_plan(plan, pruner.model, same_weights=False), plan, optimizer)


def _go_on_with(pruner: Pruner, small: nn.Module, plan: PruningPlan, optimizer: Optimizer | None) -> None:
    """Put a smaller model in the place of a pruner's, which goes on with it."""
    model, groups = pruner.model, pruner.groups
    gates = {group.name: group.gate for group in groups if not group.left_alone}
    kept = {group.name: _kept(plan, group) for group in groups}
    trace = _checked_trace(pruner, small, plan, kept)
    held = _held(optimizer, gates)
    if optimizer is not None:
        move_optimizer_(optimizer, model, small, lambda m: cut(m, plan.units, plan.layers, plan.tensors))
    training = model.training
    vars(model).update({name: value for name, value in vars(small).items() if "hooks" not in name})
    model.train(training)
    pruner.method.pruned = {name: mask[kept[name].to(mask.device)] for name, mask in pruner.method.pruned.items()}
    pruner.method.shrunk(model)
    pruner.follow_again(trace)
    for name, old in gates.items():
        if old is not None:
            gate = old.part(kept[name])
            next(group for group in pruner.groups if group.name == name).gate_(model, gate)
            _hold(optimizer, held.get(name, []), gate, kept[name])


def _plan(pruner: Pruner, groups: list[Group], gates: dict[str, AbstractGate | None]) -> tuple[nn.Module, PruningPlan]:
    """The cut of what is given up; gates are 1 in it for the units that stay, so that they can be put on again."""
    for group in groups:
        stays = ~pruner.method.given_up(group).to(group.device)
        if (gate := gates[group.name]) is not None:
            gate.forward = partial(torch.Tensor.float, stays)
        else:
            group.decay_(stays.float())
    try:
        return pruner._plan()
    finally:
        for gate in gates.values():
            if gate is not None:
                del gate.forward


def _kept(plan: PruningPlan, group: Group) -> Tensor:
    """The units of a group that stay."""
    member = group.members[0]
    (found,) = (u for u in plan.units if (u.path, u.layer, u.unit_set) == member.key)
    stays = set(found.kept)
    return torch.tensor([g for g, i in sorted((int(g), i) for i, g in enumerate(member.units)) if i in stays])


def _checked_trace(pruner: Pruner, small: nn.Module, plan: PruningPlan, kept: dict[str, Tensor]) -> Trace:
    """The trace of the smaller model; refuses one with which the pruner could not go on."""
    what, hint = type(pruner.model).__name__, "train on, and call shrink() in the end"
    wide = [layer.path or "the model" for layer in plan.layers if layer.scattered]
    if wide or type(small) is not type(pruner.model):
        raise UnsupportedModelError(f"{what}: {', '.join(wide)} would keep the width of the output; {hint}")
    trace = follow(small, pruner.given)
    groups = find_groups(small, trace, find_units(trace, trace.example.tensors, pruner.embeddings))
    if {group.name: group.count for group in groups} != {name: len(units) for name, units in kept.items()}:
        raise UnsupportedModelError(f"{what}: units hang together in other ways when it is smaller; {hint}")
    return trace


def _held(optimizer: Optimizer | None, gates: dict[str, AbstractGate | None]) -> dict[str, list[tuple[Any, str, Any]]]:
    """For each gate the lists of the optimizer that its parameters are in, their names, and their state."""
    found: dict[str, list[tuple[Any, str, Any]]] = {}
    if optimizer is None:
        return found
    for name, gate in gates.items():
        for key, parameter in gate.named_parameters() if gate is not None else ():
            for group in optimizer.param_groups:
                if any(p is parameter for p in group["params"]):
                    state = dict(optimizer.state.get(parameter, {}))
                    found.setdefault(name, []).append((group["params"], key, state))
    return found


def _hold(optimizer: Optimizer | None, held: list[tuple[Any, str, Any]], gate: AbstractGate, kept: Tensor) -> None:
    """Let an optimizer go on with the parameters of a gate."""
    for parameters, key, state in held:
        parameter = gate.get_parameter(key)
        parameters.append(parameter)
        assert optimizer is not None
        if state:
            optimizer.state[parameter] = {k: cut_state(value, kept) for k, value in state.items()}
