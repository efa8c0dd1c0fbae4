"""Penn Treebank, words, 2 x 400 tied: every way to make the model small, each beside its size from scratch.

    COMPACTRNN_DATA=... python benchmarks/scoreboard.py --runs runs/scoreboard
    python benchmarks/scoreboard.py --runs runs/scoreboard --rows dense iss scratch:iss --seeds 0 1

All rows but `dense` and `scratch` begin with the trained model of recipes/ptb-400.toml, which is their teacher as well.
They get as many updates, the dense model's counted, as `scratch` rows, which have the sizes that the row of that name
ended with, and `longer`, which is the dense model trained on. Where units go, they go early, and the rest of the
updates are the smaller model's. Rows that end in `int4` are trained on in int4, to give what they gave before. Runs
that are finished are not repeated, one that was stopped goes on from its last checkpoint.

    python benchmarks/scoreboard.py --runs runs/scoreboard --rows dense --time

takes the time of a word on an idle machine: of all finished rows on the engine, and of the dense model in every form of
every framework that is installed.

Perplexities are of the whole softmax, the state carried from word to word; those of int8 and int4 are of the packed
file on the engine. Writes docs/scoreboard.md.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compact_language_model import model_of, recurrent_matrices
from structures import gradual, tables
from study import Study, options

from compactrnn import Engine
from compactrnn._machine import describe_machine
from compactrnn.report.bench import FRAMEWORKS
from compactrnn.report.bench.cases import engine_config, language_case
from compactrnn.report.bench.run import hot_times
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scoreboard.json"
PAGE = ROOT / "docs" / "scoreboard.md"
RECIPE = ROOT / "recipes" / "ptb-400.toml"
EPOCHS = 42  # after the dense model's, and one with all words
CUT = 6  # of these, until units are gone
UPDATES_PER_EPOCH = 1327
RATE = 2e-3
AWARE_EPOCHS, AWARE_RATE = 2, 1e-4  # in int4, to give what it gave before
SHARES = {"recurrent[0]": 0.4, "recurrent[1]": 0.75}  # of the units; those of the last are the embedding's, too
TEACHER = {"teacher": "tune", "weight": 0.3}
DROPOUT = {"dropout": 0.3, "embedding_dropout": 0.3, "output_dropout": 0.35, "weight_dropout": 0.25}  # of fewer numbers
WHILE_CUT = {"dropout": 0.25, "embedding_dropout": 0.25, "output_dropout": 0.3, "weight_dropout": 0.2}
SMALLER = ("iss", "selection")  # rows that end as ordinary layers of fewer units

FILES = ("float32", "int8", "int4")
Table = dict[str, Any]


def factorized(structure: str, times: int) -> Callable[[Table], Table]:
    """LSTM layers of so many times fewer parameters in a structure."""

    def phase(table: Table) -> Table:
        model = model_of(table)
        found, layers = recurrent_matrices(model), model.recurrent_parameters()
        inside = sum(matrix.shape[0] * matrix.shape[1] for matrix in found)
        share = (layers / times - (layers - inside)) / inside
        return {
            "factorize": {"weights": tables(found, structure, share)},
            **gradual(structure, EPOCHS * UPDATES_PER_EPOCH),
        }

    return phase


def pruned(method: str, **arguments: Any) -> Callable[[Table], Table]:
    """A pruner at work."""
    return lambda _: {"compress": {"method": method, "steps": (CUT - 1) * UPDATES_PER_EPOCH, **arguments}}


def selected(times: int) -> Callable[[Table], Table]:
    """Neuron selection, LSTM layers of so many times fewer multiply-accumulates."""

    def phase(table: Table) -> Table:
        macs = sum(matrix.shape[0] * matrix.shape[1] for matrix in recurrent_matrices(model_of(table)))
        return pruned("neuron_selection", macs=macs // times)(table)

    return phase


CUTS: dict[str, tuple[str, Callable[[Table], Table]]] = {
    "longer": ("the dense model trained on", lambda _: {}),
    "iss": ("group lasso on units and the columns tied to them", pruned("group_lasso", keep=SHARES)),
    "selection": ("neuron selection by gates", selected(4)),
    "magnitude": ("a tenth of the entries of the LSTM layers", factorized("sparse", 10)),
    "block-sparse": ("a quarter of the 16 x 4 blocks of the LSTM layers", factorized("block-sparse", 4)),
    "low-rank": ("LSTM layers in low rank", factorized("low-rank", 4)),
    "doped-kronecker": ("LSTM layers in Kronecker products and free entries", factorized("doped-kronecker", 10)),
}
AWARE = {"dense-int4": "dense", "iss-int4": "iss", "selection-int4": "selection"}  # rows trained on in int4
ROWS = ["dense", *CUTS, *AWARE]
ROWS += ["scratch:iss", "scratch:selection"]


def recipe_of(row: str, seed: int, runs: Path) -> Recipe:
    """The recipe of a row."""
    table = load_recipe(RECIPE, [f"training.seed={seed}"]).as_dict()
    if row == "dense":
        return recipe_from(table)
    phases = table["phases"]
    first, tune = phases["train"], phases["tune"]
    if row.startswith("scratch:"):
        model, _, _ = RunFolder(run_of(row.removeprefix("scratch:"), seed, runs)).load()
        sizes = {name: getattr(model.options, name) for name in ("embedding", "hidden")}
        phases["train"] = {**first, "epochs": first["epochs"] + EPOCHS}
        phases["tune"] = {**tune, "epochs": tune["epochs"] + 1}
        return recipe_from({**table, "model": {**table["model"], **sizes, **DROPOUT}})
    if row in AWARE:
        table = recipe_of(AWARE[row], seed, runs).as_dict()
        table["phases"]["aware"] = {
            **tune,
            "epochs": AWARE_EPOCHS,
            "average": None,
            "model": {name: 0.0 for name in DROPOUT},
            "optimizer": {**tune["optimizer"], "learning_rate": AWARE_RATE, "weight_decay": 0.0},
            "compress": {"method": "quantize", "weights": "int4"},
            "distill": {"teacher": list(table["phases"])[-1], "weight": 1.0},
        }
        return recipe_from(table)
    change = CUTS[row][1](table)
    small = {**first, "distill": TEACHER, "optimizer": {**first["optimizer"], "learning_rate": RATE}}
    last = {**tune, "epochs": 1, "distill": TEACHER}
    plain = {"model": DROPOUT}
    odd = {"model": {**DROPOUT, "weight_dropout": 0.0}}  # gates and factors are no matrices to take a share of
    if row in SMALLER:
        schedule = {"name": "constant", "warmup": 400}
        while_cut = {**WHILE_CUT, **({"weight_dropout": 0.0} if row == "selection" else {})}
        cut = {**small, "epochs": CUT, "average": None, "schedule": schedule, "distill": {"teacher": "tune"}, **change}
        phases["cut"] = {**cut, "model": while_cut}
        phases["small"], phases["small_tune"] = {**small, "epochs": EPOCHS - CUT, **plain}, {**last, **plain}
    else:
        dropout = {} if row == "longer" else odd
        phases["small"], phases["small_tune"] = {**small, "epochs": EPOCHS, **change, **dropout}, {**last, **dropout}
    return recipe_from(table)


def run_folder(row: str, seed: int, runs: Path) -> Path:
    """Where a row is trained."""
    return runs / f"{row.replace(':', '-')}-{seed}"


def run_of(row: str, seed: int, runs: Path) -> Path:
    """Train a row, or take up a finished run; its folder. What begins with the dense model needs it first."""
    run = run_folder(row, seed, runs)
    begun = AWARE.get(row, "dense" if row in CUTS else None)
    source = None if begun is None else run_of(begun, seed, runs)
    train(recipe_of(row, seed, runs), run, resume=(run / "config.json").exists(), source=source)
    return run


def row_of(row: str, seed: int, runs: Path) -> Table:
    """What is published of a row."""
    run = run_of(row, seed, runs)
    model, task, _ = RunFolder(run).load()
    result, files = RunFolder(run).read_result(), {}
    for weights in FILES:
        file = run / f"{weights}.crnn"
        pack_model(model, task, file, weights)
        engine = Engine(file)
        files[weights] = {"bytes": file.stat().st_size, "test": task.evaluate_engine(engine, "test")}
    macs = sum(matrix.macs() for matrix in recurrent_matrices(model))
    names = ("test", "valid", "parameters", "recurrent_parameters", "cpu_seconds", "updates", "machine", "recipe")
    return {"row": row, "seed": seed, **{name: result[name] for name in names}, "macs": macs, "files": files}


def take_times(study: Study, runs: Path, rounds: int = 20) -> None:
    """Put the time of a word among the results: all rows and the frameworks in turn, on one core."""
    done = [run_folder(row["row"], row["seed"], runs) for row in study.rows if row["seed"] == study.rows[0]["seed"]]
    model, task, _ = RunFolder(run_folder("dense", study.rows[0]["seed"], runs)).load()
    forms = []
    for run in done:
        for kind in ("int8", "int4"):
            blob = (run / f"{kind}.crnn").read_bytes()
            forms.append(engine_config(f"{run.name} {kind}", kind, lambda blob=blob: (Engine(blob), blob)))
    case = replace(language_case("dense", model, task.parts["test"], model), ours=tuple(forms))
    times = hot_times(case, FRAMEWORKS, rounds)
    study.content |= {"times": {name: time.as_dict() for name, time in times.items()}, "timed_on": describe_machine()}


def first_line(medians: dict[str, float]) -> str:
    """Which rows are better than their size from scratch."""
    pairs = {name: f"scratch:{name}" for name in CUTS if f"scratch:{name}" in medians and name in medians}
    better = [f"`{name}`" for name, scratch in pairs.items() if medians[name] < medians[scratch]]
    worse = [f"`{name}`" for name, scratch in pairs.items() if medians[name] >= medians[scratch]]
    parts = [f"Better than the same size from scratch: {', '.join(better)}."] if better else []
    return " ".join(parts + ([f"**No better than the same size from scratch: {', '.join(worse)}.**"] if worse else []))


def times_faster(row: str, times: Mapping[str, Any]) -> str:
    """How many times faster a word is on the engine than with the dense model in the fastest form of a framework."""
    own = [t["median"] for name, t in times.items() if name.rsplit("-", 1)[0] == row.replace(":", "-")]
    others = [t["median"] for name, t in times.items() if name.startswith(tuple(FRAMEWORKS))]
    return f"{min(others) / min(own):.1f}" if own and others else ""


def table(rows: list[Table], times: Mapping[str, Any]) -> str:
    """Medians over the seeds; `over dense` is each seed's, against the dense model of the same."""
    head = ["row", "seeds", "parameters", "LSTM layers' MACs", "perplexity", "over dense"]
    head += [f"{kind} {what}" for kind in FILES[1:] for what in ("bytes", "perplexity")]
    head.append("times faster")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    found = {name: [row for row in rows if row["row"] == name] for name in ROWS}
    medians = {name: statistics.median(row["test"] for row in own) for name, own in found.items() if own}
    dense = {row["seed"]: row["test"] for row in found["dense"]}
    fewest = {name: max(row["macs"] for row in own) for name, own in found.items() if own}
    for name, median in medians.items():
        own, share = found[name], fewest.get("dense", 0) / fewest[name]
        fewer = f" (1/{share:.1f})" if share > 1.005 else ""
        above = [row["test"] - dense[row["seed"]] for row in own if row["seed"] in dense and name != "dense"]
        over = f"{statistics.median(above):+.1f}" if above else ""
        cells = [name, ", ".join(str(row["seed"]) for row in own), f"{max(row['parameters'] for row in own):,}"]
        cells += [f"{fewest[name]:,}{fewer}", f"{median:.1f}", over]
        for kind in FILES[1:]:
            cells.append(f"{max(row['files'][kind]['bytes'] for row in own):,}")
            cells.append(f"{statistics.median(row['files'][kind]['test'] for row in own):.1f}")
        lines.append("| " + " | ".join([*cells, times_faster(name, times)]) + " |")
    return "\n\n".join(part for part in (first_line(medians), "\n".join(lines)) if part)


def main() -> None:
    """Read arguments, train what is missing, write the results after each row."""
    study = Study(RESULTS, ROWS, PAGE)
    parser = options(__doc__, ROWS, "scoreboard")
    parser.add_argument("--time", action="store_true", help="take the time of a word, too")
    given = parser.parse_args()
    for name in study.train(given, row_of):
        text = table(study.rows, study.content.get("times", {}))
        study.write("scoreboard", text)
        print(f"{name}\n{text}", flush=True)
    if given.time:
        take_times(study, given.runs)
        study.write("scoreboard", table(study.rows, study.content["times"]))


if __name__ == "__main__":
    main()
