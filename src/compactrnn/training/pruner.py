"""The compressor of a phase."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from ..tasks.base import AbstractTask
from .recipe import PhaseOptions


def build_pruner(model: nn.Module, task: AbstractTask, options: PhaseOptions) -> Any:
    """The group lasso of a phase, or None."""
    if options.compress is None:
        return None
    from ..compress import GroupLasso

    given = {name: value for name, value in asdict(options.compress).items() if value is not None}
    return GroupLasso(model, task.example_inputs(), **given)


def units_left(pruner: Any) -> dict[str, int]:
    """The units of each layer that are neither dead nor being pruned."""
    from ..compress.dead import find_dead

    gone = find_dead(pruner.groups)
    for name, pruned in pruner.method.pruned.items():
        gone[name] = gone[name] | pruned.cpu()
    return {name: int((~units).sum()) for name, units in gone.items()}
