"""What the runtime alone costs, of two wheels of compactrnn: their bytes, those of the core, and the time of an import.

    git worktree add before COMMIT && pip wheel --no-deps --wheel-dir wheels/before ./before
    pip wheel --no-deps --wheel-dir wheels/after .
    python benchmarks/runtime_cost.py wheels/before/*.whl wheels/after/*.whl [--rounds 20]

An import is `import compactrnn; compactrnn.Engine` in a process of its own that sees what the wheel holds and NumPy,
after NumPy, which every version needs; the versions take turns. Processor time, medians and quartiles.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from published import RESULTS, publish

IMPORT = (
    "import time, numpy; t = time.process_time(); import compactrnn; compactrnn.Engine; print(time.process_time() - t)"
)


def milliseconds(folder: Path) -> float:
    """Of one import of what lies in the folder."""
    path = os.pathsep.join([str(folder), str(Path(np.__file__).parents[1])])
    command = [sys.executable, "-S", "-c", IMPORT]  # without what is installed beside NumPy
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    return 1000 * float(done.stdout)


def core_bytes(folder: Path) -> int:
    (core,) = (folder / "compactrnn" / "runtime").glob("_native*.so")
    return core.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a wheel")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "runtime_cost.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in ("before", "after")}
        for name, folder in folders.items():
            with zipfile.ZipFile(getattr(given, name)) as wheel:
                wheel.extractall(folder)
            milliseconds(folder)  # compiles
        times = {name: [] for name in folders}
        for name in [*folders] * given.rounds:
            times[name].append(milliseconds(folders[name]))
        cores = {name: core_bytes(folder) for name, folder in folders.items()}
    quartiles = {name: statistics.quantiles(taken, n=4) for name, taken in times.items()}
    figures = {
        "wheel, bytes": {name: getattr(given, name).stat().st_size for name in folders},
        "core, bytes": cores,
        "import, ms": {name: [round(t, 2) for t in found] for name, found in quartiles.items()},
    }
    ratios = {what: found["after"] / found["before"] for what, found in figures.items() if what != "import, ms"}
    ratios["import, ms"] = quartiles["after"][1] / quartiles["before"][1]
    print(figures, ratios)
    publish(given, "the runtime of two versions", **figures, **{"after over before": ratios})


if __name__ == "__main__":
    main()
