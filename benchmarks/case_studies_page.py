"""Write the figures of models that people ship into docs/case-studies.md.

    python benchmarks/shipped_models.py --models FOLDER
    python benchmarks/enhancement.py
    python benchmarks/case_studies_page.py

Only what stands between the markers changes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compactrnn.report.insert import insert

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "case-studies.md", ROOT / "benchmarks" / "results"
METRICS = {"SI-SDR": 1, "PESQ": 2, "STOI": 3}  # digits


def times(report: dict[str, Any]) -> str:
    """A row for each file: bytes, and microseconds of one frame."""
    lines = []
    for row in report["rows"]:
        spent, faster = row["microseconds"], row["times faster"]
        sizes = [row["bytes shipped"], *row["bytes"].values()]
        medians = [spent[form]["median"] for form in (row["best of onnxruntime"], "float32", "int8")]
        cells = [f"{n / 1000:.0f}" for n in sizes] + [f"{t:.1f}" for t in medians]
        lines.append([row["model"], *cells, *(f"{faster[weights]:.1f}" for weights in ("float32", "int8"))])
    head = ["model", "shipped, KB", "float32, KB", "int8, KB", "onnxruntime, us", "float32, us", "int8, us"]
    return _table([*head, "times faster, float32", "int8"], lines)


def quality(report: dict[str, Any]) -> str:
    """A row for each form of each enhancer, below one of the mixtures."""
    ratios = [name for name in report["mixtures"] if name.startswith("at ")]
    lines = [["the noisy speech", "", "", *_metrics(report["mixtures"], ratios), ""]]
    for row in report["rows"]:
        if "PESQ by noise" in row:
            same = f"{row['SI-SDR against float32']:.0f}" if "SI-SDR against float32" in row else ""
            lines.append([row["model"], row["form"], f"{sum(row['bytes']) / 1000:.0f}", *_metrics(row, ratios), same])
    heads = [f"{metric} {name}" for metric in METRICS for name in ratios]
    return _table(["model", "form", "KB", *heads, "SI-SDR against float32"], lines)


def noises(report: dict[str, Any]) -> str:
    """What int8 changes of PESQ, by the kind of noise."""
    rows = {(row["model"], row["form"]): row["PESQ by noise"] for row in report["rows"] if "PESQ by noise" in row}
    lines, kinds = [], list(next(iter(rows.values())))
    for model in dict.fromkeys(model for model, _ in rows):
        changes = [rows[model, "int8"][kind] - rows[model, "float32"][kind] for kind in kinds]
        lines.append([model, *(f"{change:+.3f}" for change in changes)])
    return _table(["model", *kinds], lines)


def detector(report: dict[str, Any]) -> str:
    """What int8 changes of the answers."""
    (row,) = [row for row in report["rows"] if row["model"] == "silero-vad" and row["form"] == "int8"]
    other, chunks = row["other decisions"], f"{row['chunks']:,}"
    mean, most = f"{row['mean change']:.4f}", f"{row['largest change']:.2f}"
    return (
        f"\nOf {chunks} chunks of the mixtures, int8 decides {other} otherwise at a limit of 0.5; the probability"
        f"\nchanges by {mean} in the mean, {most} at most.\n\n"
    )


def gtcrn(report: dict[str, Any]) -> str:
    """The recording that the authors publish."""
    found = report["GTCRN on its authors' recording"]
    small, large = (f"{found['bytes'][weights] / 1000:.0f} KB" for weights in ("int8", "float32"))
    return (
        "\nOn the second half of the recording that its authors publish, calibrated on the first, the int8 file of"
        f" {small}\ngives what the float32 file of {large} gives with an SI-SDR of {found['int8']:.0f} dB;"
        f" the latter gives\ntheir own output with {found['float32']:.0f} dB.\n\n"
    )


def _metrics(row: dict[str, Any], ratios: Sequence[str]) -> list[str]:
    return [f"{row[name][metric]:.{digits}f}" for metric, digits in METRICS.items() for name in ratios]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n" + "".join("| " + " | ".join(row) + " |\n" for row in rows) + "\n"


def filled(page: str) -> str:
    """The page with the figures of the result files."""
    for name, parts in (("shipped_models", (times,)), ("enhancement", (quality, noises, detector, gtcrn))):
        report = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for part in parts:
            page = insert(page, part.__name__, part(report))
    return page


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
