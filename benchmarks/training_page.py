"""Write the figures of the loops over time into docs/training.md.

    python benchmarks/train_speed.py
    python benchmarks/time_loop.py
    python benchmarks/linear_scan.py
    python benchmarks/native_step.py
    python benchmarks/structured_weights.py
    python benchmarks/training_page.py

Only what stands between the markers changes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compactrnn.report.insert import insert

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "training.md", ROOT / "benchmarks" / "results"


def loops(report: dict[str, Any]) -> str:
    """A layer's training step by every kind of loop, over nn.LSTM."""
    rows = {(row["cell"], row["loop"], row["batch"]): row for row in report["rows"]}
    cells = list(dict.fromkeys(cell for cell, *_ in rows))
    kinds = sorted({(-batch, kind) for _, kind, batch in rows}, key=lambda k: (k[0], _order(k[1], report)))
    lines = [[str(-b), kind, *(_ratio(rows.get((cell, kind, -b))) for cell in cells)] for b, kind in kinds]
    return _table(["batch", "loop", *cells], lines)


def _order(kind: str, report: dict[str, Any]) -> int:
    return [row["loop"] for row in report["rows"]].index(kind)


def _ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "error" in row:
        return row["error"].split(":")[0]
    waiting = row["first_call_longer_by_seconds"]
    compiling = f"; first call {waiting:.0f} s longer" if waiting >= 1 else ""
    return f"{row['ratio_to_lstm']:.2f} ({row['quartiles'][0]:.2f} to {row['quartiles'][1]:.2f}){compiling}"


def scans(report: dict[str, Any]) -> str:
    """A linear scan with its gradient, how many times faster than what."""
    names = ["native loop", "C loop", "Python loop", "torch, associative_scan", "floor"]
    lines = []
    for row in report["rows"]:
        ratios = row["ratio_to_ours"]
        lines.append(
            [f"{row['steps']:,}", f"{row['columns']:,}", *(_plain(ratios[n][0]) if n in ratios else "" for n in names)]
        )
    return _table(["steps", "columns", *names], lines)


def _plain(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def steps(report: dict[str, Any]) -> str:
    """A step on the engine, how many times faster than in torch."""
    lines = []
    for row in report["rows"]:
        ratios = row["ratio"]
        lines.append([row["cell"], *(_spread(ratios[f"torch cell / {kind}"]) for kind in ("float32", "int8"))])
    return _table(["cell", "float32", "int8"], lines)


def _spread(figures: dict[str, float]) -> str:
    return f"{figures['median']:.1f} ({figures['quartiles'][0]:.1f} to {figures['quartiles'][1]:.1f})"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n" + "\n".join("|" + "|".join(f" {c} " if c else " " for c in row) + "|" for row in rows) + "\n\n"


def structured(report: dict[str, Any]) -> str:
    """A training step with structured matrices over one with dense ones, in each way."""
    cases: dict[tuple, dict[str, str]] = {}
    for row in report["rows"]:
        case = (row["layer"], f"{row['size']:,}", f"{row['steps']} x {row['batch']}", f"`{row['weight']}`")
        low, high = row["ratio_quartiles"]
        cases.setdefault((*case, f"{row['macs_over_dense']:.2f}"), {})[row["way"]] = (
            f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        )
    head = ["layer", "size", "steps x batch", "weight", "MACs, of dense", "chosen", "torch, dense", "native, own"]
    lines = [[*case, *(ways.get(way, "") for way in ("chosen", "dense", "own"))] for case, ways in cases.items()]
    return _table(head, lines)


def layers(report: dict[str, Any]) -> str:
    """A training step of a layer that torch has, too: ours over torch's."""
    lines = []
    for row in report["rows"]:
        shape = row["shape"]
        sizes = f"{shape['steps']} x {shape['batch']} x {shape['input_size']}"
        ratios = [(row[kind]["ratio"], *row[kind]["ratio_quartiles"]) for kind in ("alone", "whole")]
        lines.append([row["case"], sizes, *(f"{r:.2f} ({low:.2f} to {high:.2f})" for r, low, high in ratios)])
    return _table(["layer", "steps x batch x inputs", "the layer", "with head and update"], lines)


SECTIONS = {
    "train_speed": layers,
    "time_loop": loops,
    "linear_scan": scans,
    "native_step": steps,
    "structured_weights": structured,
}


def filled(page: str) -> str:
    """The page with the committed figures."""
    for name, write in SECTIONS.items():
        page = insert(page, name, write(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))))
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
