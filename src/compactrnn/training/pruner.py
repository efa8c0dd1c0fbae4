"""The compressor of a phase, and what it learns of a teacher."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..layers.matrices import matrices
from ..models.base import AbstractModel
from ..runtime.storage import matches
from ..tasks.base import AbstractTask
from .recipe import PhaseOptions


def build_pruner(
    model: AbstractModel, task: AbstractTask, options: PhaseOptions, trained: AbstractModel | None = None
) -> Any:
    """The pruner of a phase, or None; `trained` is the model before the phase factorized it."""
    if options.compress is None:
        return None
    from ..compress import Delta, Doping, GroupLasso, Magnitude, NeuronSelection, Quantize, ThresholdRamp
    from ..weights import BlockSparse, Sparse

    given = options.compress.arguments()
    if options.compress.method == "doping":
        return _Doped(model, Doping(model, **given, trained=trained))
    if options.compress.method == "quantize":
        weights, known = given.pop("weights"), [name for matrix in matrices(model) for name in matrix.names]
        own = {key: kind for key, kind in model.weight_types().items() if any(matches(key, name) for name in known)}
        by_name = {**own, **(weights if isinstance(weights, dict) else {"*": weights})} if own else weights
        return Quantize(model, by_name, **given)
    if options.compress.method == "delta":
        return Delta(model, task.calibration_inputs(), **given)
    if options.compress.method == "magnitude":
        keep, block = given.pop("keep"), given.pop("block", None)
        slopes = {name: given.pop(name) for name in ("ramp", "slope") if name in given}
        if given.get("schedule") == "threshold":
            given["schedule"] = ThresholdRamp(**slopes)
            return Magnitude(model, BlockSparse(block or (1, 1), keep, balanced=False), **given)
        return Magnitude(model, BlockSparse(block, keep) if block else Sparse(keep), **given)
    make = NeuronSelection if options.compress.method == "neuron_selection" else GroupLasso
    return make(model, task.example_inputs(), **given)


def build_distill(model: nn.Module, teacher: nn.Module | None, options: PhaseOptions) -> Any:
    """What compares the model with its teacher, or None."""
    if teacher is None or options.distill is None:
        return None
    from ..compress import Distill

    given = {name: value for name, value in vars(options.distill).items() if name != "teacher"}
    return Distill(model, teacher, **given)


class _Doped:
    """`Doping` with the calls of the pruners."""

    def __init__(self, model: nn.Module, doping: Any):
        self.model, self.doping = model, doping
        self.step, self.state_dict, self.load_state_dict = doping.step, doping.state_dict, doping.load_state_dict

    def penalty(self) -> float:
        return 0.0

    def shrink(self) -> nn.Module:
        self.doping.finish()
        return self.model


def units_left(pruner: Any) -> dict[str, int]:
    """The units of each layer that are neither dead nor being pruned; nothing of a pruner of single weights."""
    from ..compress.dead import find_dead

    if not hasattr(pruner, "groups"):
        return {}
    gone = find_dead(pruner.groups)
    for name, pruned in pruner.method.pruned.items():
        gone[name] = gone[name] | pruned.cpu()
    return {name: int((~units).sum()) for name, units in gone.items()}
