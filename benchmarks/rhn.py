"""Put finished runs of recurrent highway networks on the Penn Treebank among the published results, and on docs/rhn.md.

    compactrnn train recipes/ptb-rhn.toml --out runs/ptb-rhn
    compactrnn train recipes/ptb-rhn-from-scratch.toml --out runs/ptb-rhn-from-scratch
    compactrnn train recipes/ptb-rhn-from-scratch.toml --set model.hidden=[128] --out runs/ptb-rhn-dense
    python benchmarks/rhn.py runs

The folder has the runs by these names; the last two may be missing. `dense, first phase` is the network of the first
run before any of its units went. Multiply-accumulates are those of the recurrent layer for one character. `int8` is the
packed model on the engine, its weights in int8, in stored bytes and bits per character.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from compactrnn import Engine
from compactrnn.compress.sizes import counts
from compactrnn.report.insert import insert
from compactrnn.training.pack_run import pack_model
from compactrnn.training.run_folder import RunFolder, load_phase

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "rhn.json", ROOT / "docs" / "rhn.md"
RUNS = {"ptb-rhn": "shrunk", "ptb-rhn-from-scratch": "from scratch", "ptb-rhn-dense": "dense"}


def row_of(name: str, model: Any, task: Any, scores: dict[str, Any]) -> dict[str, Any]:
    """Sizes of a model, and its quality packed."""
    parameters, recurrent, macs = counts(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.crnn"
        pack_model(model, task, path, "int8")
        packed = {"bytes": path.stat().st_size, "test": task.evaluate_engine(Engine(path), "test")}
    sizes = {"units": list(model.layer_sizes()), "parameters": parameters, "recurrent_parameters": recurrent}
    return {"row": name, **sizes, "macs": macs, **scores, "int8": packed}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of all runs there are, with the machine and the recipe of each."""
    rows = []
    for run_name, name in RUNS.items():
        run = RunFolder(folder / run_name)
        if not run.result.exists() and name != "shrunk":
            continue
        result, (model, task, recipe) = run.read_result(), run.load()
        kept = {key: result[key] for key in ("seed", "cpu_seconds", "threads", "machine", "recipe")}
        if name == "shrunk":
            first = load_phase(run.phase("train"), task).eval()
            valid = task.evaluate(first, "valid", recipe.training.validation_streams)
            scores = {"updates": result["updates"]["train"], "valid": valid, "test": task.evaluate(first, "test")}
            rows.append(row_of("dense, first phase", first, task, scores))
        scores = {"updates": result["updates"]["total"], "valid": result["valid"], "test": result["test"]}
        rows.append(row_of(name, model, task, scores) | kept)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    sizes = f"{row['units'][0]} | {row['parameters']:,} | {row['macs']:,} | {row['updates']:,}"
    packed = f"{row['int8']['bytes']:,} | {row['int8']['test']:.3f}"
    return f"| {row['row']} | {sizes} | {row['valid']:.3f} | {row['test']:.3f} | {packed} |\n"


def text(rows: list[dict[str, Any]]) -> str:
    """The table, and what it says."""
    head = (
        "| network | units | parameters | multiply-accumulates | updates | valid | test | int8: bytes | int8: test |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    return "\n" + head + "".join(map(line, rows)) + "\n" + said(rows) + "\n"


def said(rows: list[dict[str, Any]]) -> str:
    """What the rows that there are say of the shrunk network, against each of the others."""
    by_name = {row["row"]: row for row in rows}
    small = by_name["shrunk"]
    lines = []
    for name, against in (("dense", "the dense one of as many updates"), ("from scratch", "its own size from scratch")):
        if (other := by_name.get(name)) is None:
            lines.append(f"Against {against}: not run.")
            continue
        change = small["test"] - other["test"]
        fewer = f"with {other['macs'] / small['macs']:.1f} times fewer multiply-accumulates " if name == "dense" else ""
        worse = "worse" if change > 0 else "better"
        lines.append(f"Against {against}, {fewer}it is {abs(change):.3f} bits per character {worse}.")
    return " ".join(lines) + " One seed, so that small differences say nothing.\n"


def main() -> None:
    """Write the rows and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = rows_of(given.runs)
    given.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(insert(page, "rhn", text(rows)), encoding="utf-8")
    print(text(rows))


if __name__ == "__main__":
    main()
