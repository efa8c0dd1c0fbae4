"""Users' own files: Japanese vowels, PM2.5 in Beijing, ETTh1, activities by person; docs/own-data.md.

    COMPACTRNN_DATA=... python benchmarks/own_data.py --runs runs/own-data
    python benchmarks/own_data.py --runs runs/own-data --data-sets vowels --seeds 0 1 2  # a part

Each row is a training with its packed int8 file: scores on the test part, of the trained model and of the file on the
engine. Runs that are finished are not repeated. The recipe of PM2.5 is the one that `compactrnn init` writes; the
others are in recipes/. Of the activities all five folds are trained.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from compactrnn import Engine
from compactrnn._machine import describe_machine
from compactrnn.data import data_folder
from compactrnn.report.insert import insert
from compactrnn.training.first_recipe import Wishes, first_recipe
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "own_data.json"
PAGE = ROOT / "docs" / "own-data.md"
PM25 = "timeseries/beijing_pm25.csv.gz"
RECIPES = {
    "vowels": "japanese-vowels",
    "pm25": "",
    "etth1": "etth1",
    **{name: name for name in ("activities", "activities-lstm", "activities-small")},
}
FOLDS = {name: range(5) for name in RECIPES if name.startswith("activities")}
ARCHIVE = "uea_small/uea_small.npz"  # holds the two .ts files, too


def recipe_of(name: str, fold: int | None, seed: int, runs: Path) -> Recipe:
    """The recipe of a data set; that of PM2.5 is written first."""
    overrides = [f"training.seed={seed}", *([] if fold is None else [f"task.fold={fold}"])]
    path = ROOT / "recipes" / f"{RECIPES[name]}.toml"
    if name == "pm25":
        path = runs / "pm25.toml"
        path.write_text(first_recipe(PM25, Wishes(targets=("pm2.5",))).text, encoding="utf-8")
    if name == "vowels" and (data_folder() / ARCHIVE).exists():
        overrides += [f"task.file={ARCHIVE}/JapaneseVowels/train", f"task.test_file={ARCHIVE}/JapaneseVowels/test"]
        overrides += ["task.target=y"]
    return load_recipe(path, overrides)


def row_of(name: str, fold: int | None, seed: int, runs: Path) -> dict[str, Any]:
    """Train, pack and evaluate."""
    run = runs / "-".join(map(str, (name, *([] if fold is None else [fold]), seed)))
    recipe = recipe_of(name, fold, seed, runs)
    result = RunFolder(run).read_result() if (run / "result.json").exists() else train(recipe, run, resume=run.exists())
    model, task, _ = RunFolder(run).load()
    pack_model(model, task, run / "int8.crnn", "int8", notes=False)
    scores = {name: value for name, value in result.items() if name.startswith("test_")}
    return {
        "data": name,
        "fold": fold,
        "seed": seed,
        "metric": result["metric"],
        "test": result["test"],
        **scores,
        "int8": task.engine_scores(Engine(run / "int8.crnn"), "test"),
        "bytes": (run / "int8.crnn").stat().st_size,
        "parameters": result["parameters"],
        "cpu_seconds": result["cpu_seconds"],
        "machine": describe_machine(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each data set: the median over seeds and folds, and the range."""
    lines = ["| data | trainings | metric | float32 | int8 on the engine | of a naive answer | parameters | file |"]
    lines.append("|" + "---|" * 8)
    for name in RECIPES:
        of = [row for row in rows if row["data"] == name]
        if not of:
            continue
        metric = "accuracy" if of[0]["metric"] == "error" else of[0]["metric"]
        naive = of[0]["int8"].get(f"persistence_{metric}")
        folds = {row["fold"] for row in of}
        seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in of}))
        said = f"seed{'s' if ',' in seeds else ''} {seeds}" + (f", {len(folds)} folds" if len(folds) > 1 else "")
        own = [row.get(f"test_{metric}", row["test"]) for row in of]
        cells = [_range(own), _range([row["int8"][metric] for row in of]), "" if naive is None else f"{naive:.4g}"]
        size = max(row["bytes"] for row in of)
        lines.append(
            "| " + " | ".join([name, said, f"`{metric}`", *cells, f"{of[0]['parameters']:,}", f"{size:,} B"]) + " |"
        )
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main() -> None:
    """Read arguments, train what is missing, write results and page after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "own-data")
    parser.add_argument("--data-sets", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments.runs.mkdir(parents=True, exist_ok=True)
    document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}
    rows = {(row["data"], row["fold"] or 0, row["seed"]): row for row in document["rows"]}
    for name in arguments.data_sets:
        for seed in arguments.seeds:
            for fold in FOLDS.get(name, [None]):
                row = row_of(name, fold, seed, arguments.runs)
                rows[name, fold or 0, seed] = row
                print(
                    name,
                    fold,
                    seed,
                    f"{row['metric']} {row['test']:.4g}, int8 {row['int8']}, {row['bytes']} B",
                    flush=True,
                )
                document["rows"] = [rows[key] for key in sorted(rows)]
                RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                text = f"\n{table(document['rows'])}\n\n"
                PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "own_data", text), encoding="utf-8")


if __name__ == "__main__":
    main()
