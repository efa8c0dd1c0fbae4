"""The folder of a run: recipe, weights, metrics, checkpoint."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._errors import invalid
from ..tasks.base import AbstractModel, AbstractTask
from ..tasks.table import TASKS
from .checkpoint import load_tree, load_weights, save_tree, write_atomically
from .recipe import Recipe, recipe_from


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies."""

    path: Path

    @property
    def model(self) -> Path:
        """The weights that the run ended with."""
        return self.path / "model.safetensors"

    @property
    def config(self) -> Path:
        """Recipe, model and vocabulary."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def times(self) -> Path:
        """One JSON object per evaluation: when it was. Apart from the metrics, which are the same for every run."""
        return self.path / "times.jsonl"

    @property
    def checkpoint(self) -> Path:
        """All that is needed to go on."""
        return self.path / "checkpoint.safetensors"

    @property
    def result(self) -> Path:
        """What came out, on what machine, in what time."""
        return self.path / "result.json"

    def phase(self, name: str) -> Path:
        """The model that a phase ended with."""
        return self.path / "phases" / f"{name}.safetensors"

    def append_metrics(self, record: dict[str, Any]) -> int:
        """Add a line; returns the size of the file after it."""
        return _append(self.metrics, record)

    def append_times(self, record: dict[str, Any]) -> None:
        """Add a line; one that is there already, from before a crash, is overruled."""
        _append(self.times, record)

    def history(self) -> list[dict[str, Any]]:
        """The lines of the metrics, each with its times."""
        times = {(line["phase"], line["update"]): line for line in _lines(self.times)}
        return [{**line, **times.get((line["phase"], line["update"]), {})} for line in _lines(self.metrics)]

    def truncate_metrics(self, size: int) -> None:
        """Forget the lines beyond `size` bytes: they will be written again."""
        with open(self.metrics, "ab") as file:
            file.truncate(size)

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Write a JSON file at once."""
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")

    def read_config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        try:
            return json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise invalid("run folder", got=f"{self.path} ({error})", wanted="a folder that train wrote") from error

    def load(self, data: str | None = None) -> tuple[Any, Any, Recipe]:
        """The trained model, its task with the data it was trained on (or other `data`), its recipe."""
        options, task, recipe = self.open(data)
        model = task.build_model(options)
        model.load_state_dict(load_weights(self.model))
        return model.eval(), task, recipe

    def open(self, data: str | None = None) -> tuple[Any, AbstractTask, Recipe]:
        """The model's options, task and recipe of a run that has begun."""
        config = self.read_config()
        recipe = recipe_from(config["recipe"], str(self.config))
        if data is not None:
            if not hasattr(recipe.task, "data"):
                raise invalid("data", got=repr(data), wanted=f"none: the task {recipe.task.name} has its own")
            recipe = replace(recipe, task=replace(recipe.task, data=data))
        task = build_task(recipe, config)
        return task.model_options(**config["model"]), task, recipe


def _append(path: Path, record: dict[str, Any]) -> int:
    with open(path, "ab") as file:
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of lines, of which a crash may have torn the last."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def save_phase(path: Path, model: AbstractModel, options: dict[str, Any]) -> None:
    """Write a phase's last model."""
    save_tree(path, {"options": options, "model": dict(model.state_dict())})


def load_phase(path: Path, task: AbstractTask) -> Any:
    """Read a phase's last model."""
    saved = load_tree(path)
    model = task.build_model(task.model_options(**saved["options"]))
    model.load_state_dict(saved["model"])
    return model


def build_task(recipe: Recipe, saved: dict[str, Any] | None = None) -> AbstractTask:
    """The task of a recipe, its data read; `saved` is the `config.json` of a run that has begun."""
    training = recipe.training
    return TASKS[recipe.task.name].build(
        recipe.task,
        batch_size=training.batch_size,
        steps=training.steps,
        shift=training.shift,
        seed=training.seed,
        saved=saved,
    )
