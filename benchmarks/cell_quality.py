"""What int8 and int4 cost each cell on a task: Bach's chorales, a layer of 64 units; docs/cells.md.

    COMPACTRNN_DATA=... python benchmarks/cell_quality.py
    COMPACTRNN_DATA=... python benchmarks/cell_quality.py --rows LSTM FSMN  # a part

Every cell is trained as recipes/music-lstm.toml says, for a fifth of the epochs, with its options as they are by
default: each is compared with itself, not with the others. Costs are of the test part on the engine against the same
model in torch, as in quality.py. Runs that are finished are not repeated; `python tests/cells_page.py` puts the figures
on the page.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import quality
from study import options

from compactrnn._machine import describe_machine
from compactrnn.models.recurrent_layers import known_cells
from compactrnn.training.recipe import load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cell_quality.json"
UNITS, EPOCHS = 64, 12


def trained(cell: str, seed: int, runs: Path) -> RunFolder:
    """The run of a cell, which is trained or finished first."""
    run = runs / f"{cell}-{seed}"
    overrides = {
        "training.seed": seed,
        "model.cell": cell,
        "model.hidden": [UNITS],
        "phases.train.epochs": EPOCHS,
    }
    recipe = load_recipe(ROOT / "recipes" / "music-lstm.toml", [f"{n}={json.dumps(v)}" for n, v in overrides.items()])
    if not (run / "result.json").exists():
        train(recipe, run, resume=run.exists())
    return RunFolder(run)


def row_of(cell: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train, pack and evaluate."""
    run = trained(cell, seed, runs)
    model, task, _ = run.load()
    result = run.read_result()
    kept = {name: result[name] for name in ("parameters", "cpu_seconds")}
    return {"cell": cell, "seed": seed, **kept, **quality.row_of(cell, model, task), "machine": describe_machine()}


def main() -> None:
    """Read arguments, train what is missing, write results after each cell."""
    arguments = options(__doc__, sorted(known_cells()), "cell-quality").parse_args()
    warnings.simplefilter("ignore", UserWarning)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = {}
    if RESULTS.exists():
        rows = {(row["cell"], row["seed"]): row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]}
    for seed in arguments.seeds:
        for cell in arguments.rows:
            rows[cell, seed] = row_of(cell, seed, arguments.runs)
            content = {"command": "python benchmarks/cell_quality.py", "rows": [rows[key] for key in sorted(rows)]}
            RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(quality.table(list(rows.values())))


if __name__ == "__main__":
    main()
