"""What came out of a sweep: a table, the frontier of quality and size, a picture of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..._files import write_atomically, write_json
from ..._machine import describe_machine
from ...training.run_folder import RunFolder
from ..plot import Point, frontier_plot
from .grid import SEED
from .job import STOPPED
from .plan import Run

_SIZES = ("parameters", "recurrent_parameters", "seconds", "cpu_seconds")


def describe(runs: Sequence[Run], failed: Mapping[str, str]) -> dict[str, Any]:
    """The content of `sweep.json`: all points, and the configurations, which are points that differ in the seed only.

    Of a configuration with several seeds `valid`, `test` and `parameters` are medians over its finished runs.
    """
    points = [run for run in runs if run.values]
    rows = [_row(run, failed) for run in points]
    metric = next((RunFolder(run.folder).read_result()["metric"] for run in points if run.finished), None)
    return {"metric": metric, "configurations": _configurations(rows), "runs": rows, "machine": describe_machine()}


def write(out: Path, outcome: dict[str, Any]) -> dict[str, Any]:
    """Write `sweep.json`, `table.md`, and `frontier.svg` where a run is finished; returns `outcome`."""
    write_json(out / "sweep.json", outcome)
    write_atomically(out / "table.md", markdown(outcome).encode(), "table")
    if rows := outcome["configurations"]:
        points = {row["name"]: Point(row["name"], row["parameters"], row["valid"]) for row in rows}
        front = [points[row["name"]] for row in rows if row["frontier"]]
        label = f"validation {outcome['metric'].replace('_', ' ')}"
        plot = frontier_plot(list(points.values()), front, size_label="parameters", quality_label=label)
        write_atomically(out / "frontier.svg", plot.encode(), "plot")
    return outcome


def table(outcome: Mapping[str, Any], brief: bool = False) -> list[tuple[str, ...]]:
    """A header, and a row for each configuration, smallest first; of several seeds the median.

    Unless it is brief it has their range, too, and what the runs took.
    """
    rows = outcome["configurations"]
    names = [[part.partition("=") for part in row["name"].split(",")] for row in rows]
    keys = [key for key, _, _ in names[0]] if rows else []
    header: tuple[str, ...] = (*keys, "parameters", "validation", "test", "front")
    lines: list[tuple[str, ...]] = [header if brief else (*header, "runs", "CPU seconds")]
    for row, parts in zip(rows, names, strict=True):
        figures = [_figure(row, key, brief) for key in ("valid", "test")]
        line = (*(value for _, _, value in parts), f"{row['parameters']:,}", *figures, "yes" if row["frontier"] else "")
        lines.append(line if brief else (*line, str(row["count"]), f"{row['cpu_seconds']:,}"))
    return lines


def unfinished(outcome: Mapping[str, Any]) -> list[str]:
    """For each run without a result its name and the reason."""
    return [f"{row['name']}: {row['state']}" for row in outcome["runs"] if row["state"] != "finished"]


def markdown(outcome: Mapping[str, Any]) -> str:
    """The table as a page."""
    header, *rows = table(outcome)
    lines = [header, ("---",) * len(header), *rows]
    title = f"Metric: {outcome['metric'].replace('_', ' ')}, lower is better.\n\n" if outcome["metric"] else ""
    page = title + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    rest = "".join(f"- {text}\n" for text in unfinished(outcome))
    return page + (f"\n{rest}" if rest else "")


def _row(run: Run, failed: Mapping[str, str]) -> dict[str, Any]:
    folder = RunFolder(run.folder)
    row: dict[str, Any] = {"name": run.name, "values": dict(run.values), "state": "not trained"}
    if run.finished:
        result = folder.read_result()
        return {
            **row,
            "state": "finished",
            "updates": result["updates"]["total"],
            **{name: result[name] for name in ("valid", "test", *_SIZES)},
        }
    evaluations = [line for line in folder.progress_lines() if line["event"] == "evaluation"]
    if run.name in failed:
        row["state"] = f"failed: {failed[run.name]}"
    elif (run.folder / STOPPED).exists() and evaluations:
        last = evaluations[-1]
        row["state"] = f"stopped early, {last['metric']} {last['validation']:.4g} after {last['update']:,} updates"
        row["state"] += f" of {last['phase']}"
    return {**row, **({"valid": evaluations[-1]["validation"]} if evaluations else {})}


def _configurations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The finished runs by configuration, smallest first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["state"] == "finished":
            others = {key: value for key, value in row["values"].items() if key != SEED}
            groups.setdefault(json.dumps(others, default=str), []).append(row)
    made = [_configuration(group) for group in groups.values()]
    made.sort(key=lambda row: (row["parameters"], row["valid"]))
    best = float("inf")
    for row in made:
        row["frontier"] = row["valid"] < best
        best = min(best, row["valid"])
    return made


def _configuration(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = group[0]["values"]
    parts = zip(values, group[0]["name"].split(","), strict=True)
    name = ",".join(part for key, part in parts if key != SEED) or "seed=all"
    row: dict[str, Any] = {"name": name, "values": {key: value for key, value in values.items() if key != SEED}}
    for key in ("valid", "test"):
        figures = [one[key] for one in group]
        row |= {key: median(figures), f"{key}_range": [min(figures), max(figures)]}
    row |= {key: round(median(one[key] for one in group)) for key in _SIZES}
    return {**row, "count": len(group)}


def _figure(row: Mapping[str, Any], key: str, brief: bool) -> str:
    low, high = row[f"{key}_range"]
    return f"{row[key]:.4g}" + (f" ({low:.3g} to {high:.3g})" if row["count"] > 1 and not brief else "")
