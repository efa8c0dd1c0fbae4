"""A whole run: the phases of a recipe, one after the other, from wherever the last checkpoint is."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from .._checkpoint import load_tree, save_tree, save_weights
from .._errors import ModelFileError, invalid
from .._files import write_json
from .._machine import describe_machine
from .._memory import check_memory
from .._validate import validated
from ..models.base import AbstractModel
from ..tasks.base import AbstractTask
from .build import build_model, load_state, model_options
from .clock import Clock
from .interrupt import stop_flag
from .lock import locked
from .memory import keep_freed_memory
from .phase import PhaseRun
from .precision import precision_here
from .progress import Silent
from .random_state import get_random_state, seed_everything, set_random_state
from .recipe import PhaseOptions, Recipe, recipe_from
from .run_folder import RunFolder, build_task, load_phase, save_phase
from .run_records import Checkpoint
from .validate_plan import check_shrinks

SOLVED = 5  # as many batches of training in a row without a mistake, as Martin and Cundy (2018) have it
THREADS = 4  # for each processor, at most


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Silent | None = None,
) -> dict[str, Any]:
    """Run `recipe` in folder `out`; returns what its `result.json` holds.

    With `resume` the run goes on from its last checkpoint and ends with the same weights, bit for bit, as if it had
    never stopped. Ctrl-C writes a checkpoint first. A run that ends before its first checkpoint leaves nothing behind.

    Raises:
        ValueError: the recipe asks for what is not there or does not fit in memory, another process trains in the
            folder, or what it holds is damaged or of another recipe.
        FloatingPointError: the training diverges.
    """
    folder = RunFolder(Path(out))
    _check_machine(recipe)
    if (done := _finished(recipe, folder, resume)) is not None:
        return done
    with locked(folder.path):
        if (done := _finished(recipe, folder, resume)) is not None:  # by another process, meanwhile
            return done
        try:
            with _process_settings():
                return Trainer(recipe, folder, progress or Silent()).run()
        except BaseException:
            folder.forget_start()
            raise


class Trainer:
    """What changes from phase to phase."""

    def __init__(self, recipe: Recipe, folder: RunFolder, shown: Silent):
        self.recipe, self.folder, self.shown = recipe, folder, shown
        self.clock = Clock()
        self.machine = describe_machine()
        training = recipe.training
        seed_everything(training.seed)
        self.task = build_task(recipe)
        # on a resumed run what it began with, also where another processor goes on
        begun = folder.read_config() if folder.config.exists() else {}
        self.precision = begun.get("precision") or precision_here(training.accelerator, training.precision)
        self.fabric = fabric_of(training.accelerator, self.precision)
        self.model_options: dict[str, Any] = asdict(recipe.model)
        on_cpu = training.accelerator == "cpu"
        copies = max(_numbers_per_weight(phase) for phase in recipe.phases.values()) if on_cpu else 1
        self.model: AbstractModel = build_model(self.task, recipe.model, copies)
        self.folder.check_config(self._config())
        for name, phase in recipe.phases.items():
            task = self._task_in(phase)
            task.check_start(training.validation_streams)
            if on_cpu:
                hint = "make training.batch_size or the sequences shorter"
                check_memory(task.update_bytes(self.model.layer_sizes()), f"an update of phases.{name}", hint)
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
        self.model.adjust(recipe.model_in(phase))
        if saved is not None and saved["run"] is None:
            with _fits(self.folder.checkpoint):
                set_random_state(saved["random"])  # from before the phase: what is built below draws from it
        teacher = load_phase(self.folder.phase(phase.distill.teacher), self.task) if phase.distill else None
        task = self._task_in(phase)
        run = PhaseRun(phase, training, task, self.model, self.fabric, teacher)
        if saved is not None and saved["run"] is not None:
            with _fits(self.folder.checkpoint):
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
        self.model_options = {**self.model_options, **self.model.size_options()}
        self.updates = {**self.updates, name: run.update}
        save_phase(self.folder.phase(name), self.model, self.model_options)
        self._checkpoint(number + 1, None)

    def _task_in(self, phase: PhaseOptions) -> AbstractTask:
        if not phase.task:
            return self.task
        return build_task(replace(self.recipe, task=self.recipe.task_in(phase)), self.task.metadata())

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
        if not self.folder.config.exists():  # from here on there is something to go on from
            self.folder.write_config(self._config())
        save_tree(self.folder.checkpoint, content)

    def _restore(self) -> tuple[int, dict[str, Any] | None]:
        """Go back to the last checkpoint, if there is one: the phase to run, and what it has to take over."""
        if not self.folder.checkpoint.exists():
            self.folder.truncate_metrics(0)
            return 0, None
        where = str(self.folder.checkpoint)
        saved = load_tree(where)
        validated(Checkpoint, saved, where)
        last = saved["phase"] == len(self.recipe.phases)
        if (
            saved["phase"] > len(self.recipe.phases)
            or (saved["run"] is None) == (saved["model"] is None)
            or (last and saved["run"] is not None)
        ):
            raise ModelFileError(f"{where}: phase: expected one of the recipe, with its state, got {saved['phase']}")
        self.model = build_model(self.task, model_options(self.task, saved["model_options"], where))
        if saved["model"] is not None:
            load_state(self.model, saved["model"], where)
        self.folder.truncate_metrics(saved["metrics_size"])
        self.metrics_size, self.updates = saved["metrics_size"], saved["updates"]
        self.solved, self.ended_by, self.clock = saved["solved"], saved["ended_by"], Clock(saved["clock"])
        self.model_options = saved["model_options"]
        return saved["phase"], saved

    def _config(self) -> dict[str, Any]:
        kept = {"recipe": self.recipe.as_dict(), "precision": self.precision, "model": self.model_options}
        return {**kept, **self.task.metadata()}

    def _finish(self) -> dict[str, Any]:
        save_weights(self.folder.model, self.model.state_dict())
        self.folder.write_config(self._config())
        streams = self.recipe.training.validation_streams
        test = self.task.evaluate(self.model, "test")
        result = {
            "metric": self.task.metric,
            "test": test,
            **{f"test_{name}": value for name, value in self.task.extra_metrics(test).items()},
            "valid": self.task.evaluate(self.model, "valid", streams),
            "seed": self.recipe.training.seed,
            "updates": {**self.updates, "total": sum(self.updates.values())},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "recurrent_parameters": self.model.recurrent_parameters(),
            **{name: round(spent, 1) for name, spent in self.clock.read().items()},
            **{name: value for name in ("solved", "ended_by") if (value := getattr(self, name)) is not None},
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "machine": self.machine,
            "recipe": self.recipe.as_dict(),
        }
        write_json(self.folder.result, result)
        return result


def _finished(recipe: Recipe, folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """The result of a run that is over, None for one that can be started or goes on."""
    if not folder.config.exists():
        return None
    if not resume:
        raise invalid(
            "run folder", got=f"{folder.path}, which holds a run", expected="a new folder", hint="or use --resume"
        )
    _check_same(recipe, folder)
    return folder.read_result() if folder.result.exists() else None


def _check_machine(recipe: Recipe) -> None:
    """Whether this machine has what the recipe names."""
    training = recipe.training
    most = THREADS * (os.cpu_count() or 1)
    if training.threads is not None and training.threads > most:
        raise invalid(
            "training.threads", got=training.threads, expected=f"at most {most}, {THREADS} for each processor"
        )
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here[training.accelerator]:
        wanted = " or ".join(name for name, there in here.items() if there)
        raise invalid("training.accelerator", got=f"{training.accelerator}, which this machine lacks", expected=wanted)


def _numbers_per_weight(phase: PhaseOptions) -> int:
    """Itself and its gradient, and what the optimizer keeps."""
    kept = {"AdamW": 2, "SGD": 1 if phase.optimizer.momentum else 0}
    return 2 + kept[phase.optimizer.name]


@contextmanager
def _fits(path: Path) -> Iterator[None]:
    """What goes wrong within is the fault of a checkpoint."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise ModelFileError(
            f"{path}: does not hold the state of this recipe ({type(error).__name__}: {error})"
        ) from error


def _check_same(recipe: Recipe, folder: RunFolder) -> None:
    before, now = recipe_from(folder.read_config()["recipe"], f"{folder.config}: recipe").as_dict(), recipe.as_dict()
    if before != now:
        changed = sorted(key for key in now if before[key] != now[key])
        raise invalid(
            "--resume",
            got=f"a recipe with another {', '.join(changed)}",
            expected=f"that of {folder.config}",
            hint="or another folder",
        )


def fabric_of(accelerator: str, precision: Any) -> Fabric:
    """Lightning's devices and number types."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it names the precision that was asked for
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric")
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        fabric.launch()
    return fabric


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
