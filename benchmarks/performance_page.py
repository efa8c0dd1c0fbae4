"""Write the figures of `compactrnn bench` into docs/performance.md and README.md, and draw the plots.

    compactrnn bench --json benchmarks/results/bench.json
    python benchmarks/without_avx512.py -m compactrnn bench --json benchmarks/results/bench_avx2.json
    python benchmarks/performance_page.py

Only what stands between the markers changes.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from compactrnn.report.bench.show import number
from compactrnn.report.insert import insert
from compactrnn.report.plot import Point, bars_plot, roofline_plot

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "results" / "bench.json"
FIGURES_AVX2 = ROOT / "benchmarks" / "results" / "bench_avx2.json"
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
ROOFLINE, BARS = ROOT / "docs" / "roofline.svg", ROOT / "docs" / "bench.svg"
WEIGHTS = ("int8", "int4", "float32")
FRAMEWORKS = ("torch", "onnxruntime", "openvino", "ncnn")


def filled(
    page: str, report: dict[str, Any] | None, write: Callable[[dict[str, Any]], str], marker: str = "bench"
) -> str:
    """The page with the output of `write` between its markers, nothing without a report."""
    text = "" if report is None else write(report)
    return insert(page, marker, text)


def summary(report: dict[str, Any]) -> str:
    """The README's table: single steps, this engine and the fastest framework."""
    lines = [
        "| model | compactrnn int8 | compactrnn int4 | fastest framework, any configuration | speedup of int8, int4 |",
        "|---|---|---|---|---|",
    ]
    for model, rows in _models(report, 1):
        ours = [rows.get(f"engine {kind}") for kind in ("int8", "int4")]
        others = {name: row["hot"]["median"] for name, row in rows.items() if not name.startswith("engine")}
        shown = ["" if row is None else f"{_number(row['hot']['median'])} us" for row in ours]
        faster = ", ".join(f"{row['against_fastest']:.1f}" for row in ours if row)
        lines.append("| " + " | ".join([model, *shown, _best(others), faster]) + " |")
    return "\n" + "\n".join(lines).replace("  |", " |") + "\n\n"


def tables(report: dict[str, Any]) -> str:
    """Everything that is said about the report, as Markdown."""
    parts = [_measured_on(report), "![compactrnn and the best configuration of each framework](bench.svg)\n"]
    parts += _comparisons(report, {"hot": "hot caches", "cold": "cold caches"})
    parts.append("**From C, against a plain read of the weights measured in the same repetitions**, single steps:\n")
    parts.append("![Roofline](roofline.svg)\n")
    parts.append(_ceiling(report))
    return "\n" + "\n".join(parts) + "\n"


def without_avx512(report: dict[str, Any]) -> str:
    """The same with AVX2 alone, hot."""
    return "\n" + "\n".join([_measured_on(report), *_comparisons(report, {"hot": "hot caches"})]) + "\n"


def roofline(report: dict[str, Any]) -> str:
    """Single steps under the read bandwidth of the core."""
    ceiling = {rate["bytes"]: rate["bytes_per_second"] for rate in report["read_rates"]}
    points: dict[str, list[Point]] = {}
    for row in _ours_in_c(report):
        rate = row["weight_bytes"] / (row["in_c"]["median"] * 1e-6)
        points.setdefault(row["precision"], []).append(Point(row["model"], row["weight_bytes"], rate))
    return roofline_plot(ceiling, points)


def bars(report: dict[str, Any]) -> str:
    """Single steps: this engine by weight type, each framework in its best configuration."""
    groups: dict[str, dict[str, float]] = {}
    for model, rows in _models(report, 1):
        ours = {f"compactrnn {kind}": row["hot"]["median"] for kind in WEIGHTS if (row := rows.get(f"engine {kind}"))}
        best = {framework: min(times) for framework in FRAMEWORKS if (times := _times(rows, framework))}
        groups[model] = {**ours, **best}
    return bars_plot(groups, x_label="microseconds per step")


def _measured_on(report: dict[str, Any]) -> str:
    machine = report["machine"]
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    return (
        f"Measured on one core of: {machine['processor']}; kernels: {report['isa']}; {report['rounds']} rounds; "
        f"{versions}; commit {str(machine['commit'])[:12]}.\n"
    )


def _comparisons(report: dict[str, Any], states: dict[str, str]) -> list[str]:
    parts = []
    for steps in sorted({row["steps"] for row in report["rows"]}):
        for state, title in states.items():
            parts.append(f"**{steps} step{'s' * (steps > 1)} per call, {title}**, microseconds, from Python:\n")
            parts.append(_comparison(report, steps, state))
    return parts


def _comparison(report: dict[str, Any], steps: int, state: str) -> str:
    lines = [
        f"| model | {' | '.join(f'compactrnn {kind}' for kind in WEIGHTS)} | fastest framework |"
        " speedup of int8, int4 |"
        " fastest with 8 bits or more | speedup of int8 | fastest in float32 | speedup of float32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, rows in _models(report, steps):
        times = {name: row[state]["median"] for name, row in rows.items() if row[state]}
        ours = [times.get(f"engine {kind}") for kind in WEIGHTS]
        others = {name: time for name, time in times.items() if not name.startswith("engine")}
        fine = {name: time for name, time in others.items() if rows[name]["precision"] != "int4"}
        exact = {name: time for name, time in others.items() if rows[name]["precision"] == "float32"}
        any_form = [_faster(rows, state, kind, "fastest", others) for kind in ("int8", "int4")]
        shown = ["" if time is None else _number(time) for time in ours]
        cells = [_best(others), ", ".join(filter(None, any_form))]
        cells += [_best(fine), _faster(rows, state, "int8", "as_fine", fine)]
        cells += [_best(exact), _faster(rows, state, "float32", "float32", exact)]
        lines.append("| " + " | ".join([model, *shown, *cells]) + " |")
    return "\n".join(lines).replace("  |", " |") + "\n"


def _faster(rows: dict[str, Any], state: str, kind: str, against: str, others: dict[str, float]) -> str:
    """Speedup over the fastest of these: hot as the benchmark reports it, cold from the medians."""
    row = rows.get(f"engine {kind}")
    if row is None or not others:
        return ""
    if state == "hot":
        return f"{row[f'against_{against}']:.2f}"
    return f"{min(others.values()) / row[state]['median']:.2f}"


def _ceiling(report: dict[str, Any]) -> str:
    """This engine from C against the read bandwidth, and the speedup that the bandwidth would allow."""
    lines = [
        "| model | weights | bytes per step | microseconds | plain read | share of the bandwidth | speedup over the"
        " fastest framework | speedup at full bandwidth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    models = dict(_models(report, 1))
    for row in _ours_in_c(report):
        others = [r["hot"]["median"] for n, r in models[row["model"]].items() if not n.startswith("engine")]
        floor = row.get("floor") or {}
        cells = [
            row["model"],
            row["precision"],
            f"{row['weight_bytes']:,}",
            _number(row["in_c"]["median"]),
            _number(floor["median"]) if floor else "",
            "" if row["fraction"] is None else f"{row['fraction']:.0%}",
            "" if row["against_fastest"] is None else f"{row['against_fastest']:.2f}",
            f"{min(others) / floor['median']:.2f}" if floor and others else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("  |", " |") + "\n"


def _ours_in_c(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in report["rows"] if row["steps"] == 1 and row["in_c"] and row["weight_bytes"]]


def _models(report: dict[str, Any], steps: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Model -> configuration -> row, of everything timed."""
    rows = [row for row in report["rows"] if row["steps"] == steps and row["hot"]]
    for model in dict.fromkeys(row["model"] for row in rows):
        yield model, {row["entry"]: row for row in rows if row["model"] == model}


def _times(rows: dict[str, Any], framework: str) -> list[float]:
    return [row["hot"]["median"] for name, row in rows.items() if name.split()[0] == framework]


def _best(times: dict[str, float]) -> str:
    if not times:
        return ""
    name = min(times, key=lambda name: times[name])
    return f"{_number(times[name])} ({name})"


def _number(value: float) -> str:
    return f"{value:.1f}" if 1 <= value < 100 else number(value)


def main() -> None:
    report = json.loads(FIGURES.read_text(encoding="utf-8"))
    for path, write in ((PAGE, tables), (README, summary)):
        path.write_text(filled(path.read_text(encoding="utf-8"), report, write), encoding="utf-8")
    avx2 = json.loads(FIGURES_AVX2.read_text(encoding="utf-8"))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), avx2, without_avx512, "bench-avx2"), encoding="utf-8")
    ROOFLINE.write_text(roofline(report), encoding="utf-8")
    BARS.write_text(bars(report), encoding="utf-8")
    print(f"{PAGE}, {ROOFLINE.name}, {BARS.name}: {len(report['rows'])} rows from commit {report['machine']['commit']}")


if __name__ == "__main__":
    main()
