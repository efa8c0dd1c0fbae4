"""Test quality of trained models on the engine, by weight type.

    compactrnn demo --train
    compactrnn train recipes/ptb-small.toml --out runs/ptb-small
    python benchmarks/quality.py runs/demo/runs/compact runs/ptb-small --out benchmarks/results/quality.json

A run folder with several phases gives its model after the first of them (`dense`) and after the last. Prints a Markdown
table. Only figures are kept: of some texts neither a part nor weights trained on it may be passed on.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from compactrnn import Engine
from compactrnn._machine import describe_machine
from compactrnn.training.pack_run import pack_model
from compactrnn.training.run_folder import RunFolder, load_phase

WEIGHTS = ("float32", "int8", "int4", "auto")


def models_of(path: Path) -> tuple[Any, list[tuple[str, Any]]]:
    """The task of a run, and its models by name."""
    folder = RunFolder(path)
    model, task, recipe = folder.load()
    name = f"{recipe.task.data}, seed {recipe.training.seed}"
    first = folder.phase("train")
    if any(folder.phase(phase).exists() for phase in ("compress", "tune")):
        return task, [(f"{name}: dense", load_phase(first, task)), (f"{name}: compact", model)]
    return task, [(f"{name}: {path.name}", model)]


def row_of(name: str, model: Any, task: Any) -> dict[str, Any]:
    """Quality in torch and on the engine."""
    model.eval()
    row: dict[str, Any] = {"model": name, "metric": task.metric, "torch": task.evaluate(model, "test"), "engine": {}}
    for weights in WEIGHTS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.crnn"
            report = pack_model(model, task, file, weights)
            value = task.evaluate_engine(Engine(file), "test")
            size = file.stat().st_size
        cost = value / row["torch"] - 1
        row["engine"][weights] = {"value": value, "cost": cost, "bytes": size, "stored_as": report["types"]}
        print(f"{name}, {weights}: {value:.4f} ({cost:+.3%}), {size} bytes", flush=True)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Quality, what storing costs, and bytes."""
    lines = ["| model | metric | torch | " + " | ".join(WEIGHTS) + " |", "|---|---|---|" + "---|" * len(WEIGHTS)]
    for row in rows:
        cells = [f"{e['value']:.4g} ({e['cost']:+.2%}), {e['bytes'] / 1e6:.2f} MB" for e in row["engine"].values()]
        metric = row["metric"].replace("_", " ")
        lines.append(f"| {row['model']} | {metric} | {row['torch']:.4g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Read arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    rows = []
    for path in arguments.runs:
        task, models = models_of(path)
        rows += [row_of(name, model, task) for name, model in models]
    print(table(rows))
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
