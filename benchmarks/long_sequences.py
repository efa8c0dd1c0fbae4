"""Put finished runs on long sequences among the committed results, and write the tables of docs/long-sequences.md.

    compactrnn train recipes/adding-durnn.toml --out runs/adding-durnn
    python benchmarks/long_sequences.py runs/adding-durnn

A run takes the place of an earlier one with the same recipe. The commands, the page and its pictures are written anew
each time; on the page only what stands between the markers changes.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compactrnn.report.insert import insert
from compactrnn.report.plot import curves_plot
from compactrnn.training.recipe import load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "long_sequences.json"
PAGE = ROOT / "docs" / "long-sequences.md"
POINTS = 40
KEPT = ("metric", "test", "test_accuracy", "test_recall_error", "valid", "seed", "updates", "parameters",
        "recurrent_parameters", "seconds", "cpu_seconds", "solved", "ended_by", "threads", "machine",
        "recipe")  # fmt: skip
TASKS = ("adding", "copy_memory", "first_symbol", "mnist", "music")
UNITS = {"mse": "mean squared error", "error": "error in percent", "nats": "nats a step"}


def row_of(run: Path) -> dict[str, Any]:
    """A finished run: its result, the command that makes it again, and its history at `POINTS` places at most."""
    folder = RunFolder(run)
    if not folder.result.exists():
        raise SystemExit(f"{run}: expected a finished run, got no result.json")
    result = json.loads(folder.result.read_text(encoding="utf-8"))
    if result["recipe"]["task"]["name"] not in TASKS:
        raise SystemExit(f"{run}: expected one of {', '.join(TASKS)}, got the task {result['recipe']['task']['name']}")
    row = {name: result[name] for name in KEPT if name in result}
    return {"command": command_of(row["recipe"]), **row, "history": thinned(folder.history(), result["metric"])}


def thinned(history: list[dict[str, Any]], metric: str) -> list[dict[str, float]]:
    """Evenly chosen validations, the last and the best among them."""
    best = min(range(len(history)), key=lambda n: history[n][f"valid_{metric}"], default=0)
    stride = max(1, len(history) // POINTS)
    chosen = sorted({*range(0, len(history), stride), best, len(history) - 1} & set(range(len(history))))
    return [
        {
            "update": history[n]["update"],
            "valid": round(history[n][f"valid_{metric}"], 6),
            "cpu_seconds": round(history[n]["cpu_seconds"], 1),
        }
        for n in chosen
    ]


def command_of(recipe: dict[str, Any]) -> str:
    """The call that makes a run of `recipe`: the committed recipe that is nearest, and its overrides."""
    wanted, nearest = flat(whole(recipe)), None
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        given = flat(json.loads(json.dumps(load_recipe(path).as_dict())))
        other = {key: value for key, value in wanted.items() if given.get(key) != value or key not in given}
        if all(value is not None for value in other.values()) and given.keys() <= wanted.keys():
            sets = "".join(f" --set {key}={_toml(value)}" for key, value in other.items())
            call = f"compactrnn train recipes/{path.name}{sets}"
            nearest = min(nearest or (len(other), call), (len(other), call))
    if nearest is None:
        raise SystemExit("recipe: expected one that --set can reach, got one that no file in recipes/ leads to")
    return nearest[1]


def whole(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the options that have come since, as they are by default."""
    return json.loads(json.dumps(recipe_from(recipe).as_dict()))


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    entries: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{before}{key}"
        entries |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return entries


def _toml(value: Any) -> str:
    text = json.dumps(value)
    return f"'{text}'" if isinstance(value, list) else text.strip('"')


def label(row: dict[str, Any]) -> str:
    """Short description of the model: cell, sizes and overridden options."""
    model = row["recipe"]["model"]
    sizes = " + ".join(map(str, model["hidden"]))
    overruled = re.findall(r"--set model\.(?:cell_options\.)?(\S+)", row["command"])
    seed = [f"seed {row['seed']}"] if row["seed"] else []
    return ", ".join(
        [f"{model['cell']} {sizes}", *(text for text in overruled if not text.startswith(("hidden=", "cell="))), *seed]
    )


def task_label(row: dict[str, Any]) -> str:
    """The task in a few words."""
    task = row["recipe"]["task"]
    if task["name"] == "mnist":
        return "sequential MNIST" if task["order"] == "rows" else f"permuted MNIST, seed {task['permutation_seed']}"
    if task["name"] == "music":
        return f"music, {task['corpus'].replace('_', ' ')}"
    length = task["wait" if task["name"] == "copy_memory" else "steps"]
    return f"{task['name'].replace('_', ' ')}, T = {length:,}"


def quality(row: dict[str, Any]) -> str:
    """The test result."""
    if "test_accuracy" in row:
        return f"{row['test_accuracy']:.2f} % right"
    if row["metric"] == "nats":
        if "test_recall_error" not in row:
            return f"{row['test']:.2f} nats"
        return f"{row['test']:.2g} nats, {100 - row['test_recall_error']:.1f} % of symbols right"
    return f"{row['metric'].upper()} {row['test']:.2g}"


def solved(row: dict[str, Any]) -> str:
    """When the task was solved, phases of shorter sequences included."""
    if "solved" not in row:
        return ""
    at = row["solved"]
    phases = list(row["recipe"]["phases"])
    updates = at["update"] + sum(row["updates"][name] for name in phases[: phases.index(at["phase"])])
    return f"{updates:,} updates, {at['cpu_seconds'] / 60:.1f} CPU minutes"


def table(rows: list[dict[str, Any]]) -> str:
    """All results, task by task, as Markdown."""
    lines = [
        "| task | model | parameters | test | updates | threads | CPU minutes | solved after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ended = f", ended by {row['ended_by']}" if "ended_by" in row else ""
        what = [task_label(row), label(row), f"{row['parameters']:,}", quality(row)]
        spent = [f"{row['updates']['total']:,}{ended}", str(row["threads"]), f"{row['cpu_seconds'] / 60:.1f}"]
        cells = [*what, *spent, solved(row)]
        lines.append("| " + " | ".join(cells).replace("  ", " ") + " |")
    return "\n".join(lines)


def section(rows: list[dict[str, Any]]) -> str:
    """What stands between the markers."""
    if not rows:
        return ""
    commands = "\n".join(dict.fromkeys(row["command"] for row in rows))
    shown = "".join(f"![Validation against CPU time: {task}]({path.name})\n\n" for path, task in pictured(rows).items())
    return f"\n{table(rows)}\n\n{_machine(rows)}\n\n{shown}```\n{commands}\n```\n\n"


def pictured(rows: list[dict[str, Any]]) -> dict[Path, str]:
    """The tasks of which several models are compared, by the file of their picture."""
    tasks = [task_label(row) for row in rows]
    compared = dict.fromkeys(task for task in tasks if tasks.count(task) > 1)
    return {PAGE.with_name(re.sub(r"[^a-z0-9]+", "-", task.lower()) + ".svg"): task for task in compared}


def picture(rows: list[dict[str, Any]]) -> str:
    """The text of an SVG: what validation gave, and how much CPU time had gone by; of several seeds the first.

    Above ten times the worst end of a curve nothing is drawn: a training that goes astray and returns would hide all.
    """
    rows = [row for row in rows if not row["seed"]]
    highest = 10 * max(row["history"][-1]["valid"] for row in rows)
    curves = {}
    for row in rows:
        points = [point for point in row["history"] if point["valid"] <= highest]
        curves[label(row)] = [point["cpu_seconds"] / 60 for point in points], [point["valid"] for point in points]
    y_label = f"validation, {UNITS[rows[0]['metric']]}"
    return curves_plot(curves, x_label="CPU minutes", y_label=y_label, log_y=True)


def _machine(rows: list[dict[str, Any]]) -> str:
    """Where and of what state of the code; the results file has it for each row."""
    versions = dict.fromkeys((name, text) for row in rows for name, text in row["machine"]["versions"].items())
    parts = [*dict.fromkeys(row["machine"]["processor"] for row in rows)]
    parts += [f"{name} {text}" for name, text in versions if name != "onnxruntime"]
    commits = sorted({str(row["machine"]["commit"])[:9] for row in rows})
    return f"{', '.join(parts)}; commit {', '.join(commits)}."


def filled(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with the rows between its markers."""
    return insert(page, "results", section(rows))


def load() -> list[dict[str, Any]]:
    """The committed rows."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []


def main(runs: list[str]) -> None:
    every = [*load(), *(row_of(Path(run)) for run in runs)]
    rows = {json.dumps(whole(row["recipe"]), sort_keys=True): row for row in every}
    found = [{**row, "command": command_of(row["recipe"])} for row in rows.values()]
    found.sort(key=lambda row: (TASKS.index(row["recipe"]["task"]["name"]), task_label(row), row["command"]))
    RESULTS.write_text(json.dumps({"rows": found}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    for path, task in pictured(found).items():
        path.write_text(picture([row for row in found if task_label(row) == task]), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
