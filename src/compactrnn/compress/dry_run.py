"""A trial cut on a copy of the model, before the training."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from ..graph.trace import Trace
from ..graph.units import Units, find_units
from .group_finding import find_groups
from .groups import Group
from .planning import plan_cuts


def dry_run(
    model: nn.Module,
    trace: Trace,
    units: Units,
    example_inputs: tuple[Tensor, ...],
    excluded: Collection[str] = (),
    embeddings: bool = False,
) -> Units:
    """Cut some units out of every layer of a copy of `model`, but for the groups called `excluded`.

    Returns `units`, or where states that the model hands back cannot be narrower the units that keep them as they are;
    `embeddings` as in `find_units`.

    Warns:
        UserWarning: no unit can leave some of the layers; says which, and why.

    Raises:
        UnsupportedModelError: no unit can leave any layer, or the smaller copy gives other outputs; says why.
    """
    groups = find_groups(model, trace, units)
    _check_layers(model, trace, units, groups)
    try:
        _try(model, trace, units, example_inputs, excluded)
    except UnsupportedModelError:
        graphs = [graph for graph in (trace, trace.training) if graph is not None]
        if not any(any(graph.state_outputs()) for graph in graphs):
            raise
        for graph in graphs:
            graph.whole_states = True
        units = find_units(trace, example_inputs, embeddings)
        _try(model, trace, units, example_inputs, excluded)
    return units


def _try(
    model: nn.Module, trace: Trace, units: Units, example_inputs: tuple[Tensor, ...], excluded: Collection[str]
) -> None:
    model = copy_module(model)
    groups = find_groups(model, trace, units)
    generator = torch.Generator().manual_seed(0)
    for group in groups:
        silent = torch.rand(group.count, generator=generator) < 0.3
        group.excluded = group.name in excluded
        if not group.left_alone:
            group.decay_((~silent).float())
    plan_cuts(model, trace, groups, units, example_inputs)


def _check_layers(model: nn.Module, trace: Trace, units: Units, groups: list[Group]) -> None:
    """Name the layers that no unit can leave."""
    left = {leaf.name or "the model" for key, leaf in trace.leaves.items() if not any(key in g.keys() for g in groups)}
    reasons = sorted(f"{trace.leaves[key].name or 'the model'}: {reason}" for key, reason in units.unprunable.items())
    if not reasons:
        return
    why = f"all units stay in {', '.join(sorted(left))} ({'; '.join(reasons)})"
    if not groups:
        raise UnsupportedModelError(f"{type(model).__name__}: no unit can be removed: {why}")
    warnings.warn(f"{type(model).__name__}: {why}", stacklevel=4)
