"""Penn Treebank, words, 2 x 1500: the papers' own size, on a GPU.

    COMPACTRNN_DATA=... python benchmarks/ptb_large.py --runs runs/large --accelerator cuda
    python benchmarks/ptb_large.py --runs runs/large --rows dense iss --set training.precision=bf16-mixed

`dense` is the large model of Zaremba et al. (recipes/ptb-large-dense.toml), `iss` the same with the group lasso of Wen
et al. (recipes/ptb-large.toml), `selection` with the gates of Wen L. et al. in place of the lasso. Runs that are
finished are not repeated, one that was stopped goes on from its last checkpoint.

Perplexities are of the whole softmax, the state carried from word to word; those of int8 are of the packed file on the
engine. Writes docs/ptb-large.md, with `--rows` and nothing after it from the results alone.
"""

import statistics
from pathlib import Path
from typing import Any

from compact_language_model import recurrent_matrices
from study import Study, options

from compactrnn import Engine
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ptb_large.json"
PAGE = ROOT / "docs" / "ptb-large.md"
GATES = 'phases.train.compress={method="neuron_selection",macs=2550000,steps=36000}'
ROWS = {"dense": ("ptb-large-dense", []), "iss": ("ptb-large", []), "selection": ("ptb-large", [GATES])}


def recipe_of(row: str, seed: int, changes: list[str]) -> Recipe:
    """The recipe of a row."""
    name, own = ROWS[row]
    return load_recipe(ROOT / "recipes" / f"{name}.toml", [f"training.seed={seed}", *own, *changes])


def row_of(row: str, seed: int, runs: Path, changes: list[str]) -> dict[str, Any]:
    """Train a row, or take up a finished run; what is published of it."""
    run = runs / f"{row}-{seed}"
    train(recipe_of(row, seed, changes), run, resume=(run / "config.json").exists())
    model, task, _ = RunFolder(run).load()
    result = RunFolder(run).read_result()
    file = run / "int8.crnn"
    pack_model(model, task, file, "int8")
    int8 = {"bytes": file.stat().st_size, "test": task.evaluate_engine(Engine(file), "test")}
    macs = sum(matrix.shape[0] * matrix.shape[1] for matrix in recurrent_matrices(model))
    names = ("test", "valid", "parameters", "recurrent_parameters", "seconds", "updates", "precision", "machine")
    kept = {name: result[name] for name in (*names, "recipe")}
    return {"row": row, "seed": seed, **kept, "hidden": list(model.options.hidden), "macs": macs, "int8": int8}


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over the seeds."""
    head = ["row", "seeds", "units", "LSTM layers' multiply-accumulates", "perplexity", "int8 bytes", "int8 perplexity"]
    head += ["minutes", "device", "precision"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    dense = max((row["macs"] for row in rows if row["row"] == "dense"), default=0)
    for name in ROWS:
        if own := [row for row in rows if row["row"] == name]:
            macs = max(row["macs"] for row in own)
            fewer = f" (1/{dense / macs:.1f})" if dense > macs else ""
            devices = dict.fromkeys(row["machine"].get("device", "CPU") for row in own)
            cells = [name, ", ".join(str(row["seed"]) for row in own), "; ".join(str(row["hidden"]) for row in own)]
            cells += [f"{macs:,}{fewer}", f"{statistics.median(row['test'] for row in own):.2f}"]
            cells += [f"{max(row['int8']['bytes'] for row in own):,}"]
            cells += [f"{statistics.median(row['int8']['test'] for row in own):.2f}"]
            cells += [f"{statistics.median(row['seconds'] for row in own) / 60:.1f}", ", ".join(devices)]
            cells += [", ".join(dict.fromkeys(row["precision"] for row in own))]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stopped(runs: list[dict[str, Any]]) -> str:
    """Runs that were cut off: what their log says of the last evaluation."""
    texts = []
    for run in runs:
        last, inputs, macs = run["evaluations"][-1], 1500, 0
        for units in last["units"]:
            macs += 4 * units * (inputs + units)
            inputs = units
        epochs = last["update"] / run["updates_per_epoch"]
        texts.append(
            f"`{run['row']}`, seed {run['seed']}, was **cut off** after {epochs:.0f} of {run['epochs']} epochs on one "
            f"{run['machine']['device']} ({run['precision']}, the rate a tenth after every "
            f"{run['schedule']['every_epochs']}), and its weights are lost. Its log: "
            f"{' and '.join(map(str, last['units']))} of 2 x 1500 units left, {8 * 1500**2 * 2 / macs:.1f} times fewer "
            f"multiply-accumulates in the LSTM layers, validation perplexity {last['valid']:.1f} and still falling. "
            "No dense model was trained beside it, so this is no claim."
        )
    return "\n\n".join(texts)


def main() -> None:
    """Read arguments, train what is missing, write the results after each row."""
    study = Study(RESULTS, list(ROWS), PAGE)
    parser = options(__doc__, list(ROWS), "large", "*")
    parser.add_argument("--accelerator", choices=("cpu", "cuda", "mps"), default="cuda")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of compactrnn train")
    given = parser.parse_args()
    changes = [f"training.accelerator={given.accelerator}", *given.set]
    for name in study.train(given, lambda row, seed, runs: row_of(row, seed, runs, changes)):
        text = table(study.rows)
        study.write("ptb-large", text, stopped(study.content.get("stopped", [])))
        print(f"{name}\n{text}", flush=True)
    if not given.rows:
        study.write("ptb-large", stopped(study.content.get("stopped", [])))


if __name__ == "__main__":
    main()
