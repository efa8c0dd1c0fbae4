"""Penn Treebank, words, 2 x 1500: the papers' own size, on a GPU.

    COMPACTRNN_DATA=... python benchmarks/ptb_large.py --runs runs/large --accelerator cuda
    python benchmarks/ptb_large.py --runs runs/large --rows dense iss --set training.precision=bf16-mixed

`dense` is the large model of Zaremba et al. (recipes/ptb-large-dense.toml), `iss` the same with the group lasso of Wen
et al. (recipes/ptb-large.toml), `selection` with the gates of Wen L. et al. in place of the lasso. `tied` is the first
phase of recipes/ptb-large-tied.toml, `tied-iss-4` all of it, `tied-iss-8` the same with an eighth of the
multiply-accumulates, and `scratch-4` has the units of `tied-iss-4` from the start, for as many updates as this one and
`tied` together. `early-iss-4` is cut to the same units while it still learns, without a teacher, in fewer updates than
`tied` alone. Runs that are finished are not repeated, one that was stopped goes on from its last checkpoint.

Perplexities are of the whole softmax, the state carried from word to word; those of int8 and int4 are of the packed
files on the engine, which take long for models of this size: `--pack` names the rows. Writes docs/ptb-large.md, with
`--rows` and nothing after it from the results alone.
"""

import statistics
from pathlib import Path
from typing import Any

from compact_language_model import recurrent_matrices
from study import Study, options

from compactrnn import Engine
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ptb_large.json"
PAGE = ROOT / "docs" / "ptb-large.md"
GATES = 'phases.train.compress={method="neuron_selection",macs=2550000,steps=36000}'
AUTHORS = {"dense": ("ptb-large-dense", []), "iss": ("ptb-large", []), "selection": ("ptb-large", [GATES])}
SHARES = {"tied-iss-4": (0.4, 0.6), "tied-iss-8": (0.28, 0.426)}  # of the units of the two layers
EARLY = "early-iss-4"
EARLY_EPOCHS = {"train": 6, "cut": 5, "small": 8}
ROWS = [*AUTHORS, "tied", *SHARES, EARLY, "scratch-4"]
FILES = ("int8", "int4")


def recipe_of(row: str, seed: int, changes: list[str]) -> Recipe:
    """The recipe of a row."""
    name, own = AUTHORS.get(row, ("ptb-large-tied", []))
    recipe = load_recipe(ROOT / "recipes" / f"{name}.toml", [f"training.seed={seed}", *own, *changes])
    if row in AUTHORS:
        return recipe
    table = recipe.as_dict()
    phases, sizes = table["phases"], table["model"]["hidden"]
    if row in SHARES:
        kept = {f"recurrent[{layer}]": share for layer, share in enumerate(SHARES[row])}
        phases["cut"]["compress"]["keep"] = kept
        return recipe_from(table)
    first = phases["train"]
    if row == "tied":
        return recipe_from({**table, "phases": {"train": first}})
    if row == EARLY:
        for phase, epochs in EARLY_EPOCHS.items():
            phases[phase] |= {"epochs": epochs, "distill": None, "model": phases["small"]["model"]}
            phases[phase]["optimizer"]["learning_rate"] = first["optimizer"]["learning_rate"]
        first |= {"schedule": phases["cut"]["schedule"], "average": None}
        return recipe_from(table)
    hidden = [round(share * size) for share, size in zip(SHARES["tied-iss-4"], sizes, strict=True)]
    model = {**table["model"], **phases["small"]["model"], "embedding": hidden[-1], "hidden": hidden}
    longer = {**first, "epochs": sum(phase["epochs"] for phase in phases.values())}
    return recipe_from({**table, "model": model, "phases": {"train": longer}})


def run_of(row: str, seed: int, runs: Path, changes: list[str]) -> Path:
    """Train a row, or take up a finished run; its folder. What is cut from the tied model needs it first."""
    run = runs / f"{row}-{seed}"
    source = run_of("tied", seed, runs, changes) if row in SHARES else None
    train(recipe_of(row, seed, changes), run, resume=(run / "config.json").exists(), source=source)
    return run


def row_of(row: str, seed: int, runs: Path, changes: list[str], files: bool) -> dict[str, Any]:
    """What is published of a row."""
    run = run_of(row, seed, runs, changes)
    model, task, _ = RunFolder(run).load()
    result, packed = RunFolder(run).read_result(), {}
    for weights in FILES if files else ():
        file = run / f"{weights}.crnn"
        pack_model(model, task, file, weights)
        packed[weights] = {"bytes": file.stat().st_size, "test": task.evaluate_engine(Engine(file), "test")}
    macs = sum(matrix.shape[0] * matrix.shape[1] for matrix in recurrent_matrices(model))
    names = ("test", "valid", "parameters", "recurrent_parameters", "seconds", "updates", "precision", "machine")
    kept = {name: result[name] for name in (*names, "recipe")}
    return {"row": row, "seed": seed, **kept, "hidden": list(model.options.hidden), "macs": macs, "files": packed}


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over the seeds."""
    head = ["row", "seeds", "units", "parameters", "LSTM layers' multiply-accumulates", "perplexity"]
    head += [f"{kind} {what}" for kind in FILES for what in ("bytes", "perplexity")] + ["minutes", "device"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    whole = max((row["macs"] for row in rows if row["row"] in ("dense", "tied")), default=0)
    for name in ROWS:
        if own := [row for row in rows if row["row"] == name]:
            macs = max(row["macs"] for row in own)
            fewer = f" (1/{whole / macs:.1f})" if whole > macs else ""
            devices = dict.fromkeys(f"{row['machine'].get('device', 'CPU')}, {row['precision']}" for row in own)
            cells = [name, ", ".join(str(row["seed"]) for row in own), "; ".join(str(row["hidden"]) for row in own)]
            cells += [f"{max(row['parameters'] for row in own):,}", f"{macs:,}{fewer}"]
            cells += [f"{statistics.median(row['test'] for row in own):.2f}"]
            for kind in FILES:
                packed = [row["files"][kind] for row in own if kind in row["files"]]
                cells.append(f"{max(file['bytes'] for file in packed):,}" if packed else "")
                cells.append(f"{statistics.median(file['test'] for file in packed):.2f}" if packed else "")
            cells += [f"{statistics.median(row['seconds'] for row in own) / 60:.1f}", ", ".join(devices)]
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
    study = Study(RESULTS, ROWS, PAGE)
    parser = options(__doc__, ROWS, "large", "*")
    parser.add_argument("--accelerator", choices=("cpu", "cuda", "mps"), default="cuda")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of compactrnn train")
    parser.add_argument("--pack", nargs="*", choices=ROWS, default=ROWS, metavar="ROW", help="rows to pack, too; all")
    given = parser.parse_args()
    changes = [f"training.accelerator={given.accelerator}", *given.set]
    for name in study.train(given, lambda row, seed, runs: row_of(row, seed, runs, changes, row in given.pack)):
        text = table(study.rows)
        study.write("ptb-large", text, stopped(study.content.get("stopped", [])))
        print(f"{name}\n{text}", flush=True)
    if not given.rows:
        study.write("ptb-large", stopped(study.content.get("stopped", [])))


if __name__ == "__main__":
    main()
