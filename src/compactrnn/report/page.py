"""A self-contained HTML report of runs."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import invalid
from .._files import check_writable, write_atomically
from .._text import printable
from ..training.run_folder import RunFolder
from .plot import Point, curves_plot, quality_plot

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: 1rem; overflow: auto; }
"""


def write_page(runs: Sequence[Path], out: Path) -> None:
    """A table of the runs' results, quality against size, validation over the updates, and each recipe."""
    check_writable(out, "report")
    results = {str(run): RunFolder(run).read_result() for run in runs}
    names = _names(list(results))
    metrics = sorted({result["metric"] for result in results.values()})
    parts = ["<h1>compactrnn: trained models</h1>"]
    for metric in metrics:
        mine = {run: result for run, result in results.items() if result["metric"] == metric}
        label = metric.replace("_", " ")
        parts.append(f"<h2>{_shown(label)}</h2>")
        header = ("run", "test", "validation", "parameters", "recurrent parameters", "updates", "seed", "seconds")
        rows = [
            (run, f"{r['test']:.3f}", f"{r['valid']:.3f}", f"{r['parameters']:,}", f"{r['recurrent_parameters']:,}",
             f"{r['updates']['total']:,}", r["seed"], f"{r['seconds']:.0f}")
            for run, r in mine.items()
        ]  # fmt: skip
        parts.append(_table(header, rows))
        points = [Point(names[run], r["parameters"], r["test"]) for run, r in mine.items()]
        parts.append(_figure(quality_plot(points, size_label="parameters", quality_label=f"test {label}")))
        curves = {names[run]: _curve(RunFolder(Path(run)), metric) for run in mine}
        parts.append(_figure(curves_plot(curves, x_label="update", y_label=f"validation {label}")))
    for run, result in results.items():
        parts.append(f"<h2>{_shown(run)}</h2><details><summary>recipe and machine</summary>")
        shown = json.dumps({"recipe": result["recipe"], "machine": result["machine"]}, indent=2)
        parts.append(f"<pre>{html.escape(shown)}</pre></details>")
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>compactrnn</title><style>{_STYLE}</style>"
    write_atomically(out, (page + "\n".join(parts) + "</html>\n").encode(), "report")


def _names(runs: Sequence[str]) -> dict[str, str]:
    """Labels of the runs: folder names, or paths where names repeat."""
    short = {run: os.path.basename(os.path.abspath(run)) for run in runs}
    count = Counter(short.values())
    return {run: name if count[name] == 1 else run for run, name in short.items()}


def _shown(text: object) -> str:
    return html.escape(printable(text))


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


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_shown(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _figure(svg: str) -> str:
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"
