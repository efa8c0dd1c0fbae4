"""The runs of a sweep: one for each point, and one for phases that several points begin with."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..._errors import invalid
from ...training.recipe import Recipe, load_recipe, recipe_from
from ...training.run_folder import RunFolder
from .grid import Point, grid

SHARED = "shared"


@dataclass(frozen=True)
class Run:
    """A run folder; `source` is the folder of the run that it takes its first phases from.

    `values` has the value of every swept key; a run of shared phases is no point of the sweep and has none.
    """

    name: str
    folder: Path
    recipe: Recipe
    values: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return RunFolder(self.folder).config.exists()

    @property
    def finished(self) -> bool:
        return RunFolder(self.folder).result.exists()


def plan(recipe: Path, settings: Sequence[str], over: Sequence[str], out: Path) -> list[Run]:
    """The runs of a sweep in folder `out`, sources before those that go on from them; nothing is written.

    Raises:
        ValueError: the recipe, `settings` or `over` are wrong, two points are the same, or `out` holds other runs.
        OSError: `out` cannot be written to.
    """
    points = grid(over, load_recipe(recipe, settings).as_dict())
    recipes = [_recipe(recipe, settings, point) for point in points]
    for number, (point, one) in enumerate(zip(points, recipes, strict=True)):
        if one in recipes[:number]:
            other = points[recipes.index(one)]
            raise invalid("--over", got=f"{other.name} and {point.name}, the same run", expected="points that differ")
    runs = _share(points, recipes, out)
    for run in runs:
        _check_folder(run)
    return runs


def _recipe(path: Path, settings: Sequence[str], point: Point) -> Recipe:
    try:
        recipe = load_recipe(path, (*settings, *point.overrides))
    except ValueError as error:
        raise ValueError(f"{point.name}: {error}") from None
    if recipe.training.devices > 1:
        raise invalid("training.devices", got=recipe.training.devices, expected="1 in a sweep, which has --workers")
    return recipe


def _share(points: Sequence[Point], recipes: Sequence[Recipe], out: Path) -> list[Run]:
    """The runs, with those of phases after which the recipes of several points go on differently."""
    following: dict[str, set[str]] = defaultdict(set)
    with_prefix: dict[str, list[Point]] = defaultdict(list)
    for point, recipe in zip(points, recipes, strict=True):
        if not _timed(recipe):  # what is left of a limited time is not the same for all
            keys = _prefixes(recipe)
            for key, longer in pairwise(keys):
                following[key].add(longer)
                with_prefix[key].append(point)
    shared: dict[str, Run] = {}

    def source(recipe: Recipe) -> Path | None:
        """The folder of the longest of the shared runs that a recipe goes on from, which is made if necessary."""
        keys = _prefixes(recipe)[:-1]
        count = next((n for n in range(len(keys), 0, -1) if len(following[keys[n - 1]]) > 1), 0)
        if not count:
            return None
        if (key := keys[count - 1]) not in shared:
            name = _common_name(list(recipe.phases)[count - 1], with_prefix[key])
            part = replace(recipe, phases=dict(list(recipe.phases.items())[:count]))
            shared[key] = Run(name, out / SHARED / name, part, source=source(part))
        return shared[key].folder

    made = [
        Run(point.name, out / point.name, recipe, point.values, source(recipe))
        for point, recipe in zip(points, recipes, strict=True)
    ]
    return [*sorted(shared.values(), key=lambda run: len(run.recipe.phases)), *made]


def _timed(recipe: Recipe) -> bool:
    return recipe.training.max_seconds is not None or recipe.training.max_cpu_seconds is not None


def _prefixes(recipe: Recipe) -> list[str]:
    """A text for the first phase, the first two phases, ... each with all that is not of a phase."""
    table = recipe.as_dict()
    phases = list(table.pop("phases").items())
    return [json.dumps([table, phases[: n + 1]], default=str) for n in range(len(phases))]


def _common_name(phase: str, points: Sequence[Point]) -> str:
    """The last phase, and what the names of all points have in common."""
    names = [point.name.split(",") for point in points]
    return ",".join([phase, *(part for part in names[0] if all(part in name for name in names))])


def _check_folder(run: Run) -> None:
    if any(path.exists() and not path.is_dir() for path in (run.folder, *run.folder.parents)):
        raise invalid("--out", got=f"{run.folder}, which is a file or within one", expected="a folder")
    there = next(path for path in (run.folder, *run.folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise invalid("--out", got=f"{there}, which may not be written to", expected="a folder that may be written to")
    folder = RunFolder(run.folder)
    if not run.begun:
        return
    before = recipe_from(folder.read_config()["recipe"], f"{folder.config}: recipe").as_dict()
    now = run.recipe.as_dict()
    if changed := sorted(key for key in now if before[key] != now[key]):
        raise invalid(
            f"--out {run.folder}",
            got=f"a run of a recipe with another {', '.join(changed)}",
            expected="a new folder, or one with runs of this sweep",
            hint="choose another --out, or remove that run",
        )
