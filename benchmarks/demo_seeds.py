"""The demo from several seeds, and the table of the README.

python benchmarks/demo_seeds.py [--seeds 0 1 2] [--runs runs/seeds] [--out benchmarks/results/demo.json]

Runs `compactrnn demo --train --seed S` for each seed (about five minutes each; what was done before is not done again),
keeps every report, and prints the medians as a Markdown table.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def report_of(seed: int, folder: Path) -> dict:
    """One demo, run or read."""
    out = folder / str(seed)
    if not (out / "report.json").exists():
        command = [sys.executable, "-m", "compactrnn", "demo", "--train", "--seed", str(seed), "--out", str(out)]
        subprocess.run(command, check=True)
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def microseconds(row: dict, name: str) -> float:
    """Median time of one character."""
    value = row["microseconds_per_step"][name]
    return value["median"] if isinstance(value, dict) else value


def table(reports: list[dict]) -> str:
    """Medians over the seeds, with the spread of what matters most."""
    lines = [
        "| | updates | bits per character | on the engine, int8 | recurrent parameters | bytes | MACs per character |"
        " engine against torch's best on the dense model |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("dense", "compact", "from_scratch"):
        rows = [next(r for r in report["rows"] if r["name"] == name) for report in reports]
        dense = [next(r for r in report["rows"] if r["name"] == "dense") for report in reports]
        speed = [microseconds(d, "torch") / microseconds(r, "engine") for d, r in zip(dense, rows, strict=True)]
        quality = [r["bits_per_character"] for r in rows]
        lines.append(
            f"| {name.replace('_', ' ')} | {median([r['updates'] for r in rows]):,.0f}"
            f" | {median(quality):.3f} ({min(quality):.3f} to {max(quality):.3f})"
            f" | {median([r['engine_bits_per_character'] for r in rows]):.3f}"
            f" | {median([r['recurrent_parameters'] for r in rows]):,.0f}"
            f" | {median([r['bytes'] for r in rows]):,.0f} | {median([r['macs_per_step'] for r in rows]):,.0f}"
            f" | {median(speed):.1f}x ({min(speed):.1f} to {max(speed):.1f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "demo.json")
    arguments = parser.parse_args()
    reports = [report_of(seed, arguments.runs) for seed in arguments.seeds]
    arguments.out.write_text(json.dumps({"seeds": arguments.seeds, "reports": reports}, indent=1) + "\n")
    print(table(reports))


if __name__ == "__main__":
    main()
