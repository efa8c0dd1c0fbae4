"""Put finished runs on SQuAD among the published results: scores, sizes and the recipe of each.

    compactrnn train recipes/squad-bidaf.toml --out runs/squad/dense
    compactrnn train recipes/squad-bidaf-small.toml --from runs/squad/dense --out runs/squad/small
    python benchmarks/reading.py runs/squad/dense runs/squad/small

MACs are the multiply-accumulates of all LSTMs, once each: those for a word of the passage.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from compactrnn.compress.sizes import counts
from compactrnn.training.run_folder import RunFolder

RESULTS = Path(__file__).parent / "results" / "reading.json"
SHARED = ("metric", "test", "test_f1", "test_exact_match", "valid", "seed", "updates", "seconds", "machine", "recipe")


def row_of(folder: Path) -> dict[str, Any]:
    """The scores and the sizes of a run."""
    run = RunFolder(folder)
    model, _, _ = run.load()
    parameters, _, macs = counts(model)
    found = run.read_result()
    sizes = {"units": list(model.layer_sizes()), "parameters": parameters, "macs": macs, "bytes": 4 * parameters}
    return {"run": folder.name, **sizes, **{key: found[key] for key in SHARED}}


def line(row: dict[str, Any]) -> str:
    """The line of a run in the table of docs/reading.md."""
    sizes = f"{', '.join(map(str, row['units']))} | {row['parameters']:,} | {row['macs']:,}"
    scores = f"{row['test_exact_match']:.1f} | {row['test_f1']:.1f}"
    return f"| {row['run']} | {sizes} | {row['updates']['total']:,} | {scores} |"


def main() -> None:
    """Write the rows of all folders, the first being the dense model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = [row_of(folder) for folder in given.runs]
    given.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(map(line, rows)))


if __name__ == "__main__":
    main()
