"""A self-contained HTML report of runs."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .._errors import invalid
from .._files import check_writable, write_atomically
from ..training.run_folder import RunFolder
from .inside.section import Choice, inside_section
from .markup import figure, page, shown, table
from .plot import LABELED, NARROW, Point, curves_plot, distinct_colors, quality_plot

SHORT = 40  # letters, of a name that has room in a narrow picture


def write_page(runs: Sequence[Path], out: Path, choice: Choice | None = None) -> None:
    """A table of the runs' results, quality against size, validation over the updates, and each recipe.

    With `choice` also what the layers of each model do on this example.
    """
    check_writable(out, "report")
    results = {str(run): RunFolder(run).read_result() for run in runs}
    names = _names(list(results))
    metrics = sorted({result["metric"] for result in results.values()})
    parts = ["<h1>compactrnn: trained models</h1>"]
    for metric in metrics:
        mine = {run: result for run, result in results.items() if result["metric"] == metric}
        label = metric.replace("_", " ")
        parts.append(f"<h2>{shown(label)}</h2>")
        header = ("run", "test", "validation", "parameters", "recurrent parameters", "updates", "seed", "seconds")
        rows = [
            (run, f"{r['test']:.3f}", f"{r['valid']:.3f}", f"{r['parameters']:,}", f"{r['recurrent_parameters']:,}",
             f"{r['updates']['total']:,}", r["seed"], f"{r['seconds']:.0f}")
            for run, r in mine.items()
        ]  # fmt: skip
        parts.append(table(header, rows))
        points = [Point(names[run], r["parameters"], r["test"]) for run, r in mine.items()]
        curves = {names[run]: _curve(RunFolder(Path(run)), metric) for run in mine}
        wide = len(mine) > LABELED or any(len(names[run]) > SHORT for run in mine)
        width = 6 if wide else NARROW
        with distinct_colors():
            sizes = quality_plot(points, size_label="parameters", quality_label=f"test {label}", width=width)
            updates = curves_plot(curves, x_label="update", y_label=f"validation {label}", width=width)
        pictures = [
            figure(sizes, f"Test {label} against parameters", kind="wide" if wide else ""),
            figure(updates, f"Validation {label} over the updates", kind="wide" if wide else ""),
        ]
        parts += pictures if wide else ["<div class='row'>", *pictures, "</div>"]
    for run, result in results.items():
        parts.append(f"<h2>{shown(run)}</h2><details><summary>recipe and machine</summary>")
        both = json.dumps({"recipe": result["recipe"], "machine": result["machine"]}, indent=2)
        parts.append(f"<pre>{html.escape(both)}</pre></details>")
        if choice is not None:
            parts += inside_section(Path(run), choice)
    write_atomically(out, page("compactrnn", parts).encode(), "report")


def _names(runs: Sequence[str]) -> dict[str, str]:
    """Labels of the runs: folder names, or paths where names repeat."""
    short = {run: os.path.basename(os.path.abspath(run)) for run in runs}
    count = Counter(short.values())
    return {run: name if count[name] == 1 else run for run, name in short.items()}


def _curve(folder: RunFolder, metric: str) -> tuple[list[float], list[float]]:
    lines = folder.evaluations()
    before, x, last = 0, [], {}
    for line in lines:
        value = line.get(f"valid_{metric}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise invalid(f"{folder.metrics}: valid_{metric}", got=repr(value), expected="a number in each line")
        if line["phase"] != last.get("phase", line["phase"]):
            before += last["update"]
        x.append(before + line["update"])
        last = line
    return x, [line[f"valid_{metric}"] for line in lines]
