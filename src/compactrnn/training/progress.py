"""What a person sees while a model trains."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Silent:
    """Shows nothing; what the loop tells."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def begin(self, phase: str, total: int, done: int) -> None:
        """A phase of `total` updates begins, or goes on after `done` of them."""

    def advance(self, done: int, loss: float | None = None) -> None:
        """`done` updates are behind us; `loss` is the last one's."""

    def quality(self, text: str) -> None:
        """A validation result."""


class Bar(Silent):
    """One line a phase on standard error: updates, loss, quality, time left."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        columns = ("[bold]{task.description}", "{task.fields[loss]}", "{task.fields[quality]}")
        before, loss, quality = (TextColumn(text) for text in columns)
        self._bar = Progress(
            before, BarColumn(), MofNCompleteColumn(), loss, quality, TimeElapsedColumn(), TimeRemainingColumn(),
            console=self.console,
        )  # fmt: skip
        self.label, self._line = "", None  # the label, if given, is shown instead of the phase

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._line is not None:
            self._bar.stop()

    def begin(self, phase: str, total: int, done: int) -> None:
        """Add a line."""
        self._bar.start()
        self._line = self._bar.add_task(self.label or phase, total=total, completed=done, loss="", quality="")

    def advance(self, done: int, loss: float | None = None) -> None:
        """Move the line on."""
        if self._line is not None:
            self._bar.update(self._line, completed=done, loss="" if loss is None else f"loss {loss:.3f}")

    def quality(self, text: str) -> None:
        """Show a validation result."""
        if self._line is not None:
            self._bar.update(self._line, quality=text)
