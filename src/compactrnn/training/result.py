"""The outcome of a run: its weights and `result.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._checkpoint import save_weights
from .._files import write_json

if TYPE_CHECKING:
    from .trainer import Trainer


def write_result(trainer: Trainer, elsewhere: float) -> None:
    """Write the final weights, and what they reach; `elsewhere` are CPU seconds of other processes."""
    model, task, recipe, folder = trainer.model, trainer.task, trainer.recipe, trainer.folder
    save_weights(folder.model, model.state_dict())
    folder.write_config(trainer.config())
    scores = task.scores(model, "test")
    valid = task.evaluate(model, "valid", recipe.training.validation_streams)
    spent = trainer.clock.read()
    spent["cpu_seconds"] += elsewhere
    result = {
        "metric": task.metric,
        "test": scores.pop(task.metric),
        **{f"test_{name}": value for name, value in scores.items()},
        "valid": valid,
        "seed": recipe.training.seed,
        "updates": {**trainer.updates, "total": sum(trainer.updates.values())},
        "parameters": sum(p.numel() for p in model.parameters()),
        "recurrent_parameters": model.recurrent_parameters(),
        **({"weights": weights} if (weights := model.size_options().get("weights")) else {}),
        **{name: round(value, 1) for name, value in spent.items()},
        **{name: value for name in ("solved", "ended_by") if (value := getattr(trainer, name)) is not None},
        "threads": torch.get_num_threads(),
        "precision": trainer.precision,
        "machine": trainer.machine,
        "recipe": recipe.as_dict(),
    }
    write_json(folder.result, result)
