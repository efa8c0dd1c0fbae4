"""Progress of a run as numbers: for a callback, a file of lines, and a bar in the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Event = Literal["start", "update", "interval", "evaluation", "end"]


@dataclass(frozen=True)
class Progress:
    """Where a run is. Each but the event "update" is a line of `progress.jsonl`, with these fields as keys.

    - `event`: "start" and "end" of a phase, "update" after each update, "interval" every `training.log_every` of them,
      "evaluation" after a validation
    - `phase`, `update`, `updates`: the phase's name, its updates so far, and how many it has at most
    - `train_loss`: mean loss per target over the updates since the last evaluation, in nats for a cross-entropy; of an
      "update" its own
    - `metric`, `validation`: the metric's name and its value on the validation split, at an evaluation; lower is better
    - `learning_rate`: of the last update
    - `seconds`, `cpu_seconds`: since the run began, evaluations and earlier stretches of a resumed run included;
      CPU seconds of all processes
    - `sequences_per_second`, `steps_per_second`: training throughput since the line before, without evaluations and
      padding; a step is a time step or token
    - `units`: in a phase that prunes, the units left of each layer

    >>> Progress("evaluation", "train", 100, 400, metric="error", validation=2.5).as_dict()["validation"]
    2.5
    """

    event: Event
    phase: str
    update: int
    updates: int
    train_loss: float | None = None
    metric: str | None = None
    validation: float | None = None
    learning_rate: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sequences_per_second: float | None = None
    steps_per_second: float | None = None
    units: dict[str, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Names and values, those that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class NullProgress:
    """A callback that does nothing, and a context to use it in."""

    def __call__(self, progress: Progress) -> None:
        return None

    def __enter__(self) -> NullProgress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class ProgressBar(NullProgress):
    """One line per phase on standard error: updates, loss, validation metric, time left."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        columns = ("[bold]{task.description}", "{task.fields[loss]}", "{task.fields[quality]}")
        before, loss, quality = (TextColumn(text) for text in columns)
        self._bar = RichProgress(
            before, BarColumn(), MofNCompleteColumn(), loss, quality, TimeElapsedColumn(), TimeRemainingColumn(),
            console=self.console,
        )  # fmt: skip
        self.label, self._line = "", None  # the label, if given, is shown instead of the phase

    def __call__(self, progress: Progress) -> None:
        if progress.event == "start":
            self.begin(progress.phase, progress.updates, progress.update)
        elif progress.event == "update":
            self.advance(progress.update, progress.train_loss)
        elif progress.event == "evaluation" and self._line is not None:
            self._bar.update(self._line, quality=f"{progress.metric} {progress.validation:.3f}")

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._line is not None:
            self._bar.stop()

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """Add a line for `total` pieces of work, of which `done` are finished."""
        self._bar.start()
        self._line = self._bar.add_task(self.label or name, total=total, completed=done, loss="", quality="")

    def advance(self, done: int, loss: float | None = None) -> None:
        """Show that `done` pieces of work are finished."""
        if self._line is not None:
            self._bar.update(self._line, completed=done, loss="" if loss is None else f"loss {loss:.3f}")
