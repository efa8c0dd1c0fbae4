"""The trainer: runs the phases of a recipe from the last checkpoint on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from .._checkpoint import save_tree
from .._errors import ModelFileError
from .._machine import describe_machine
from .._memory import check_memory
from ..models.base import AbstractModel
from ..tasks.base import AbstractTask
from .build import build_model, load_state, model_options
from .check import numbers_per_weight
from .clock import Clock
from .devices import Processes, describe_device, fabric_of
from .factorize import factorize_model_
from .fork import copy_run
from .interrupt import stop_flag
from .phase import PhaseRun
from .precision import precision_here
from .progress import Progress
from .random_state import get_random_state, get_torch_state, seed_everything, set_random_state, set_torch_state
from .recipe import PhaseOptions, Recipe
from .reporter import Reporter
from .result import write_result
from .run_folder import RunFolder, build_task, load_checkpoint, load_phase, save_phase
from .validate_plan import validate_phases

SOLVED = 5  # batches of training in a row without a mistake (Martin and Cundy, 2018)


class Trainer:
    """The state of a run between its phases, and the loop over them."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        progress: Callable[[Progress], None],
        source: RunFolder | None = None,
    ):
        self.recipe, self.folder, self.source = recipe, folder, source
        training = recipe.training
        self.clock, self.machine = Clock(), {**describe_machine(), **describe_device(training.accelerator)}
        seed_everything(training.seed)
        self.task = build_task(recipe)
        # on a resumed run what it began with, also where another processor goes on
        before = source or folder
        begun = before.read_config() if before.config.exists() else {}
        self.precision = begun.get("precision") or precision_here(training.accelerator, training.precision)
        self.model_options: dict[str, Any] = asdict(recipe.model)
        on_cpu = training.accelerator == "cpu"
        copies = max(numbers_per_weight(phase) for phase in recipe.phases.values()) if on_cpu else 1
        self.model: AbstractModel = build_model(self.task, recipe.model, copies)
        folder.check_config(self.config())
        for name, phase in recipe.phases.items():
            task = self.task_in(phase)
            try:
                phase.check_length(phase.total_updates(task.updates_per_epoch()))
            except ValueError as error:
                raise ValueError(f"phases.{name}: {error}") from None
            task.check_start(training.validation_streams)
            if on_cpu:
                hint = "make training.batch_size or the sequences shorter"
                check_memory(task.update_bytes(self.model.layer_sizes()), f"an update of phases.{name}", hint)
        self.processes = Processes(fabric_of(training.accelerator, self.precision, training.devices))
        if self.processes.rank:  # other dropout in every process, from the same weights
            torch.manual_seed((training.seed + 1_000_003 * self.processes.rank) % 2**63)
        self.reporter = Reporter(folder, training.log_every, progress, self.processes.is_first)
        self.updates: dict[str, int] = {}
        self.solved: dict[str, Any] | None = None
        self.ended_by: str | None = None

    def run(self) -> dict[str, Any]:
        """Train all phases that are not done yet; returns the result."""
        first, saved = self._restore()
        begun = saved is not None and saved["run"] is not None
        validate_phases(self.model, self.task, self.model_options, list(self.recipe.phases.items())[first:], begun)
        if self.processes.is_first:
            if self.source is not None:
                copy_run(self.source, self.folder, self.recipe)
            self.reporter.restore(saved)
        self.processes.barrier()
        with stop_flag() as self.stop:
            for number, (name, phase) in list(enumerate(self.recipe.phases.items()))[first:]:
                if number and (saved is None or saved["run"] is None):
                    self.ended_by = self.ended_by or self._limit()
                if self.ended_by is None:
                    self._run_phase(number, name, phase, saved)
                saved = None
        elsewhere = self.spent()["cpu_seconds"] - self.clock.read()["cpu_seconds"]
        if self.processes.is_first:
            write_result(self, elsewhere if self.processes.count > 1 else 0.0)
        self.processes.barrier()
        return self.folder.read_result()

    def _run_phase(self, number: int, name: str, phase: PhaseOptions, saved: dict[str, Any] | None) -> None:
        recipe, training = self.recipe, self.recipe.training
        if threads := training.threads:
            torch.set_num_threads(threads)
        self.model.adjust(recipe.model_in(phase))
        if saved is not None and saved["run"] is None:
            with _fits(self.folder.checkpoint):
                self._set_random(saved)  # from before the phase: what is built below draws from it
        trained = None
        if phase.factorize is not None and (saved is None or saved["run"] is None):
            trained = copy.deepcopy(self.model) if phase.compress else None
            factorize_model_(self.model, self.task_in(phase), phase.factorize)
            self.model_options = {**self.model_options, **self.model.size_options()}
        teacher = load_phase(self.folder.phase(phase.distill.teacher), self.task) if phase.distill else None
        task = self.task_in(phase)
        run = PhaseRun(phase, training, task, self.model, self.processes, teacher, self.precision, trained)
        if saved is not None and saved["run"] is not None:
            with _fits(self.folder.checkpoint):
                run.load_state_dict(saved["run"])
                self._set_random(saved)
        self.reporter.begin(name, run, self.spent())
        evaluate_every = training.evaluate_every or run.per_epoch
        while not run.finished() and self._limit() is None:
            loss = run.step()
            self.reporter.update(run, loss, self.spent)
            if run.solved == SOLVED and self.solved is None and not phase.task:
                self.solved = {"phase": name, "update": run.update, **self.spent()}
            if run.update % evaluate_every == 0:
                self.reporter.evaluation(run, run.evaluate(), self.spent())
            stop = self.processes.sum([float(self.stop.is_set())])[0] > 0
            if stop or run.update % training.checkpoint_every == 0:
                self.checkpoint(number, run)
            if stop:
                raise KeyboardInterrupt
        if not run.finished():
            self.ended_by = self._limit()
        if run.loss_count:
            self.reporter.evaluation(run, run.evaluate(), self.spent())
        self.reporter.end(run, self.spent())
        self.model = run.outcome()
        self.model_options = {**self.model_options, **self.model.size_options()}
        self.updates = {**self.updates, name: run.update}
        if self.processes.is_first:
            save_phase(self.folder.phase(name), self.model, self.model_options)
        self.checkpoint(number + 1, None)
        self.processes.barrier()

    def task_in(self, phase: PhaseOptions) -> AbstractTask:
        """The task as it is in a phase."""
        if not phase.task:
            return self.task
        return build_task(replace(self.recipe, task=self.recipe.task_in(phase)), self.task.metadata())

    def spent(self) -> dict[str, float]:
        """Seconds of the first process, CPU seconds of all."""
        own = self.clock.read()
        seconds, cpu = self.processes.sum([own["seconds"] if self.processes.is_first else 0.0, own["cpu_seconds"]])
        return {"seconds": seconds, "cpu_seconds": cpu}

    def _limit(self) -> str | None:
        """The name of the limit that is reached."""
        training = self.recipe.training
        if training.max_seconds is None and training.max_cpu_seconds is None:
            return None
        limits = {f"max_{name}": spent for name, spent in self.spent().items()}
        most = {name: getattr(training, name) for name in limits}
        return next((name for name, spent in limits.items() if most[name] is not None and spent >= most[name]), None)

    def checkpoint(self, phase: int, run: PhaseRun | None) -> None:
        """Write everything that is needed to continue in phase number `phase`."""
        device = self.processes.fabric.device
        content = {
            "phase": phase,
            "run": None if run is None else run.state_dict(),
            "model": dict(self.model.state_dict()) if run is None else None,
            "model_options": self.model_options,
            "updates": self.updates,
            "metrics_size": self.reporter.metrics_size,
            "progress_size": self.reporter.progress_size,
            "random": get_random_state(),
            "generators": None if self.processes.count == 1 else self.processes.gather(get_torch_state(device)),
            "solved": self.solved,
            "ended_by": self.ended_by,
            "clock": self.spent(),
        }
        if not self.processes.is_first:
            return
        if not self.folder.config.exists():  # from here on there is something to resume
            self.folder.write_config(self.config())
        save_tree(self.folder.checkpoint, content)

    def _restore(self) -> tuple[int, dict[str, Any] | None]:
        """Go back to the last checkpoint, if there is one: the phase to run, and what it has to take over."""
        checkpoint = (self.source or self.folder).checkpoint
        saved = load_checkpoint(checkpoint, len(self.recipe.phases))
        self.processes.barrier()
        if saved is None:
            return 0, None
        where = str(checkpoint)
        self.model = build_model(self.task, model_options(self.task, saved["model_options"], where))
        if saved["model"] is not None:
            load_state(self.model, saved["model"], where)
        self.updates, self.model_options = saved["updates"], saved["model_options"]
        self.solved, self.ended_by = saved["solved"], saved["ended_by"]
        if self.processes.is_first:
            self.clock = Clock(saved["clock"])
        return saved["phase"], saved

    def _set_random(self, saved: dict[str, Any]) -> None:
        set_random_state(saved["random"])
        if self.processes.count > 1:
            set_torch_state(self.processes.own(saved["generators"]), self.processes.fabric.device)

    def config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        kept = {"recipe": self.recipe.as_dict(), "precision": self.precision, "model": self.model_options}
        return {**kept, **self.task.metadata()}


@contextmanager
def _fits(path: Path) -> Iterator[None]:
    """Attribute what goes wrong within to a checkpoint."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise ModelFileError(
            f"{path}: does not hold the state of this recipe ({type(error).__name__}: {error})"
        ) from error
