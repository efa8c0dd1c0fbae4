"""The folder of a run: recipe, weights, metrics, checkpoint."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._checkpoint import load_tree, load_weights, save_tree
from .._errors import ModelFileError, invalid
from .._files import check_json_size, check_writable, naming, open_regular, parse_json, read_file, read_json, write_json
from .._validate import validated
from ..models.base import AbstractModel
from ..tasks.base import AbstractTask
from ..tasks.table import TASKS
from .build import build_model, load_state, model_options
from .recipe import Recipe, recipe_from
from .run_records import Checkpoint, Config, Evaluation, Phase, ProgressLine, Result

_MAX_LINES = 256 << 20  # bytes
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class RunFolder:
    """Paths and content of a run folder."""

    path: Path

    @property
    def model(self) -> Path:
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
    def progress(self) -> Path:
        """One JSON object per `Progress`, with times; the metrics have none and are the same for every run."""
        return self.path / "progress.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to resume."""
        return self.path / "checkpoint.safetensors"

    @property
    def result(self) -> Path:
        """Metrics, sizes, times and machine of a finished run."""
        return self.path / "result.json"

    def phase(self, name: str) -> Path:
        """The model at the end of a phase."""
        return self.path / "phases" / f"{name}.safetensors"

    def append_metrics(self, record: dict[str, Any]) -> int:
        """Add a line; returns the size of the file after it."""
        return _append(self.metrics, record)

    def append_progress(self, record: dict[str, Any]) -> int:
        """Add a line; returns the size of the file after it."""
        return _append(self.progress, record)

    def history(self) -> list[dict[str, Any]]:
        """The lines of the metrics, each with the seconds and CPU seconds of its evaluation."""
        spent = {
            (line["phase"], line["update"]): {name: line[name] for name in ("seconds", "cpu_seconds")}
            for line in self.progress_lines()
            if line["event"] == "evaluation"
        }
        return [{**line, **spent.get((line["phase"], line["update"]), {})} for line in self.evaluations()]

    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of the metrics."""
        return _lines(self.metrics, Evaluation)

    def progress_lines(self) -> list[dict[str, Any]]:
        """The lines of the progress; one that is being written, or was torn by a crash, is left out."""
        return _lines(self.progress, ProgressLine)

    def last_progress(self) -> dict[str, Any] | None:
        """The last line of the progress, read from the end of the file; None if there is none yet."""
        if not self.progress.exists():
            return None
        with open_regular(self.progress, "progress") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
            lines = file.read().rpartition(b"\n")[0].splitlines()
        return validated(ProgressLine, parse_json(lines[-1]), str(self.progress)).model_dump() if lines else None

    def truncate_lines(self, metrics: int, progress: int) -> None:
        """Cut both files to the sizes of a checkpoint: the lines after it will be written again."""
        sizes = {self.metrics: metrics, self.progress: progress}
        for path, size in sizes.items():
            check_writable(path, path.stem)
            there = path.stat().st_size if path.exists() else 0
            if there < size:
                raise invalid(str(path), got=f"{there} bytes", expected=f"the {size} of the checkpoint")
        for path, size in sizes.items():
            with open(path, "ab") as file:
                file.truncate(size)

    def forget_start(self) -> None:
        """Remove the files of a run that ended before its first checkpoint."""
        if not self.config.exists():
            self.metrics.unlink(missing_ok=True)
            self.progress.unlink(missing_ok=True)

    def check_config(self, config: dict[str, Any]) -> None:
        """Raise `ValueError` for a configuration that would be too large to be read again."""
        try:
            check_json_size(json.dumps(config, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        except ValueError as error:
            hint = "raise task.minimum_count, if it is the vocabulary"
            raise invalid(str(self.config), got=str(error), expected="less", hint=hint) from None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write `config.json`, which makes the folder a run."""
        write_json(self.config, config)

    def read_config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        try:
            config = read_json(self.config, "run folder")
        except OSError as error:
            got = f"{self.path} ({self.config.name}: {error.strerror})"
            raise invalid("run folder", got=got, expected="a folder that train wrote") from error
        validated(Config, config, str(self.config))
        return config

    def read_result(self) -> dict[str, Any]:
        """The content of `result.json`."""
        if not self.result.exists():
            raise invalid("run folder", got=f"{self.path} without result.json", expected="a finished run")
        result = read_json(self.result, "result of a run")
        validated(Result, result, str(self.result))
        return result

    def load(self, data: str | None = None) -> tuple[Any, Any, Recipe]:
        """The trained model, its task with the data it was trained on (or other `data`), its recipe."""
        options, task, recipe = self.open(data)
        model = build_model(task, options)
        load_state(model, load_weights(self.model), str(self.model))
        return model.eval(), task, recipe

    def open(self, data: str | None = None) -> tuple[Any, AbstractTask, Recipe]:
        """The model's options, task and recipe of a run that has begun."""
        config = self.read_config()
        recipe = recipe_from(config["recipe"], f"{self.config}: recipe")
        if data is not None:
            recipe = replace(recipe, task=TASKS[recipe.task.name].with_data(recipe.task, data))
        task = build_task(recipe, config)
        return model_options(task, config["model"], f"{self.config}: model"), task, recipe


def _append(path: Path, record: dict[str, Any]) -> int:
    """Add a line in one write, on the disk when this returns."""
    with naming(path), open(path, "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")
        os.fsync(file.fileno())
        return file.tell()


def _lines(path: Path, kind: type) -> list[dict[str, Any]]:
    """The objects in a file of lines, the last of which may be torn."""
    if not path.exists():
        return []
    whole = read_file(path, "metrics", _MAX_LINES).rpartition(b"\n")[0]
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(parse_json(line))
        except ValueError as error:
            raise invalid(f"{path}, line {number}", got=str(error), expected="a JSON object") from None
        validated(kind, lines[-1], f"{path}, line {number}")
    return lines


def save_phase(path: Path, model: AbstractModel, options: dict[str, Any]) -> None:
    """Write the model at the end of a phase."""
    path.parent.mkdir(exist_ok=True)
    save_tree(path, {"options": options, "model": dict(model.state_dict())})


def load_phase(path: Path, task: AbstractTask) -> Any:
    """Read the model at the end of a phase."""
    saved = load_tree(path)
    validated(Phase, saved, str(path))
    model = build_model(task, model_options(task, saved["options"], str(path)))
    load_state(model, saved["model"], str(path))
    return model


def load_checkpoint(path: Path, phases: int) -> dict[str, Any] | None:
    """The tree of a checkpoint of a run of so many phases, checked; None if there is none."""
    if not path.exists():
        return None
    saved = load_tree(path)
    validated(Checkpoint, saved, str(path))
    number, last = saved["phase"], saved["phase"] == phases
    if number > phases or (saved["run"] is None) == (saved["model"] is None) or (last and saved["run"] is not None):
        raise ModelFileError(f"{path}: phase: expected one of the recipe, with its state, got {number}")
    return saved


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
