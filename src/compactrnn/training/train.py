"""A whole run: the phases of a recipe, one after the other, from wherever the last checkpoint is."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from .._errors import invalid
from .._machine import describe_machine
from ..tasks.base import AbstractModel
from .checkpoint import load_tree, save_tree, save_weights
from .clock import Clock
from .interrupt import stop_flag
from .memory import keep_freed_memory
from .phase import PhaseRun
from .progress import Silent
from .random_state import get_random_state, seed_everything, set_random_state
from .recipe import PhaseOptions, Recipe, recipe_from
from .rehearsal import check_shrinks
from .run_folder import RunFolder, build_task, load_phase, save_phase

SOLVED = 5  # as many batches of training in a row without a mistake, as Martin and Cundy (2018) have it
_DROPOUTS = ("dropout", "embedding_dropout", "output_dropout")


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Silent | None = None,
) -> dict[str, Any]:
    """Run `recipe` in folder `out`; returns what its `result.json` holds.

    With `resume` the run goes on from its last checkpoint and ends with the same weights, bit for bit, as if it had
    never stopped. Ctrl-C writes a checkpoint first.
    """
    folder = RunFolder(Path(out))
    if folder.config.exists():
        if not resume:
            raise invalid("run folder", got=f"{out}, which holds a run", wanted="a new folder", hint="or use --resume")
        _check_same(recipe, folder)
        if folder.result.exists():
            return json.loads(folder.result.read_text(encoding="utf-8"))
    with _process_settings():
        return Trainer(recipe, folder, progress or Silent()).run()


class Trainer:
    """What changes from phase to phase."""

    def __init__(self, recipe: Recipe, folder: RunFolder, shown: Silent):
        self.recipe, self.folder, self.shown = recipe, folder, shown
        self.clock = Clock()
        self.machine = describe_machine()
        training = recipe.training
        seed_everything(training.seed)
        self.task = build_task(recipe)
        self.fabric = _fabric(training.accelerator, training.precision)
        self.model_options: dict[str, Any] = asdict(recipe.model)
        self.model: AbstractModel = self.task.build_model(recipe.model)
        self.updates: dict[str, int] = {}
        self.metrics_size = 0
        self.solved: dict[str, Any] | None = None
        self.ended_by: str | None = None

    def run(self) -> dict[str, Any]:
        """All phases that are not done yet; returns the result."""
        first, saved = self._restore()
        for name, phase in list(self.recipe.phases.items())[first:]:
            if phase.compress is not None:
                check_shrinks(self.model, self.task, self.model_options, phase.compress, name)
        with stop_flag() as self.stop:
            for number, (name, phase) in list(enumerate(self.recipe.phases.items()))[first:]:
                if number and (saved is None or saved["run"] is None):
                    self.ended_by = self.ended_by or self._limit()
                if self.ended_by is None:
                    self._run_phase(number, name, phase, saved)
                saved = None
        return self._finish()

    def _run_phase(self, number: int, name: str, phase: PhaseOptions, saved: dict[str, Any] | None) -> None:
        recipe, training = self.recipe, self.recipe.training
        if threads := training.threads:
            torch.set_num_threads(threads)
        _set_dropout(self.model, recipe, phase)
        if saved is not None and saved["run"] is None:
            set_random_state(saved["random"])  # from before the phase: what is built below draws from it
        teacher = load_phase(self.folder.phase(phase.distill.teacher), self.task) if phase.distill else None
        task = self.task
        if phase.task:
            task = build_task(replace(recipe, task=recipe.task_in(phase)), self.task.metadata())
        run = PhaseRun(phase, training, task, self.model, self.fabric, teacher)
        if saved is not None and saved["run"] is not None:
            run.load_state_dict(saved["run"])
            set_random_state(saved["random"])
        self.shown.begin(name, run.total, run.update)
        evaluate_every = training.evaluate_every or run.per_epoch
        while not run.finished() and self._limit() is None:
            loss = run.step()
            self.shown.advance(run.update, loss)
            if run.solved == SOLVED and self.solved is None and not phase.task:
                self.solved = {"phase": name, "update": run.update, **self.clock.read()}
            if run.update % evaluate_every == 0:
                self._evaluate(name, run)
            if self.stop.is_set() or run.update % training.checkpoint_every == 0:
                self._checkpoint(number, run)
            if self.stop.is_set():
                raise KeyboardInterrupt
        if not run.finished():
            self.ended_by = self._limit()
        if run.loss_count:
            self._evaluate(name, run)
        self.model = run.outcome()
        self.model_options = {**self.model_options, "hidden": self.model.layer_sizes()}
        self.updates = {**self.updates, name: run.update}
        save_phase(self.folder.phase(name), self.model, self.model_options)
        self._checkpoint(number + 1, None)

    def _evaluate(self, name: str, run: PhaseRun) -> None:
        place = {"phase": name, "update": run.update}
        record = {**place, "learning_rate": run.rate.at(run.update - 1), **run.evaluate()}
        self.metrics_size = self.folder.append_metrics(record)
        self.folder.append_times({**place, **self.clock.read()})
        self.shown.quality(f"{self.task.metric} {record[f'valid_{self.task.metric}']:.3f}")

    def _limit(self) -> str | None:
        """The name of the limit that is reached."""
        limits = {f"max_{name}": spent for name, spent in self.clock.read().items()}
        most = {name: getattr(self.recipe.training, name) for name in limits}
        return next((name for name, spent in limits.items() if most[name] is not None and spent >= most[name]), None)

    def _checkpoint(self, phase: int, run: PhaseRun | None) -> None:
        content = {
            "phase": phase,
            "run": None if run is None else run.state_dict(),
            "model": dict(self.model.state_dict()) if run is None else None,
            "model_options": self.model_options,
            "updates": self.updates,
            "metrics_size": self.metrics_size,
            "random": get_random_state(),
            "solved": self.solved,
            "ended_by": self.ended_by,
            "clock": self.clock.read(),
        }
        save_tree(self.folder.checkpoint, content)

    def _restore(self) -> tuple[int, dict[str, Any] | None]:
        """Go back to the last checkpoint, if there is one: the phase to run, and what it has to take over."""
        if not self.folder.checkpoint.exists():
            self._write_config()
            self.folder.truncate_metrics(0)
            return 0, None
        saved = load_tree(self.folder.checkpoint)
        self.folder.truncate_metrics(saved["metrics_size"])
        self.metrics_size, self.updates = saved["metrics_size"], saved["updates"]
        self.solved, self.ended_by, self.clock = saved["solved"], saved["ended_by"], Clock(saved["clock"])
        self.model_options = saved["model_options"]
        self.model = self.task.build_model(self.task.model_options(**self.model_options))
        if saved["model"] is not None:
            self.model.load_state_dict(saved["model"])
        return saved["phase"], saved

    def _write_config(self) -> None:
        config = {"recipe": self.recipe.as_dict(), "model": self.model_options, **self.task.metadata()}
        self.folder.write_json(self.folder.config, config)

    def _finish(self) -> dict[str, Any]:
        save_weights(self.folder.model, self.model.state_dict())
        self._write_config()
        streams = self.recipe.training.validation_streams
        test = self.task.evaluate(self.model, "test")
        result = {
            "metric": self.task.metric,
            "test": test,
            **{f"test_{name}": value for name, value in self.task.also(test).items()},
            "valid": self.task.evaluate(self.model, "valid", streams),
            "seed": self.recipe.training.seed,
            "updates": {**self.updates, "total": sum(self.updates.values())},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "recurrent_parameters": self.model.recurrent_parameters(),
            **{name: round(spent, 1) for name, spent in self.clock.read().items()},
            **{name: value for name in ("solved", "ended_by") if (value := getattr(self, name)) is not None},
            "threads": torch.get_num_threads(),
            "machine": self.machine,
            "recipe": self.recipe.as_dict(),
        }
        self.folder.write_json(self.folder.result, result)
        return result


def _check_same(recipe: Recipe, folder: RunFolder) -> None:
    before, now = recipe_from(folder.read_config()["recipe"], str(folder.config)).as_dict(), recipe.as_dict()
    if before != now:
        changed = sorted(key for key in now if before[key] != now[key])
        raise invalid(
            "--resume",
            got=f"a recipe with another {', '.join(changed)}",
            wanted=f"that of {folder.config}",
            hint="or another folder",
        )


def _fabric(accelerator: str, precision: Any) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of the precision that was asked for
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric")
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        fabric.launch()
    return fabric


def _set_dropout(model: AbstractModel, recipe: Recipe, phase: PhaseOptions) -> None:
    """The phase's own probabilities, else the model's."""
    own = {name: value for name in _DROPOUTS if (value := getattr(phase, name)) is not None}
    known = {name: getattr(recipe.model, name) for name in _DROPOUTS if hasattr(recipe.model, name)}
    if unknown := sorted(own.keys() - known.keys()):
        raise invalid(f"phase's {unknown[0]}", got=own[unknown[0]], wanted=f"one of {', '.join(known)} for this model")
    model.set_dropout(**{**known, **own})


@contextmanager
def _process_settings() -> Iterator[None]:
    """No denormal numbers, which fading weights run into and which are slow; afterwards as many threads as before."""
    before = torch.get_num_threads()
    torch.set_flush_denormal(True)
    keep_freed_memory()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
