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

    groups, state = pruner.groups, pruner.state_dict()
    dead = find_dead(groups)
    return {g.name: int((~(dead[g.name] | state[f"out.{g.name}"].cpu())).sum()) for g in groups}
