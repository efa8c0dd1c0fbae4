"""The demo's three models: dense, compact, and the compact sizes from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from ...tasks.language_model import LanguageModelTask
from ...tasks.recurrent_lm import LanguageModel
from ...training.beside import Beside
from ...training.progress import Bar
from ...training.recipe import ModelOptions, PhaseOptions, Recipe, load_recipe
from ...training.run_folder import RunFolder, load_phase
from ...training.train import train

DENSE, COMPRESS, TUNE = "train", "compress", "tune"


@dataclass(frozen=True)
class Trained:
    """A model, and after how many updates in all."""

    name: str
    model: LanguageModel
    updates: int


def train_models(out: Path, recipe: Recipe, scratch: Recipe, bar: Bar) -> tuple[LanguageModelTask, list[Trained]]:
    """Train dense, then compact, and beside its last phase from scratch; what an earlier call did is not done again."""
    compact_folder, scratch_folder = RunFolder(out / "runs" / "compact"), RunFolder(out / "runs" / "from_scratch")
    train(recipe, compact_folder.path, resume=True, progress=bar, stop_after=COMPRESS)
    _, task, _ = compact_folder.open()
    shrunk = load_phase(compact_folder.phase(COMPRESS), task)
    total = sum(phase.total_updates(task.updates_per_epoch()) for phase in recipe.phases.values())
    beside = Beside(_with(scratch, shrunk.layer_sizes(), total), scratch_folder.path, bar.another("from scratch"))
    done = train(recipe, compact_folder.path, resume=True, progress=bar)["updates"]
    scratch_updates = beside.wait()["updates"]["total"]
    return task, [
        Trained("dense", load_phase(compact_folder.phase(DENSE), task), done[DENSE]),
        Trained("compact", compact_folder.load()[0], done["total"]),
        Trained("from_scratch", scratch_folder.load()[0], scratch_updates),
    ]


def demo_recipe(name: str, settings: list[str]) -> Recipe:
    """A recipe that comes with the demo: compact or from_scratch."""
    with as_file(files("compactrnn.report.demo") / f"{name}.toml") as path:
        return load_recipe(path, settings)


def _with(recipe: Recipe, sizes: tuple[int, ...], updates: int) -> Recipe:
    phases: dict[str, PhaseOptions] = {name: replace(phase, updates=updates) for name, phase in recipe.phases.items()}
    model: ModelOptions = replace(recipe.model, hidden=sizes)
    return replace(recipe, model=model, phases=phases)
