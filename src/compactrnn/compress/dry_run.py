"""Try the cut before the training."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from ..graph.trace import Trace
from ..graph.units import Units
from .groups import find_groups
from .surgery import shrink


def dry_run(
    model: nn.Module, trace: Trace, units: Units, example_inputs: tuple[Tensor, ...], excluded: Collection[str] = ()
) -> None:
    """Cut a few units out of every layer of a copy of `model`, up to the groups called `excluded`.

    Warns:
        UserWarning: no unit can leave some of the layers; says which, and why.

    Raises:
        UnsupportedModelError: no unit can leave any layer, or the smaller copy gives other outputs; says why.
    """
    model = copy_module(model)
    groups = find_groups(model, trace, units)
    kept = sorted(
        f"{leaf.name or 'the model'} ({units.kept[key]})" for key, leaf in trace.leaves.items() if key in units.kept
    )
    if kept and not groups:
        raise UnsupportedModelError(
            f"{type(model).__name__}: no unit can be removed from {'; '.join(kept)}; move that code out of the model,"
            " or into forward on the example_inputs"
        )
    generator = torch.Generator().manual_seed(0)
    for group in groups:
        if group.name not in excluded:
            silent = torch.rand(group.count, generator=generator) < 0.3
            group.fade_((~silent).float())
    shrink(model, trace, groups, units, example_inputs)
    tied = sorted({leaf.name for key, leaf in trace.leaves.items() if not any(key in g.keys() for g in groups)})
    if kept:
        warnings.warn(f"all units stay in {', '.join(tied)}: {'; '.join(kept)}", stacklevel=3)
