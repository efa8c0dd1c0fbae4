"""Train all runs of a sweep on a cluster."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ... import __version__
from ..._text import printable, sentence
from ...training.interrupt import stop_flag
from ...training.lock import locked
from ...training.progress import ProgressBar
from ...training.run_folder import RunFolder
from .asha import are_rivals
from .cluster import Cluster, connect
from .job import STOPPED, Job
from .outcome import describe, write
from .plan import Run

if TYPE_CHECKING:
    from ...training.dry_run import Outlook

ATTEMPTS = 3  # of a run whose worker process ends, without a checkpoint in between
_POLL = 0.5  # seconds
_PATIENCE = 120.0  # seconds that runs have to write a checkpoint after Ctrl-C


def sweep(
    runs: Sequence[Run], out: Path, *, workers: int | None = None, address: str | None = None, asha: bool = False
) -> dict[str, Any]:
    """Train what is not finished of `runs`; writes and returns the content of `out/sweep.json`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: `train` would refuse one of the recipes, there is no cluster at the address, or another sweep runs
            in the folder; nothing was trained.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the runs have written checkpoints.
    """
    waiting = needed(runs, asha)
    if not waiting:
        return write(out, describe(runs, {}))
    threads = max(run.recipe.training.threads or 1 for run in runs)
    gpus = int(any(run.recipe.training.accelerator == "cuda" for run in runs))
    with (
        redirect_stdout(sys.stderr),  # Ray prints there, too
        locked(out),
        connect(workers, threads, gpus, address) as (cluster, room),
        ProgressBar() as bar,
    ):
        schedule = Schedule(runs, out, cluster, room, bar, asha)
        schedule.check()
        schedule.train(waiting)
        return write(out, describe(runs, schedule.failed))


def needed(runs: Sequence[Run], asha: bool) -> list[Run]:
    """The runs that are to be trained: those of shared phases where others have yet to go on from them."""
    found: list[Run] = []
    for run in reversed(runs):
        source = any(other.source == run.folder and not other.begun for other in found)
        early = asha and (run.folder / STOPPED).exists()
        if not run.finished and (source if not run.values else not early):
            found.insert(0, run)
    return found


class Schedule:
    """Which runs are waiting, which are on the cluster, and which have failed and why."""

    def __init__(self, runs: Sequence[Run], out: Path, cluster: Cluster, room: int, bar: ProgressBar, asha: bool):
        self.runs, self.out, self.cluster, self.room, self.bar, self.asha = runs, out, cluster, room, bar, asha
        self.outlooks: dict[Path, Outlook] = {}
        self.failed: dict[str, str] = {}
        self.ends: dict[str, list[int]] = {}  # of a run's worker processes: the time of the checkpoint that was left

    def check(self) -> None:
        """Let the cluster check the recipes, one of those that differ in the seed only."""
        alike: dict[str, list[Run]] = {}
        for run in self.runs:
            training = replace(run.recipe.training, seed=0)
            alike.setdefault(repr(replace(run.recipe, training=training)), []).append(run)
        tasks = {self.cluster.submit("check", self._job(group[0])): group for group in alike.values()}
        while tasks:
            for task in self.cluster.wait(tasks, _POLL):
                group = tasks.pop(task)
                try:
                    outlook = self.cluster.result(task)
                except ValueError as error:
                    raise ValueError(f"{group[0].name}: {error}") from None
                self.outlooks |= {run.folder: outlook for run in group}

    def train(self, waiting: list[Run]) -> None:
        """Train the runs that wait, each after the one that it goes on from."""
        tasks: dict[Any, Run] = {}
        done = {run.name: self._done(run) for run in self.runs}
        self.bar.begin("sweep", sum(self._updates(run) - self._before(run) for run in self.runs), sum(done.values()))
        with stop_flag() as stop:
            while waiting or tasks:
                for run in [run for run in waiting if self._ready(run)][: self.room - len(tasks)]:
                    waiting.remove(run)
                    tasks[self.cluster.submit("work", self._job(run))] = run
                ended = self.cluster.wait(tasks, _POLL) if tasks else []
                done |= {run.name: self._done(run) for run in tasks.values()}
                for task in ended:
                    run = tasks.pop(task)
                    if self._goes_on(run, task):
                        waiting.insert(0, run)
                waiting = [run for run in waiting if not self._lacks_source(run)]
                self.bar.advance(sum(done.values()))
                if stop.is_set():
                    self._stop(tasks)

    def _ready(self, run: Run) -> bool:
        return run.source is None or run.begun or RunFolder(run.source).result.exists()

    def _lacks_source(self, run: Run) -> bool:
        """Whether what a run would go on from has failed; then so has the run."""
        source = next((other.name for other in self.runs if other.folder == run.source), None)
        if source not in self.failed or run.begun:
            return False
        self._fail(run, f"{source}, which it goes on from, has failed")
        return True

    def _goes_on(self, run: Run, task: Any) -> bool:
        """Report the end of a task; whether its process was killed and the run is to go on from its checkpoint."""
        try:
            self.cluster.result(task)
        except ChildProcessError as error:
            checkpoint = RunFolder(run.folder).checkpoint
            ends = self.ends.setdefault(run.name, [])
            ends.append(checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0)
            if ends.count(ends[-1]) < ATTEMPTS:
                self._say(f"{run.name}: its process has ended ({error}); it goes on from its last checkpoint")
                return True
            self._fail(run, f"its process has ended {ATTEMPTS} times at the same place ({error})")
        except Exception as error:  # of whatever kind: the other runs go on
            self._fail(run, str(error) or type(error).__name__)
        else:
            self._say(f"{run.name}: {self._reached(run)}")
        return False

    def _stop(self, tasks: dict[Any, Run]) -> None:
        """Ctrl-C: let all runs write a checkpoint."""
        self._say("interrupted; the runs write their checkpoints")
        for task in tasks:
            self.cluster.cancel(task)
        until = time.monotonic() + _PATIENCE
        while tasks and time.monotonic() < until:
            for task in self.cluster.wait(tasks, _POLL):
                del tasks[task]
        raise KeyboardInterrupt

    def _job(self, run: Run) -> Job:
        source = None if run.source is None else str(run.source)
        asha = self._asha(run) if self.asha and run.values and self.outlooks else None
        return Job(run.recipe.as_dict(), str(run.folder), source, str(self.out), os.getcwd(), __version__, asha)

    def _asha(self, run: Run) -> dict[str, Any]:
        own, recipe = self.outlooks[run.folder], run.recipe.as_dict()
        rivals = [
            str(other.folder)
            for other in self.runs
            if other.values
            and other is not run
            and are_rivals(recipe, own.parameters, other.recipe.as_dict(), self.outlooks[other.folder].parameters)
        ]
        return {"rivals": rivals, "starts": self._starts(run), "updates": self._updates(run)}

    def _starts(self, run: Run) -> dict[str, int]:
        """The updates before each phase."""
        updates = self.outlooks[run.folder].updates
        return dict(zip(updates, accumulate(updates.values(), initial=0), strict=False))

    def _updates(self, run: Run) -> int:
        return sum(self.outlooks[run.folder].updates.values())

    def _before(self, run: Run) -> int:
        """The updates that a run takes over."""
        return 0 if run.source is None else sum(self.outlooks[run.source].updates.values())

    def _done(self, run: Run) -> int:
        """The updates of its own that a run has made, as many as it might have if it has ended early."""
        if run.finished or (run.folder / STOPPED).exists():
            return self._updates(run) - self._before(run)
        last = RunFolder(run.folder).last_progress()
        return max(0, self._starts(run)[last["phase"]] + last["update"] - self._before(run)) if last else 0

    def _reached(self, run: Run) -> str:
        if not run.finished:
            return "stopped early"
        result = RunFolder(run.folder).read_result()
        count = sum(other.finished for other in self.runs)
        quality = f"validation {result['metric'].replace('_', ' ')} {result['valid']:.4g}"
        return f"{quality}, {result['parameters']:,} parameters ({count} of {len(self.runs)} runs)"

    def _fail(self, run: Run, reason: str) -> None:
        self.failed[run.name] = sentence(reason)
        self._say(f"{run.name}: failed: {self.failed[run.name]}")

    def _say(self, text: str) -> None:
        self.bar.console.print(Text(printable(" ".join(text.split()))), soft_wrap=True)
