"""An LSTM for spoken digits made smaller in every way, at equal parameters, on speakers that it was not trained on.

    COMPACTRNN_DATA=... python benchmarks/compact_digits.py --runs runs/digits
    python benchmarks/compact_digits.py --runs runs/digits --rows dense cut:low-rank:4 --seeds 0

A row is KIND:STRUCTURE:TIMES: `cut` rows begin with the model of recipes/digits-lstm.toml, and fine-tune with it as
their teacher; `scratch:dense` is the same network with fewer units, trained for as many updates as both together. Each
row is trained six times, one speaker left out, and tested on all 3,000 recordings. Files are int8, on the engine.

Runs that are finished are not repeated, one that was stopped goes on from its last checkpoint.
"""

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from digits import recipe_of as digits_recipe
from structures import STRUCTURES, gradual, tables
from study import Study, options

from compactrnn import Engine
from compactrnn.layers.matrices import ModelMatrix, matrices
from compactrnn.models import AudioModel
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compact_digits.json"
FEATURES, DIGITS, UNITS, SPEAKERS = 20, 10, 128, 6
RECORDINGS = 5 * 10 * 45  # of a training part: all but five takes of ten digits by five speakers
FINE_TUNING = 20  # epochs
FINE_RATE = 2e-3
NOISE_SEED, RESAMPLES = 0, 2000
ROWS = ["dense"]
for _times in (4, 8):
    ROWS += [f"cut:{name}:{_times}" for name in STRUCTURES]
    ROWS += [f"cut:units:{_times}", f"scratch:dense:{_times}"]


def model_of(table: dict[str, Any]) -> AudioModel:
    """The model of a recipe, for its sizes."""
    return AudioModel(FEATURES, DIGITS, recipe_from(table).model)


def parameters_of(table: dict[str, Any]) -> int:
    """Of the whole model of a recipe."""
    return sum(parameter.numel() for parameter in model_of(table).parameters())


def recurrent_matrices(model: AudioModel) -> list[ModelMatrix]:
    """Those of the LSTM."""
    return [matrix for matrix in matrices(model) if "layers" in matrix.name]


def narrow(table: dict[str, Any], units: int) -> dict[str, Any]:
    """The recipe with so many units."""
    return {**table, "model": {**table["model"], "hidden": [units]}}


def equal_units(table: dict[str, Any], times: int) -> int:
    """The most units with which the model has `times` times fewer parameters."""
    left = parameters_of(table) / times
    return max(units for units in range(1, UNITS) if parameters_of(narrow(table, units)) <= left)


def recipe_of(row: str, speaker: int, seed: int) -> Recipe:
    """The recipe of a row, with a speaker left out."""
    recipe = digits_recipe("lstm", str(speaker), seed, [])
    if row == "dense":
        return recipe
    kind, structure, number = row.split(":")
    table, times = recipe.as_dict(), int(number)
    train_phase, model = table["phases"]["train"], model_of(table)
    if kind == "scratch":
        longer = {**train_phase, "epochs": train_phase["epochs"] + FINE_TUNING}
        return recipe_from({**narrow(table, equal_units(table, times)), "phases": {"train": longer}})
    optimizer = {**train_phase["optimizer"], "learning_rate": FINE_RATE}
    small = {**train_phase, "epochs": FINE_TUNING, "optimizer": optimizer, "distill": {"teacher": "train"}}
    updates = FINE_TUNING * (RECORDINGS // table["training"]["batch_size"])
    if structure == "units":
        small["compress"] = {"keep": equal_units(table, times) / UNITS, "steps": updates // 2}
    elif structure == "low-rank":  # the ranks of all matrices are chosen together
        small["factorize"] = {"keep": 1 / times, "calibration": 16}
    else:
        found, total = recurrent_matrices(model), parameters_of(table)
        inside = sum(math.prod(matrix.shape) for matrix in found)
        share = (total / times - (total - inside)) / inside
        small |= {"factorize": {"weights": tables(found, structure, share)}, **gradual(structure, updates)}
    return recipe_from({**table, "phases": {"train": train_phase, "small": small}})


def errors_of(engine: Engine, task: Any) -> list[int]:
    """For each test recording, whether the packed model is wrong."""
    wrong = []
    for batch in task.batches("test"):
        inputs, lengths = batch.inputs.contiguous().numpy(), batch.lengths.tolist()
        answers = [np.argmax(engine.run(x[:length])) for x, length in zip(inputs, lengths, strict=True)]
        wrong += [int(answer != target) for answer, target in zip(answers, batch.targets.tolist(), strict=True)]
    return wrong


def run_of(row: str, speaker: int, seed: int, runs: Path) -> Path:
    """Train a row, or take up a finished run; its folder. What begins with the dense model needs it first."""
    name = "lstm" if row == "dense" else row.replace(":", "-")
    run = runs / f"{name}-{speaker}-{seed}"
    source = run_of("dense", speaker, seed, runs) if row.startswith("cut:") else None
    train(recipe_of(row, speaker, seed), run, resume=(run / "config.json").exists(), source=source)
    return run


def row_of(row: str, seed: int, runs: Path) -> dict[str, Any]:
    """What is published of a row: the errors on every recording."""
    errors: list[int] = []
    found: dict[str, Any] = {"row": row, "seed": seed}
    for speaker in range(SPEAKERS):
        run = run_of(row, speaker, seed, runs)
        model, task, _ = RunFolder(run).load()
        pack_model(model, task, run / "int8.crnn", "int8")
        errors += errors_of(Engine(run / "int8.crnn"), task)
        result, size = RunFolder(run).read_result(), (run / "int8.crnn").stat().st_size
        found |= {"parameters": result["parameters"], "machine": result["machine"]}
        found["bytes"] = max(size, found.get("bytes", 0))
    return {**found, "error": 100 * statistics.mean(errors), "wrong": "".join(map(str, errors))}


def difference(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The error minus the dense model's, with its interval over resampled recordings."""
    sums = np.sum([_wrong(row) - _wrong(dense) for row, dense in pairs], axis=0) * 100 / len(pairs)
    chosen = np.random.default_rng(NOISE_SEED).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.quantile(sums[chosen].mean(1), (0.025, 0.975))
    return f"{sums.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def _wrong(row: dict[str, Any]) -> np.ndarray:
    return np.array([int(letter) for letter in row["wrong"]])


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over the seeds."""
    head = ["row", "seeds", "parameters", "int8 bytes", "error, mean of six folds", "against dense"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    dense = {row["seed"]: row for row in rows if row["row"] == "dense"}
    for name in ROWS:
        own = [row for row in rows if row["row"] == name]
        if not own:
            continue
        pairs = [(row, dense[row["seed"]]) for row in own if row["seed"] in dense and name != "dense"]
        cells = [name, ", ".join(str(row["seed"]) for row in own), f"{own[0]['parameters']:,}"]
        cells += [f"{max(row['bytes'] for row in own):,}", f"{statistics.median(row['error'] for row in own):.1f}"]
        lines.append("| " + " | ".join([*cells, difference(pairs) if pairs else ""]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read arguments, train what is missing, write the results after each row."""
    study = Study(RESULTS, ROWS)
    for name in study.train(options(__doc__, ROWS, "compact-digits").parse_args(), row_of):
        study.write("digits", table(study.rows))
        print(f"{name}\n{table(study.rows)}", flush=True)


if __name__ == "__main__":
    main()
