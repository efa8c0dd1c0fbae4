"""Models read at other sampling rates, and with steps missing, than they were trained with; docs/own-data.md.

    COMPACTRNN_DATA=... python benchmarks/time_scale.py --choose --seeds 0 1 2
    COMPACTRNN_DATA=... python benchmarks/time_scale.py --rows LSTM "HiPPO-LegS"  # a part

After the trajectories of Gu et al., "HiPPO", 2020, on other data: windows of three seconds at 50 Hz from a smartwatch,
each of one of seven exercises. Whole recordings are dealt to folds, so that all persons are known. Models of equally
many parameters, which answer at the last step, are trained on whole windows at 50 Hz, and then tested without further
training on the windows of `READINGS`, which are the same for all. Runs that are finished are not repeated.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from study import Study, options

from compactrnn.data import data_folder
from compactrnn.tasks.series_split import by_folds, windows
from compactrnn.training.recipe import Recipe, load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "time_scale.json"
PAGE = ROOT / "docs" / "own-data.md"
STEPS, STRIDE = 150, 75
CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]
READINGS = {
    "as trained": lambda x, random: x,
    "half the rate": lambda x, random: resampled(x, 0.5),
    "twice the rate": lambda x, random: resampled(x, 2.0),
    "30 % dropped": lambda x, random: x[kept(len(x), 0.3, random)],
    "60 % dropped": lambda x, random: x[kept(len(x), 0.6, random)],
    "30 % held": lambda x, random: held(x, kept(len(x), 0.3, random)),
    "60 % held": lambda x, random: held(x, kept(len(x), 0.6, random)),
}
SIZES = {  # of each cell the options that are compared on the validation part, about as large as the LSTM
    "LSTM": [{"hidden": [48]}],
    "GRU": [{"hidden": [56]}],
    "LMU": [{"hidden": [72], "cell_options": {"order": 64, "window": STEPS}}],
    "ParallelLMU": [{"hidden": [70], "cell_options": {"order": 24, "memory_size": 6, "window": STEPS}}],
    "HiPPO-LegS": [
        {"hidden": [128], "cell_options": {"order": 32}},
        {"hidden": [50], "cell_options": {"order": 16, "memory_size": 6}},
    ],
}
RATES = (5e-3, 1e-2)
CHOICE_SEED = 100


def resampled(x: np.ndarray, rate: float) -> np.ndarray:
    """`rate` times as many steps over the same time, by linear interpolation."""
    at = (np.arange(round(len(x) * rate)) / rate).clip(max=len(x) - 1)
    before = at.astype(int)
    share = (at - before)[:, None].astype(x.dtype)
    return x[before] * (1 - share) + x[np.minimum(before + 1, len(x) - 1)] * share


def kept(steps: int, share: float, random: np.random.Generator) -> np.ndarray:
    """The numbers of the steps that are left where `share` of them is lost at random, never the first."""
    lost = 1 + random.choice(steps - 1, round(share * steps), replace=False)
    return np.setdiff1d(np.arange(steps), lost)


def held(x: np.ndarray, there: np.ndarray) -> np.ndarray:
    """`x` with the last known step in the place of each that is lost."""
    return x[there[np.searchsorted(there, np.arange(len(x)), side="right") - 1]]


def write_windows(folder: Path) -> None:
    """The windows to train and to validate on, and those to test on for each reading."""
    with np.load(data_folder() / "watch_har" / "watch_har.npz", allow_pickle=False) as file:
        x, labels = file["x"].astype(np.float32), file["y"]
        offsets = [0, *np.cumsum(file["length"]).tolist()]
    test = by_folds(5, 0, 0, labels.tolist(), None, apart=False)["test"]
    cut = {
        part: [
            (x[begin:end], labels[number], number)
            for number in numbers
            for begin, end in windows(offsets[number], offsets[number + 1], STEPS, STRIDE)
        ]
        for part, numbers in (("train", np.setdiff1d(np.arange(len(labels)), test)), ("test", test))
    }
    _write(folder / "train.npz", cut["train"])
    for name, reading in READINGS.items():
        random = np.random.default_rng(0)
        _write(test_file(folder, name), [(reading(values, random), *rest) for values, *rest in cut["test"]])


def test_file(folder: Path, reading: str) -> Path:
    return folder / f"{reading.replace(' ', '-').replace('%', 'percent')}.npz"


def _write(path: Path, cut: list[tuple[Any, ...]]) -> None:
    """Windows, one after the other, with the class and the recording of each."""
    values, labels, recordings = zip(*cut, strict=True)
    lengths = np.array([len(one) for one in values])
    x, channels, y = np.concatenate(values), np.array(CHANNELS), np.array(labels)
    np.savez(path, x=x, lengths=lengths, channels=channels, y=y, recording=np.array(recordings))


def recipe_of(row: str, size: dict[str, Any], rate: float, seed: int, runs: Path) -> Recipe:
    """That of the activities, with other windows, another cell and the answer of the last step."""
    overrides = {
        "training.seed": seed,
        "task.file": str(runs / "train.npz"),
        "task.test_file": str(test_file(runs, "as trained")),
        "task.group": "recording",
        "task.window": 0,
        "task.stride": 0,
        "model.answer": "last",
        "model.cell": row.partition("-")[0],
        "phases.train.optimizer.learning_rate": rate,
        **{f"model.{name}": value for name, value in size.items()},
    }
    return load_recipe(
        ROOT / "recipes" / "activities.toml", [f"{name}={_toml(value)}" for name, value in overrides.items()]
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }"
    return json.dumps(value)


def trained(run: Path, recipe: Recipe) -> dict[str, Any]:
    """The result of a run, which is trained or finished first."""
    if (run / "result.json").exists():
        return RunFolder(run).read_result()
    return train(recipe, run, resume=run.exists())


def choose(rows: list[str], runs: Path) -> dict[str, Any]:
    """Size and learning rate of each row by the validation error, with a seed that is not compared."""
    found = {}
    for row in rows:
        tried = []
        for number, size in enumerate(SIZES[row]):
            for rate in RATES:
                run = runs / f"choose-{row}-{number}-{rate:g}"
                result = trained(run, recipe_of(row, size, rate, CHOICE_SEED, runs))
                tried.append({"size": size, "learning_rate": rate, "valid": result["valid"]})
                print(row, tried[-1], f"{result['cpu_seconds']:.1f} s", flush=True)
        found[row] = tried
    return found


def row_of(row: str, seed: int, runs: Path, tried: list[dict[str, Any]]) -> dict[str, Any]:
    """Train, and read the test part in every way."""
    best = min(tried, key=lambda one: one["valid"])
    run = runs / f"{row}-{seed}"
    result = trained(run, recipe_of(row, best["size"], best["learning_rate"], seed, runs))
    accuracy = {}
    for reading in READINGS:
        model, task, _ = RunFolder(run).load(str(test_file(runs, reading)))
        accuracy[reading] = task.scores(model, "test")["accuracy"]
    kept = {name: result[name] for name in ("valid", "parameters", "cpu_seconds", "machine")}
    return {
        "row": row,
        "seed": seed,
        **best["size"],
        "learning_rate": best["learning_rate"],
        "accuracy": accuracy,
        **kept,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracy by cell and reading: the mean over seeds, and the range."""
    lines = ["| cell | parameters | " + " | ".join(READINGS) + " | CPU s |", "|" + "---|" * (len(READINGS) + 3)]
    for name in SIZES:
        of = [row for row in rows if row["row"] == name]
        if of:
            cells = [_range([row["accuracy"][reading] for row in of]) for reading in READINGS]
            seconds = statistics.median(row["cpu_seconds"] for row in of)
            lines.append(f"| {name} | {of[0]['parameters']:,} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Read arguments, train what is missing, write results and page after each run."""
    parser = options(__doc__, list(SIZES), "time-scale")
    parser.add_argument("--choose", action="store_true", help="first choose sizes and learning rates on validation")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    write_windows(arguments.runs)
    study = Study(RESULTS, list(SIZES), PAGE)
    study.content["command"] = "python benchmarks/time_scale.py --choose --seeds 0 1 2"
    choice = study.content.setdefault("choice", {})
    if arguments.choose:
        choice |= choose(arguments.rows, arguments.runs)
    for said in study.train(arguments, lambda row, seed, runs: row_of(row, seed, runs, choice[row])):
        print(said, flush=True)
        study.write("time_scale", table(study.rows))
    study.write("time_scale", table(study.rows))


if __name__ == "__main__":
    main()
