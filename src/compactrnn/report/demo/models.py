"""The demo's models: dense, compact and, with --train, the compact architecture from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ..._checkpoint import load_weights
from ..._errors import invalid
from ...models.recurrent_lm import LanguageModel
from ...tasks.language_model import LanguageModelTask
from ...training.progress import ProgressBar
from ...training.recipe import PhaseOptions, Recipe, load_recipe
from ...training.run_folder import RunFolder, build_task, load_phase
from ...training.train import train

DENSE = "train"
SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Trained:
    """A model and its total number of training updates."""

    name: str
    model: LanguageModel
    updates: int


def shipped_models() -> tuple[LanguageModelTask, list[Trained]]:
    """The shipped dense and compact model; `shipped/CARD.md` is their model card."""
    recipe = demo_recipe("compact", [])
    task: Any = build_task(recipe)
    updates = {name: phase.total_updates(0) for name, phase in recipe.phases.items()}
    return task, [
        Trained("dense", _shipped("dense", task, recipe), updates[DENSE]),
        Trained("compact", _shipped("compact", task, recipe), sum(updates.values())),
    ]


def _shipped(name: str, task: LanguageModelTask, recipe: Recipe) -> LanguageModel:
    weights = load_weights(SHIPPED / f"{name}.safetensors")
    hidden = (weights[f"recurrent.weight_hh_l{k}"].shape[1] for k in range(len(recipe.model.hidden)))
    model = task.build_model(replace(recipe.model, hidden=tuple(hidden)))
    model.load_state_dict(weights)
    return model.eval()


def train_models(
    out: Path, recipe: Recipe, scratch: Recipe, bar: ProgressBar
) -> tuple[LanguageModelTask, list[Trained]]:
    """Train dense, compact, then the compact architecture from scratch; finished runs are reused."""
    folder = RunFolder(out / "runs" / "compact")
    updates = train(recipe, folder.path, resume=True, progress=bar)["updates"]
    compact, _, _ = folder.load()
    bar.label = "from scratch"
    scratch_folder = RunFolder(out / "runs" / "from_scratch")
    scratch = _with(scratch, compact.layer_sizes(), updates["total"])
    scratch_updates = train(scratch, scratch_folder.path, resume=True, progress=bar)["updates"]["total"]
    bar.label = ""
    task, models = trained_models(out)
    return task, [*models, Trained("from_scratch", scratch_folder.load()[0], scratch_updates)]


def trained_models(out: Path) -> tuple[LanguageModelTask, list[Trained]]:
    """The dense and the compact model that were trained in folder `out`."""
    folder = RunFolder(out / "runs" / "compact")
    if not folder.result.exists():
        wanted, hint = "a folder that a demo has trained in", f"run: compactrnn demo --train --out {out}"
        raise invalid("demo", got=f"{out} without a demo's models", expected=wanted, hint=hint)
    compact, task, _ = folder.load()
    updates = folder.read_result()["updates"]
    if DENSE not in updates:
        raise invalid(str(folder.result), got=f"updates of {', '.join(updates)}", expected=f"those of phase {DENSE}")
    return task, [
        Trained("dense", load_phase(folder.phase(DENSE), task), updates[DENSE]),
        Trained("compact", compact, updates["total"]),
    ]


def demo_recipe(name: str, settings: list[str]) -> Recipe:
    """A recipe that comes with the demo: compact or from_scratch."""
    with as_file(files("compactrnn.report.demo") / f"{name}.toml") as path:
        return load_recipe(path, settings)


def _with(recipe: Recipe, sizes: tuple[int, ...], updates: int) -> Recipe:
    phases: dict[str, PhaseOptions] = {name: replace(phase, updates=updates) for name, phase in recipe.phases.items()}
    return replace(recipe, model=replace(recipe.model, hidden=sizes), phases=phases)
