"""One HTML page about some runs, with everything in it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import invalid
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
    results = {str(run): _result(RunFolder(run)) for run in runs}
    metrics = sorted({result["metric"] for result in results.values()})
    parts = ["<h1>compactrnn: trained models</h1>"]
    for metric in metrics:
        mine = {run: result for run, result in results.items() if result["metric"] == metric}
        label = metric.replace("_", " ")
        parts.append(f"<h2>{html.escape(label)}</h2>")
        header = ("run", "test", "validation", "parameters", "recurrent parameters", "updates", "seed", "seconds")
        rows = [
            (run, f"{r['test']:.3f}", f"{r['valid']:.3f}", f"{r['parameters']:,}", f"{r['recurrent_parameters']:,}",
             f"{r['updates']['total']:,}", r["seed"], f"{r['seconds']:.0f}")
            for run, r in mine.items()
        ]  # fmt: skip
        parts.append(_table(header, rows))
        points = [Point(Path(run).name, r["parameters"], r["test"]) for run, r in mine.items()]
        parts.append(_figure(quality_plot(points, size_label="parameters", quality_label=f"test {label}")))
        curves = {Path(run).name: _curve(RunFolder(Path(run)), metric) for run in mine}
        parts.append(_figure(curves_plot(curves, x_label="update", y_label=f"validation {label}")))
    for run, result in results.items():
        parts.append(f"<h2>{html.escape(run)}</h2><details><summary>recipe and machine</summary>")
        shown = json.dumps({"recipe": result["recipe"], "machine": result["machine"]}, indent=2)
        parts.append(f"<pre>{html.escape(shown)}</pre></details>")
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>compactrnn</title><style>{_STYLE}</style>"
    out.write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8")


def _result(folder: RunFolder) -> dict[str, Any]:
    if not folder.result.exists():
        raise invalid("run folder", got=f"{folder.path} without result.json", wanted="a finished run")
    return json.loads(folder.result.read_text(encoding="utf-8"))


def _curve(folder: RunFolder, metric: str) -> tuple[list[float], list[float]]:
    lines = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    before, x, last = 0, [], {}
    for line in lines:
        if line["phase"] != last.get("phase", line["phase"]):
            before += last["update"]
        x.append(before + line["update"])
        last = line
    return x, [line[f"valid_{metric}"] for line in lines]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _figure(svg: str) -> str:
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"
