"""The demo's three models: dense, compact, and the compact sizes from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from ...tasks.language_model import LanguageModelTask
from ...tasks.recurrent_lm import LanguageModel
from ...training.progress import Bar
from ...training.recipe import PhaseOptions, Recipe, load_recipe
from ...training.run_folder import RunFolder, load_phase
from ...training.train import train

DENSE = "train"


@dataclass(frozen=True)
class Trained:
    """A model, and after how many updates in all."""

    name: str
    model: LanguageModel
    updates: int


def train_models(out: Path, recipe: Recipe, scratch: Recipe, bar: Bar) -> tuple[LanguageModelTask, list[Trained]]:
    """Train dense, then compact, then the learnt sizes from scratch; what an earlier call did is not done again."""
    compact_folder, scratch_folder = RunFolder(out / "runs" / "compact"), RunFolder(out / "runs" / "from_scratch")
    updates = train(recipe, compact_folder.path, resume=True, progress=bar)["updates"]
    compact, task, _ = compact_folder.load()
    bar.label = "from scratch"
    scratch = _with(scratch, compact.layer_sizes(), updates["total"])
    scratch_updates = train(scratch, scratch_folder.path, resume=True, progress=bar)["updates"]["total"]
    bar.label = ""
    return task, [
        Trained("dense", load_phase(compact_folder.phase(DENSE), task), updates[DENSE]),
        Trained("compact", compact, updates["total"]),
        Trained("from_scratch", scratch_folder.load()[0], scratch_updates),
    ]


def demo_recipe(name: str, settings: list[str]) -> Recipe:
    """A recipe that comes with the demo: compact or from_scratch."""
    with as_file(files("compactrnn.report.demo") / f"{name}.toml") as path:
        return load_recipe(path, settings)


def _with(recipe: Recipe, sizes: tuple[int, ...], updates: int) -> Recipe:
    phases: dict[str, PhaseOptions] = {name: replace(phase, updates=updates) for name, phase in recipe.phases.items()}
    return replace(recipe, model=replace(recipe.model, hidden=sizes), phases=phases)
