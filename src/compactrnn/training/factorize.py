"""The factorization at the start of a phase."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..models.base import AbstractModel
from ..tasks.base import AbstractTask
from ..weights.base import WeightSpec
from ..weights.low_rank import LowRank
from ..weights.registry import weight_spec
from .recipe import FactorizeOptions


def factorize_model_(model: AbstractModel, task: AbstractTask, options: FactorizeOptions) -> None:
    """Factorize `model` in place, as `[phases.NAME.factorize]` says.

    Raises:
        ValueError: names that the model does not have, or a size that cannot be reached.
    """
    from ..compress.factorize import factorize_on
    from ..compress.projection import project_

    wishes: dict[str, WeightSpec | None] = {
        name: weight_spec(table) if table else None for name, table in options.weights.items()
    }
    if options.rank is not None or options.energy is not None:
        wishes = {"*": LowRank(rank=options.rank, energy=options.energy), **wishes}
    batches = [task.batch(number) for number in range(min(options.calibration, task.updates_per_epoch()))]
    given = [(b.inputs,) if b.lengths is None else (b.inputs, b.lengths) for b in batches]
    if options.projection:
        project_(model, options.projection, given or None, _call)
    if wishes or options.keep is not None:
        factorize_on(model, wishes, given, _call, options.keep)


def _call(model: nn.Module, arguments: Any) -> Any:
    device = next(model.parameters()).device
    return model(*(x.to(device) for x in arguments))
