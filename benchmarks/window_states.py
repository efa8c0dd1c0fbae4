"""What windows of a long series start from: strategies, data sets and seeds, compared in pairs; docs/window-states.md.

    COMPACTRNN_DATA=... python benchmarks/window_states.py --choose --seeds 0 1 2 3 4
    COMPACTRNN_DATA=... python benchmarks/window_states.py --rows "runoff: zero" "runoff: sequential"  # a part

Every row is an LSTM of 32 units that is trained for 600 updates, the same for each strategy of a data set but for where
the windows start; the weights of the best validation are kept. Runs that are finished are not repeated. CPU seconds
are those of the whole run with its ten validations, which are the same for all.
"""

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import Study, options

from compactrnn.report.insert import insert
from compactrnn.tasks.long_series import LongSeriesTask
from compactrnn.training.recipe import Recipe, load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "window_states.json"
PAGE = ROOT / "docs" / "window-states.md"
UPDATES = 600

DATA = {
    "runoff": {},  # of the recipe
    "pm25": {
        "file": "timeseries/beijing_pm25.csv.gz",
        "channels": ["pm2.5", "DEWP", "TEMP", "PRES", "cbwd", "Iws", "Is", "Ir"],
        "categories": ["cbwd"],
        "missing": ["pm2.5"],
        "targets": ["pm2.5"],
        "time": ["year", "month", "day", "hour"],
        "horizon": 6,
        "window": 48,
    },
    "temperatures": {
        "file": "timeseries/daily-min-temperatures.csv.gz",
        "channels": ["Temp"],
        "targets": ["Temp"],
        "horizon": 7,
        "window": 32,
    },
    "sunspots": {
        "file": "timeseries/monthly-sunspots.csv.gz",
        "channels": ["Sunspots"],
        "targets": ["Sunspots"],
        "horizon": 6,
        "window": 32,
    },
}
BATCH = {"runoff": 16, "pm25": 32, "temperatures": 8, "sunspots": 8}
EPOCH = {"runoff": 6, "pm25": 20, "temperatures": 10, "sunspots": 8}  # updates
STRATEGIES = {
    "zero": {"states": "zero"},
    "zero, shifted": {"states": "zero", "shift": True},
    "warm-up": {"states": "warm_up"},
    "sequential": {"states": "sequential"},
    "sequential, shifted": {"states": "sequential", "shift": True},
    "previous": {"states": "previous"},
    "propagate": {"states": "propagate"},
}
ABOUT = {
    "zero": "windows at fixed places in random order, from zeros",
    "zero, shifted": "the same, cut elsewhere in every epoch",
    "warm-up": "the same at fixed places, after reading as many steps before each as it has",
    "sequential": "in the order of time, from the last state of the update before",
    "sequential, shifted": "the same, cut elsewhere in every epoch",
    "previous": "in random order, from the last state of the window before, however old",
    "propagate": "in random order, by way of two memories",
}
OURS = "propagate"
POLICIES = {  # tried for it; an age limit of an epoch, in updates
    f"refresh each {'update' if refresh else 'epoch'}, mix {mix}, {'one epoch' if age else 'no'} age limit": {
        "refresh": refresh,
        "mix": mix,
        "max_age": age,
    }
    for refresh, mix, age in itertools.product((0, 1), (1.0, 0.5), (0, 1))
    if (refresh, mix, age) != (1, 1.0, 0)  # that is "previous"
}
CHOSEN = "refresh each update, mix 0.5, one epoch age limit"
CHOICE_SEED = 100
ROWS = [f"{data}: {strategy}" for data in DATA for strategy in STRATEGIES]


def recipe_of(data: str, strategy: str, seed: int, policy: str = CHOSEN) -> Recipe:
    """That of the rivers, with other data."""
    table = load_recipe(ROOT / "recipes" / "rainfall-runoff.toml").as_dict()
    given = dict(STRATEGIES[strategy])
    table["training"] |= {"seed": seed, "batch_size": BATCH[data], "shift": given.pop("shift", False)}
    if data != "runoff":
        table["task"] = {"name": "long_series"}
    table["task"] |= {**DATA[data], **given, **(POLICIES[policy] if strategy == OURS else {})}
    if strategy == OURS and POLICIES[policy]["max_age"]:
        table["task"]["max_age"] = EPOCH[data]
    if strategy == "warm-up":
        table["task"]["warm_up"] = table["task"]["window"]
    table["phases"]["train"]["updates"] = UPDATES
    return recipe_from(table, f"{data}: {strategy}")


def row_of(row: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train, and read the test part in one stream and in windows."""
    data, strategy = row.split(": ")
    run = runs / f"{row.replace(': ', '-').replace(', ', '-')}-{seed}"
    recipe = recipe_of(data, strategy, seed)
    result = RunFolder(run).read_result() if (run / "result.json").exists() else train(recipe, run, resume=run.exists())
    model, task, _ = RunFolder(run).load()
    section = recipe.task
    steps = section.window + section.warm_up
    return {
        "row": row,
        "data": data,
        "strategy": strategy,
        "seed": seed,
        "metric": result["metric"],
        "valid": result["valid"],
        "test": result["test"],
        "test_nse": result["test_nse"],
        "persistence": result.get("test_persistence_scaled_mse"),
        "test_in_windows": in_windows(task, model, steps),
        "steps_of_windows": steps,
        "parameters": result["parameters"],
        "updates": result["updates"]["total"],
        "cpu_seconds": result["cpu_seconds"],
        "machine": result["machine"],
    }


def choose(runs: Path) -> dict[str, dict[str, float]]:
    """The validation errors of each policy of message propagation, with a seed that is not compared."""
    found: dict[str, dict[str, float]] = {}
    for policy in POLICIES:
        for data in DATA:
            run = runs / f"choose-{data}-{list(POLICIES).index(policy)}"
            recipe = recipe_of(data, OURS, CHOICE_SEED, policy)
            done = (run / "result.json").exists()
            result = RunFolder(run).read_result() if done else train(recipe, run, resume=run.exists())
            found.setdefault(policy, {})[data] = result["valid"]
            print(policy, data, f"{result['valid']:.4f}, {result['cpu_seconds']:.1f} s", flush=True)
    best = min(found, key=lambda policy: sum(map(math.log, found[policy].values())))
    if best != CHOSEN:
        raise SystemExit(f"the lowest error has {best!r}: let CHOSEN say so")
    return found


@torch.no_grad()
def in_windows(task: LongSeriesTask, model: Any, steps: int) -> float:
    """The test error where every answer is given after `steps` steps from a fresh state, as zeros were trained on."""
    asked, total, count = np.flatnonzero(task.asked["test"]), 0.0, 0
    for some in np.array_split(asked, -(-len(asked) // 256)):
        batch = task._of_steps("test", some - steps + 1, some + 1, some)
        part = task.errors(batch.within(model(batch.inputs)), batch)[task.metric]
        total, count = total + part[0], count + part[1]
    return total / count


def pairs(rows: list[dict[str, Any]], one: str, other: str) -> dict[str, list[float]]:
    """The logarithms of the ratios of their errors, of each data set, by seed."""
    errors = {(row["data"], row["strategy"], row["seed"]): row["test"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    ratio = {(data, seed): errors[data, one, seed] / errors[data, other, seed] for data in DATA for seed in seeds}
    return {data: [math.log(ratio[data, seed]) for seed in seeds] for data in DATA}


def sign_flips(values: list[float]) -> float:
    """The two-sided p-value of a mean of 0: the share of all signs with a mean at least as far from it.

    All of them for up to 16 values, else 100,000 at random.
    """
    x = np.array(values)
    if len(x) <= 16:
        signs = np.array(list(itertools.product([-1, 1], repeat=len(x))))
    else:
        drawn = np.random.default_rng(0).choice([-1, 1], (100_000, len(x)))
        signs = np.concatenate([np.ones((1, len(x)), int), drawn])
    return float((np.abs(signs @ x) >= np.abs(x.sum()) * (1 - 1e-12)).mean())


def interval(of_data: dict[str, list[float]], draws: int = 10_000) -> tuple[float, float]:
    """The middle 95 % of the mean where seeds are drawn again within each data set."""
    random = np.random.default_rng(0)
    means = [random.choice(values, (draws, len(values))).mean(1) for values in of_data.values()]
    low, high = np.quantile(np.mean(means, 0), [0.025, 0.975])
    return float(low), float(high)


def verdict(rows: list[dict[str, Any]]) -> str:
    """Who wins, in words."""
    if not rows:
        return "No seed is trained with every strategy yet."
    best, second, *_ = sorted(STRATEGIES, key=lambda strategy: means(rows, strategy))
    found = pairs(rows, best, second)
    every = [value for values in found.values() for value in values]
    (low, high), p = interval(found), sign_flips(every)
    said = f"**{best}** has the lowest test error, {_change(means(rows, best) - means(rows, second))} against "
    said += f"**{second}** in the geometric mean over {len(DATA)} data sets and {len(every) // len(DATA)} seeds "
    said += f"({_change(low)} to {_change(high)} where seeds are drawn again; p = {p:.2g} over {len(every)} pairs)."
    ours = [f"{_change(means(rows, OURS) - means(rows, name))} against {name}" for name in STRATEGIES if name != OURS]
    return f"{'' if p <= 0.05 else 'No strategy wins. '}{said} Message propagation is at {'; '.join(ours)}."


def complete(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the seeds with which every row is trained."""
    trained = {(row["row"], row["seed"]) for row in rows}
    return [row for row in rows if all((name, row["seed"]) in trained for name in ROWS)]


def means(rows: list[dict[str, Any]], strategy: str) -> float:
    """The mean over data sets and seeds of the logarithm of the error."""
    return statistics.fmean(math.log(row["test"]) for row in rows if row["strategy"] == strategy)


def _change(log_ratio: float) -> str:
    return f"{100 * (math.exp(log_ratio) - 1):+.1f} %"


def table(rows: list[dict[str, Any]]) -> str:
    """Errors by strategy and data set: mean and range over seeds."""
    lines = ["| strategy | " + " | ".join(DATA) + " | CPU s a run |", "|" + "---|" * (len(DATA) + 2)]
    for strategy in STRATEGIES:
        cells = []
        for data in DATA:
            own = [row["test"] for row in rows if (row["data"], row["strategy"]) == (data, strategy)]
            cells.append(f"{statistics.fmean(own):.4f} ({min(own):.4f} to {max(own):.4f})" if own else "")
        cpu = [row["cpu_seconds"] for row in rows if row["strategy"] == strategy]
        cells.append(f"{statistics.median(cpu):.1f}" if cpu else "")
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    last = []
    for data in DATA:
        own = [row["persistence"] for row in rows if row["data"] == data and row["persistence"] is not None]
        last.append(f"{own[0]:.4f}" if own else "")
    lines.append("| *the last value again* | " + " | ".join(last) + " | |")
    return "\n".join(lines)


def tests(rows: list[dict[str, Any]]) -> str:
    """Message propagation against each other strategy."""
    lines = [f"| {OURS} against | error | 95 % of seeds | better in pairs | on data sets | p, pairs | p, data sets |"]
    lines.append("|" + "---|" * 7)
    for other in STRATEGIES:
        if other == OURS or not rows:
            continue
        found = pairs(rows, OURS, other)
        every = [value for values in found.values() for value in values]
        each = [statistics.fmean(values) for values in found.values()]
        low, high = interval(found)
        ratio = [_change(value) for value in (statistics.fmean(each), low, high)]
        better = f"{sum(v < 0 for v in every)} of {len(every)} | {sum(v < 0 for v in each)} of {len(each)}"
        p = f"{sign_flips(every):.2g} | {sign_flips(each):.3g}"
        lines.append(f"| {other} | {ratio[0]} | {ratio[1]} to {ratio[2]} | {better} | {p} |")
    return "\n".join(lines)


def windowed(rows: list[dict[str, Any]]) -> str:
    """The same models, each answer after a window from a fresh state."""
    lines = ["| strategy | " + " | ".join(DATA) + " |", "|" + "---|" * (len(DATA) + 1)]
    for strategy in STRATEGIES:
        cells = []
        for data in DATA:
            own = [row["test_in_windows"] for row in rows if (row["data"], row["strategy"]) == (data, strategy)]
            cells.append(f"{statistics.fmean(own):.4f}" if own else "")
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read arguments, train what is missing, write results and page after each run."""
    parser = options(__doc__, ROWS, "window-states")
    parser.add_argument("--choose", action="store_true", help="first compare policies on the validation parts")
    arguments = parser.parse_args()
    study = Study(RESULTS, ROWS, PAGE)
    study.content |= {"updates": UPDATES, "policy": POLICIES[CHOSEN], "command": "python benchmarks/window_states.py"}
    if arguments.choose:
        study.content["choice"] = {"seed": CHOICE_SEED, "validation": choose(arguments.runs)}
    for said in study.train(arguments, row_of):
        print(said, f"{study.rows[-1]['metric']}", flush=True)
        write(study)
    write(study)


def write(study: Study) -> None:
    """The verdict on top of the page, the tables further below."""
    rows = complete(study.rows)
    study.write("window_states", table(rows), tests(rows), windowed(rows))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(insert(page, "window_states_verdict", f"\n{verdict(rows)}\n\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
