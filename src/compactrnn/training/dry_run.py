"""What a run would be, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .check import check_machine
from .progress import NullProgress
from .random_state import get_random_state, set_random_state
from .recipe import Recipe
from .run_folder import RunFolder
from .trainer import Trainer
from .validate_plan import validate_phases


@dataclass(frozen=True)
class Outlook:
    """The parameters before the first update, and the updates of each phase at most."""

    parameters: int
    updates: dict[str, int]


def dry_run(recipe: Recipe, out: str | Path) -> Outlook:
    """Build what `train(recipe, out)` builds before its first update, and forget it; nothing is written.

    Raises:
        ValueError: `train` would refuse the recipe.
        UnsupportedModelError: a phase prunes a model that cannot be followed.
    """
    check_machine(recipe.training)
    state = get_random_state()
    try:
        trainer = Trainer(recipe, RunFolder(Path(out)), NullProgress())
        validate_phases(trainer.model, trainer.task, trainer.model_options, list(recipe.phases.items()))
        return Outlook(
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
            updates={
                name: phase.total_updates(trainer.task_in(phase).updates_per_epoch())
                for name, phase in recipe.phases.items()
            },
        )
    finally:
        set_random_state(state)
