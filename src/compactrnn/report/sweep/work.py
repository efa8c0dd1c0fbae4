"""What a worker of a sweep does: check a recipe, or train one run in its folder."""

from __future__ import annotations

import _thread
import os
import platform
import time
from pathlib import Path

import torch

from ... import __version__
from ..._errors import invalid
from ..._files import write_json
from ...training.dry_run import Outlook, dry_run
from ...training.lock import NAME as LOCK
from ...training.lock import is_locked
from ...training.progress import Progress
from ...training.recipe import recipe_from
from ...training.train import train
from .asha import Asha
from .job import STOPPED, Job

_WAIT = 30.0  # seconds for a killed process to be gone


def check(job: Job) -> Outlook:
    """What the run would be; raises what `train` would raise before its first update."""
    _settle(job)
    return dry_run(recipe_from(job.recipe), job.folder)


def work(job: Job) -> None:
    """Train until the run is finished, or is stopped early and says so in `stopped.json`."""
    _settle(job)
    folder, stopped = Path(job.folder), False
    (folder / STOPPED).unlink(missing_ok=True)
    rule = Asha(folder, **{**job.asha, "rivals": [Path(p) for p in job.asha["rivals"]]}) if job.asha else None

    def ask(progress: Progress) -> None:
        nonlocal stopped
        if rule is not None and progress.event == "evaluation" and not stopped and rule.stops(progress):
            stopped = True
            _thread.interrupt_main()  # as Ctrl-C: the run writes a checkpoint and ends

    _wait_until_unlocked(folder)
    try:
        train(recipe_from(job.recipe), folder, resume=True, source=job.source, progress=ask)
    except KeyboardInterrupt:
        if not stopped:
            raise
        write_json(folder / STOPPED, {"stopped_by": "asha"})


def _settle(job: Job) -> None:
    """Be where the command was given, on one thread unless the recipe says otherwise."""
    if job.version != __version__:
        raise ImportError(f"the worker has compactrnn {__version__}, the command {job.version}; install the same")
    if not (Path(job.out) / LOCK).exists():
        got = f"{job.out}, which {platform.node()} does not see"
        raise invalid("--out", got=got, expected="a folder on a file system that all machines share")
    if os.path.isdir(job.working_folder):  # of relative paths to data
        os.chdir(job.working_folder)
    torch.set_num_threads(1)


def _wait_until_unlocked(folder: Path) -> None:
    """Give the workers of a sweep that was killed the time to end."""
    until = time.monotonic() + _WAIT
    while is_locked(folder) and time.monotonic() < until:
        time.sleep(0.1)
