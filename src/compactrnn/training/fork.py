"""A run that begins where a finished one ended."""

from __future__ import annotations

import shutil

from .._errors import invalid
from .recipe import Recipe, recipe_from
from .run_folder import RunFolder


def check_source(source: RunFolder, recipe: Recipe) -> None:
    """Raise `ValueError` unless `source` is a finished run of `recipe` without its last phases."""
    result, config = source.read_result(), source.read_config()
    before, now = recipe_from(config["recipe"], f"{source.config}: recipe").as_dict(), recipe.as_dict()
    phases = list(before["phases"].items())
    changed = [name for name in now if name != "phases" and before[name] != now[name]]
    if list(now["phases"].items())[: len(phases)] != phases:
        changed.append("phases")
    if changed or len(now["phases"]) == len(phases):
        raise invalid(
            "recipe",
            got=f"one with another {', '.join(changed)}" if changed else "one with no further phase",
            expected=f"that of {source.config}, with phases after {phases[-1][0]}",
        )
    if ended_by := result.get("ended_by"):
        raise invalid("run folder", got=f"{source.path}, which {ended_by} ended", expected="a run of all its phases")


def copy_run(source: RunFolder, folder: RunFolder, recipe: Recipe) -> None:
    """Let `folder` hold the phases of `source` as its own, with the rest of `recipe` to come."""
    config = source.read_config()
    for name in config["recipe"]["phases"]:
        folder.phase(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.phase(name), folder.phase(name))
    shutil.copyfile(source.metrics, folder.metrics)
    shutil.copyfile(source.progress, folder.progress)
    shutil.copyfile(source.checkpoint, folder.checkpoint)
    folder.write_config({**config, "recipe": recipe.as_dict()})  # makes the folder a run, so it comes last
