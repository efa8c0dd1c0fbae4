"""Write the figures of delta networks into docs/delta.md.

    python benchmarks/delta_speech.py RUN
    python benchmarks/delta_products.py
    python benchmarks/delta_page.py

Only what stands between the markers changes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compactrnn.report.insert import insert

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "delta.md", ROOT / "benchmarks" / "results"


def speech(report: dict[str, Any]) -> str:
    """A row for each model."""
    lines = []
    for row in report["rows"]:
        name = row["model"].replace("trained on", f"trained on for {report['updates']} updates")
        cells = [name, f"{row['share']:.0%}", f"{row['valid word errors']:.1f}", f"{row['test word errors']:.1f}"]
        cells += [f"{row['valid loss']:.3f}", f"{row['test loss']:.3f}"]
        cells.append(f"{row['test word errors, engine, int8']:.1f}")
        faster = (row.get(f"dense over delta, {weights}") for weights in ("float32", "int8"))
        is_delta = row["share"] < 1
        lines.append(cells + [f"{ratio:.2f}" if ratio and is_delta else "" for ratio in faster])
    head = ["model", "products", "word errors on valid, %", "on test", "loss on valid", "on test"]
    return _table([*head, "word errors on test, int8", "times faster, float32", "int8"], lines)


def products(report: dict[str, Any]) -> str:
    """A row for each size and type, a column for each share."""
    ratios = {(row["units"], row["weights"], row["share"]): row["dense over delta"] for row in report["rows"]}
    shares = sorted({share for *_, share in ratios})
    kinds = list(dict.fromkeys((units, weights) for units, weights, _ in ratios))
    lines = [[str(n), kind, *(f"{ratios[n, kind, share]:.2f}" for share in shares)] for n, kind in kinds]
    return _table(["units", "weights", *(f"{share:.0%}" for share in shares)], lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n" + "".join("| " + " | ".join(row) + " |\n" for row in rows) + "\n"


def filled(page: str) -> str:
    """The page with the figures of the result files."""
    for name, table in (("speech", speech), ("products", products)):
        report = json.loads((RESULTS / f"delta_{name}.json").read_text(encoding="utf-8"))
        page = insert(page, name, table(report))
    return page


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
