"""The LSTM layers of a Penn Treebank model made smaller, against fewer units and from scratch at equal parameters.

    COMPACTRNN_DATA=... python benchmarks/compact_language_model.py --runs runs/ptb
    python benchmarks/compact_language_model.py --runs runs/ptb --rows dense cut:doped-kronecker:10 --seeds 0

A row is KIND:STRUCTURE:TIMES. `cut` rows begin with the trained model of recipes/ptb-200.toml, get LSTM layers of so
many times fewer parameters, and fine-tune with it as their teacher; the embedding, tied to the output, stays. With so
small layers it is nearly all that is left, so `cut:units` and `scratch:dense` have as many parameters in the whole
model, embedding included. All rows get as many updates, the dense model's counted to those that begin with it.

Runs that are finished are not repeated, one that was stopped goes on from its last checkpoint. Perplexities are of the
whole softmax, the state carried from word to word; those of int8 are of the packed file on the engine.
"""

import statistics
from pathlib import Path
from typing import Any

from structures import STRUCTURES, gradual, tables
from study import Study, options

from compactrnn import Engine
from compactrnn.layers.matrices import ModelMatrix, matrices
from compactrnn.models import LanguageModel
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compact_language_model.json"
RECIPE = ROOT / "recipes" / "ptb-200.toml"
WORDS, UNITS = 10_000, 200
FINE_TUNING = 48  # epochs, and one with all words
FINE_RATE = 2e-3
LESS_DROPOUT = {"dropout": 0.15, "embedding_dropout": 0.25, "output_dropout": 0.25}
ROWS = ["dense", "cut:dense:1"]
for _times in (10, 25):
    ROWS += [f"cut:{name}:{_times}" for name in STRUCTURES if name != "hashed"]
    ROWS += [f"cut:units:{_times}", f"scratch:dense:{_times}"]


def recurrent_matrices(model: LanguageModel) -> list[ModelMatrix]:
    """Those of the LSTM layers."""
    return [matrix for matrix in matrices(model) if matrix.name.startswith("recurrent.")]


def model_of(table: dict[str, Any]) -> LanguageModel:
    """The model of a recipe, for its sizes."""
    return LanguageModel(WORDS, recipe_from(table).model)


def parameters_of(table: dict[str, Any]) -> int:
    """Of the whole model of a recipe."""
    return sum(parameter.numel() for parameter in model_of(table).parameters())


def narrow(table: dict[str, Any], units: int) -> dict[str, Any]:
    """The recipe with so many units in both layers, and in the embedding that is tied to them."""
    return {**table, "model": {**table["model"], "embedding": units, "hidden": [units, units]}}


def equal_units(table: dict[str, Any], times: int) -> int:
    """The most units with which the whole model has no more parameters than with LSTM layers `times` smaller."""
    left = parameters_of(table) - model_of(table).recurrent_parameters() * (1 - 1 / times)
    return max(units for units in range(1, UNITS) if parameters_of(narrow(table, units)) <= left)


def recipe_of(row: str, seed: int) -> Recipe:
    """The recipe of a row."""
    table = load_recipe(RECIPE, [f"training.seed={seed}"]).as_dict()
    if row == "dense":
        return recipe_from(table)
    kind, structure, number = row.split(":")
    phases, times = table["phases"], int(number)
    train_phase, tune = phases["train"], phases["tune"]
    if kind == "scratch":
        longer = {**train_phase, "epochs": train_phase["epochs"] + FINE_TUNING}
        again = {**tune, "epochs": 2 * tune["epochs"]}
        return recipe_from({**narrow(table, equal_units(table, times)), "phases": {"train": longer, "tune": again}})
    optimizer = {**train_phase["optimizer"], "learning_rate": FINE_RATE}
    small = {**train_phase, "epochs": FINE_TUNING, "optimizer": optimizer, "model": LESS_DROPOUT}
    small["distill"] = {"teacher": "tune"}
    updates = FINE_TUNING * _updates_per_epoch(table)
    if structure == "units":
        small["compress"] = {"keep": equal_units(table, times) / UNITS, "steps": updates // 2}
    elif structure != "dense":
        model = model_of(table)
        found = recurrent_matrices(model)
        inside = sum(matrix.shape[0] * matrix.shape[1] for matrix in found)
        layers = model.recurrent_parameters()
        small["factorize"] = {"weights": tables(found, structure, (layers / times - (layers - inside)) / inside)}
        small |= gradual(structure, updates)
    phases["small"] = small
    phases["small_tune"] = {**tune, "model": LESS_DROPOUT, "distill": {"teacher": "tune"}}
    return recipe_from(table)


def _updates_per_epoch(table: dict[str, Any]) -> int:
    text, training = 929_589, table["training"]
    return (text // training["batch_size"] - training["steps"]) // training["steps"]


def run_of(row: str, seed: int, runs: Path) -> Path:
    """Train a row, or take up a finished run; its folder. What begins with the dense model needs it first."""
    run = runs / f"{row.replace(':', '-')}-{seed}"
    source = run_of("dense", seed, runs) if row.startswith("cut:") else None
    train(recipe_of(row, seed), run, resume=(run / "config.json").exists(), source=source)
    return run


def row_of(row: str, seed: int, runs: Path) -> dict[str, Any]:
    """What is published of a row."""
    run = run_of(row, seed, runs)
    model, task, _ = RunFolder(run).load()
    result, files = RunFolder(run).read_result(), {}
    for weights in ("int8", "int4"):
        file = run / f"{weights}.crnn"
        pack_model(model, task, file, weights)
        engine = Engine(file)
        files[weights] = {
            "bytes": file.stat().st_size,
            "macs_per_step": engine.macs_per_step,
            "test": task.evaluate_engine(engine, "test"),
        }
    names = ("test", "valid", "parameters", "recurrent_parameters", "cpu_seconds", "updates", "machine", "recipe")
    return {"row": row, "seed": seed, **{name: result[name] for name in names}, "files": files}


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over the seeds."""
    head = ["row", "seeds", "parameters", "of the LSTM layers", "perplexity", "against dense"]
    head += ["int8 bytes", "int8", "int4 bytes", "int4"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    median: dict[str, float] = {}
    for name in ROWS:
        own = [row for row in rows if row["row"] == name]
        if not own:
            continue
        median[name] = statistics.median(row["test"] for row in own)
        more = f"{100 * (median[name] / median['dense'] - 1):+.1f} %" if "dense" in median and name != "dense" else ""
        cells = [name, ", ".join(str(row["seed"]) for row in own), f"{own[0]['parameters']:,}"]
        cells += [f"{own[0]['recurrent_parameters']:,}", f"{median[name]:.1f}", more]
        for weights in ("int8", "int4"):
            cells.append(f"{max(row['files'][weights]['bytes'] for row in own):,}")
            cells.append(f"{statistics.median(row['files'][weights]['test'] for row in own):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read arguments, train what is missing, write the results after each row."""
    study = Study(RESULTS, ROWS)
    for name in study.train(options(__doc__, ROWS, "compact-language-model").parse_args(), row_of):
        study.write("language model", table(study.rows))
        print(f"{name}\n{table(study.rows)}", flush=True)


if __name__ == "__main__":
    main()
