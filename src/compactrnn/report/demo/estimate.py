"""Estimate of the demo's training time on this machine."""

from __future__ import annotations

from dataclasses import replace

from ...training.estimate import seconds_per_update
from ...training.recipe import Recipe


def estimated_seconds(recipe: Recipe, scratch: Recipe) -> float:
    """Estimated seconds of all phases, from a few updates of each."""
    total, hidden = 0.0, recipe.model.hidden
    for phase in recipe.phases.values():
        total += phase.total_updates(0) * seconds_per_update(_with(recipe, hidden), phase)
        if phase.compress is not None and isinstance(keep := phase.compress.keep, float):
            hidden = tuple(max(1, round(n * keep)) for n in hidden)
    (phase,) = scratch.phases.values()
    updates = sum(phase.total_updates(0) for phase in recipe.phases.values())
    return total + updates * seconds_per_update(_with(scratch, hidden), phase)


def _with(recipe: Recipe, hidden: tuple[int, ...]) -> Recipe:
    return replace(recipe, model=replace(recipe.model, hidden=hidden))
