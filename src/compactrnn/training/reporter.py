"""Report metrics and progress of a run, to files and to a callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .phase import PhaseRun
from .progress import Event, Progress
from .pruner import units_left
from .run_folder import RunFolder

Spent = dict[str, float]


class Reporter:
    """Calls back after every update; evaluations and every `log_every` updates are lines in the folder, too.

    A checkpoint keeps the sizes of both files. What was written after it is cut off when the run is resumed, and
    written again: no line is missing, none is there twice.
    """

    def __init__(self, folder: RunFolder, log_every: int, callback: Callable[[Progress], None], writes: bool):
        self.folder, self.log_every, self.callback, self.writes = folder, log_every, callback, writes
        self.metrics_size = self.progress_size = 0
        self.phase = ""
        self._before = {"sequences": 0, "steps": 0, "seconds": 0.0}

    def restore(self, saved: dict[str, Any] | None) -> None:
        """Cut the files to what a checkpoint knows of; without one, to nothing."""
        if saved is not None:
            self.metrics_size, self.progress_size = saved["metrics_size"], saved["progress_size"]
        self.folder.truncate_lines(self.metrics_size, self.progress_size)

    def begin(self, phase: str, run: PhaseRun, spent: Spent) -> None:
        """A phase begins, or continues after a resume, which adds no line."""
        self.phase, self._before = phase, dict(run.trained)
        progress = self._progress("start", run, spent)
        if run.update == 0:
            self._write(progress)
        self._call(progress)

    def update(self, run: PhaseRun, loss: float, spent: Callable[[], Spent]) -> None:
        """An update was made."""
        now = spent()
        self._call(self._progress("update", run, now, train_loss=loss))
        if run.update % self.log_every == 0:
            self._line("interval", run, now, train_loss=run.mean_loss())

    def evaluation(self, run: PhaseRun, record: dict[str, float], spent: Spent) -> None:
        """The model was validated; `record` has the loss and the metric."""
        if self.writes:
            place = {"phase": self.phase, "update": run.update}
            line = {**place, "learning_rate": run.rate.at(run.update - 1), **record}
            self.metrics_size = self.folder.append_metrics(line)
        metric = run.task.metric
        values = {"train_loss": record["loss"], "metric": metric, "validation": record[f"valid_{metric}"]}
        self._line("evaluation", run, spent, **values)

    def end(self, run: PhaseRun, spent: Spent) -> None:
        """A phase is over."""
        self._line("end", run, spent)

    def _line(self, event: Event, run: PhaseRun, spent: Spent, **values: Any) -> None:
        if not self.writes:
            return
        took = {name: run.trained[name] - self._before[name] for name in run.trained}
        if took["seconds"] > 0:
            values |= {f"{name}_per_second": round(took[name] / took["seconds"], 1) for name in ("sequences", "steps")}
        if run.pruner is not None:
            values["units"] = units_left(run.pruner)
        self._before = dict(run.trained)
        progress = self._progress(event, run, spent, **values)
        self._write(progress)
        self._call(progress)

    def _progress(self, event: Event, run: PhaseRun, spent: Spent, **values: Any) -> Progress:
        rate = run.rate.at(max(0, run.update - 1))
        rounded = {name: round(seconds, 3) for name, seconds in spent.items()}
        return Progress(event, self.phase, run.update, run.total, learning_rate=rate, **rounded, **values)

    def _write(self, progress: Progress) -> None:
        if self.writes:
            self.progress_size = self.folder.append_progress(progress.as_dict())

    def _call(self, progress: Progress) -> None:
        if self.writes:
            self.callback(progress)
