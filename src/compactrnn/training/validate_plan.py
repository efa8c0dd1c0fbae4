"""Early check that the pruned and factorized models of a recipe can be rebuilt from it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from .._errors import UnsupportedModelError, invalid
from ..models.base import AbstractModel
from ..tasks.base import AbstractTask
from .factorize import factorize_model_
from .pruner import build_pruner
from .recipe import CompressOptions, PhaseOptions


def validate_phases(
    model: AbstractModel,
    task: AbstractTask,
    model_options: Mapping[str, Any],
    phases: Sequence[tuple[str, PhaseOptions]],
    begun: bool = False,
) -> None:
    """Try on copies what the phases do to the model; the first has `begun` with a model that is factorized already.

    Raises:
        ValueError: a phase cannot be run, or its result could not be loaded; says which.
        UnsupportedModelError: the model cannot be followed.
    """
    options = dict(model_options)
    for number, (name, phase) in enumerate(phases):
        if phase.distill is not None and phase.distill.hidden:
            from ..compress.hidden_states import layer_pairs

            try:
                layer_pairs(model, model, phase.distill.hidden)  # a teacher has layers of the same names
            except ValueError as error:
                raise ValueError(f"phases.{name}.distill.{error}") from None
        if phase.factorize is not None and not (begun and number == 0):
            model = copy.deepcopy(model)
            try:
                factorize_model_(model, task, replace(phase.factorize, calibration=0))
            except ValueError as error:
                raise ValueError(f"phases.{name}.factorize: {error}") from error
            options |= model.size_options()
        trained = copy.deepcopy(model)
        if phase.compress is not None:
            try:
                pruner = build_pruner(trained, task, phase)
            except ValueError as error:
                raise ValueError(f"phases.{name}.compress: {error}") from error
        try:
            trained.adjust(task.model_options(**{**options, **phase.model}))
        except ValueError as error:
            raise ValueError(f"phases.{name}.model: {error}") from error
        if phase.compress is not None:
            if phase.compress.method in ("magnitude", "doping", "quantize", "delta"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    model = pruner.shrink()
                options |= model.size_options()
                if phase.compress.method == "delta":
                    _check_again(model, task, options, name)
                continue
            validate_plan(model, task, options, phase.compress, name)


def validate_plan(
    model: AbstractModel, task: AbstractTask, model_options: Mapping[str, Any], compress: CompressOptions, phase: str
) -> None:
    """Shrink a copy of `model` as the phase might, and build the result from `model_options` with its sizes.

    Raises:
        ValueError: the two are not alike: the run could be trained, but not saved in a form that can be loaded.
        UnsupportedModelError: the model cannot be followed.
    """
    from ..compress import GroupLasso
    from ..compress.selection import fractions

    pruner = GroupLasso(copy.deepcopy(model), task.example_inputs(), strength=0.0)
    shares = None
    if compress.keep is not None and compress.method == "group_lasso":
        shares = fractions(compress.keep, pruner.groups)
    for number, group in enumerate(pruner.groups):
        # a penalty or gates leave of each set what they like, so no two of them may have to be alike
        kept = group.count - 1 - number if shares is None else round(shares[group.name] * group.count)
        group.decay_((torch.arange(group.count) < max(kept, compress.minimum or 1)).float())
    small = pruner.shrink()
    assert isinstance(small, AbstractModel)
    reason = next((f", as {g.name} is read by {g.reason}" for g in pruner.groups if g.reason), "")
    _check_again(small, task, {**model_options, **small.size_options()}, phase, reason)


def _check_again(
    model: AbstractModel, task: AbstractTask, options: Mapping[str, Any], phase: str, reason: str = ""
) -> None:
    """Raise `ValueError` unless `options` build a model with the parameters and buffers of `model`."""
    with torch.random.fork_rng(devices=[]):
        try:
            again = task.build_model(task.model_options(**options))
        except (TypeError, ValueError, UnsupportedModelError) as error:
            raise _refusal(phase, str(error)) from error
    wanted, got = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (again, model))
    if odd := [name for name in {**got, **wanted} if got.get(name) != wanted.get(name)]:
        name = odd[0]
        raise _refusal(phase, f"{name}: shape {got.get(name)} in place of {wanted.get(name)}{reason}")


def _refusal(phase: str, got: str) -> ValueError:
    return invalid(
        f"phases.{phase}.compress",
        got=f"a model that would not be one of the recipe ({got})",
        expected="one that other sizes in model.hidden describe",
        hint="leave out residual sums, and weights that cannot lose single rows",
    )
