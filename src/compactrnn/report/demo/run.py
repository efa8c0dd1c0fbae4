"""Pack, evaluate and benchmark the demo's models; train them first with --train."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..._files import write_atomically, write_json
from ..._machine import describe_machine
from ...runtime.engine import Engine
from ...tasks.generate import generate
from ...tasks.language_model import LanguageModelTask, one_thread
from ...training.pack_run import pack_model
from ...training.progress import ProgressBar
from ...training.recipe import Recipe
from ..bench.cases import engine_config, language_case
from ..bench.run import hot_times
from ..plot import Point, quality_plot
from .models import Trained, shipped_models, train_models

PROMPT = "Alice "


def run(out: Path, rounds: int = 9) -> dict[str, Any]:
    """Pack, evaluate and benchmark the shipped models; returns the content of `out/report.json`."""
    with one_thread(), ProgressBar() as bar:
        task, trained = shipped_models()
        return _report(out, task, trained, 0, rounds, bar)


def run_training(out: Path, recipe: Recipe, scratch: Recipe, rounds: int = 9) -> dict[str, Any]:
    """The same after training: dense and compact by `recipe`, the same sizes by `scratch`, in folder `out`."""
    with one_thread(), ProgressBar() as bar:
        task, trained = train_models(out, recipe, scratch, bar)
        return _report(out, task, trained, recipe.training.seed, rounds, bar)


def _report(
    out: Path, task: LanguageModelTask, trained: list[Trained], seed: int, rounds: int, bar: ProgressBar
) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    bar.begin("pack, evaluate, benchmark", len(trained), 0)
    for number, entry in enumerate(trained):
        rows.append(_row(entry, task, out / f"{entry.name}.crnn", rounds))
        bar.advance(number + 1)
    engine = Engine(out / "compact.crnn")
    report = {
        "machine": describe_machine(),
        "seed": seed,
        "rows": rows,
        "sample": generate(engine, task.vocabulary, PROMPT, 400, 0.7, seed),
    }
    write_json(out / "report.json", report)
    points = [Point(row["name"].replace("_", " "), row["bytes"], row["engine_bits_per_character"]) for row in rows]
    plot = quality_plot(points, size_label="bytes of the packed file", quality_label="bits per character")
    write_atomically(out / "quality.svg", plot.encode(), "plot")
    return report


def _row(entry: Trained, task: LanguageModelTask, path: Path, rounds: int) -> dict[str, Any]:
    model = entry.model
    pack_model(model, task, path, "int8")
    engine = Engine(path)
    return {
        "name": entry.name,
        "updates": entry.updates,
        "hidden": list(model.layer_sizes()),
        "bits_per_character": task.evaluate(model, "test"),
        "engine_bits_per_character": task.evaluate_engine(engine, "test"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recurrent_parameters": model.recurrent_parameters(),
        "macs_per_step": engine.macs_per_step,
        "bytes": path.stat().st_size,
        **_benchmark(entry, task, engine, path, rounds),
    }


def _benchmark(entry: Trained, task: LanguageModelTask, engine: Engine, path: Path, rounds: int) -> dict[str, Any]:
    installed = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    frameworks = ["torch", "onnxruntime"] if installed else ["torch"]
    form = engine_config("engine int8", "int8", lambda: (engine, path.read_bytes()))
    subject = replace(language_case(entry.name, entry.model, task.parts["test"], entry.model), ours=(form,))
    timings = hot_times(subject, frameworks, rounds)
    best = {
        framework: round(min(timing.median for name, timing in timings.items() if name.startswith(framework)), 3)
        for framework in ("engine", *frameworks)
    }
    return {"microseconds_per_step": best, "timings": {name: timing.as_dict() for name, timing in timings.items()}}
