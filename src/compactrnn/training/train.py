"""`train`: run a recipe in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from .._errors import invalid
from .check import check_machine
from .devices import lost_process, process_rank
from .fork import check_source
from .lock import locked
from .memory import keep_freed_memory
from .progress import NullProgress, Progress
from .recipe import Recipe, recipe_from
from .run_folder import RunFolder
from .trainer import Trainer


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    source: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Run `recipe` in folder `out`; returns the content of its `result.json`.

    With `resume` the run continues from its last checkpoint and ends with the same weights, bit for bit, as if it had
    never stopped. Ctrl-C writes a checkpoint first. A run that ends before its first checkpoint leaves nothing behind.
    With `source`, the folder of a finished run of the same recipe without its last phases, only these are trained, and
    the result is the same as of the whole recipe.
    `progress` is called after every update and whenever a line is appended to the folder's `progress.jsonl`; see
    `Progress`.

    With `training.devices` greater than 1 Lightning Fabric starts the other processes by running the calling script
    again; under torchrun they are there already. Only the first process writes files and calls `progress`.

    Raises:
        ValueError: the recipe asks for what is not there or does not fit in memory, another process trains in the
            folder, or what it or `source` holds is damaged or of another recipe.
        FloatingPointError: the training diverges.
        ChildProcessError: another process of the run has ended.
    """
    folder = RunFolder(Path(out))
    check_machine(recipe.training)
    if (done := _finished(recipe, folder, resume)) is not None:
        return done
    begun = RunFolder(Path(source)) if source is not None and not folder.config.exists() else None
    if begun is not None:
        check_source(begun, recipe)
    first = process_rank(recipe.training.devices) == 0
    with locked(folder.path) if first else nullcontext():
        if first and (done := _finished(recipe, folder, resume)) is not None:  # by another process, meanwhile
            return done
        try:
            with _process_settings(), lost_process():
                trainer = Trainer(recipe, folder, progress if progress and first else NullProgress(), begun)
                with trainer.processes.closed_at_end():
                    return trainer.run()
        except BaseException:
            if first:
                folder.forget_start()
            raise


def _finished(recipe: Recipe, folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """The result of a finished run, None for one that can be started or resumed."""
    if not folder.config.exists():
        return None
    if not resume:
        raise invalid(
            "run folder", got=f"{folder.path}, which holds a run", expected="a new folder", hint="or use --resume"
        )
    before, now = recipe_from(folder.read_config()["recipe"], f"{folder.config}: recipe").as_dict(), recipe.as_dict()
    if before != now:
        changed = sorted(key for key in now if before[key] != now[key])
        raise invalid(
            "--resume",
            got=f"a recipe with another {', '.join(changed)}",
            expected=f"that of {folder.config}",
            hint="or another folder",
        )
    return folder.read_result() if folder.result.exists() else None


@contextmanager
def _process_settings() -> Iterator[None]:
    """Flush denormal numbers, which decaying weights run into and which are slow; restore the number of threads."""
    before = torch.get_num_threads()
    torch.set_flush_denormal(True)
    keep_freed_memory()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
