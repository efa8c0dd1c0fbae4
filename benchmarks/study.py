"""What the studies of compact models have in common: rows by name and seed, and the files they are published in."""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from compactrnn._machine import describe_machine
from compactrnn.report.insert import insert

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compact-weights.md"


class Study:
    """Rows of a results file, in the order of their `names`, each with its seed; other entries of the file stay."""

    def __init__(self, results: Path, names: Sequence[str], page: Path | None = None):
        self.results, self.names, self.page = results, list(names), page or PAGE
        self.content: dict[str, Any] = {"rows": []}
        if results.exists():
            self.content |= json.loads(results.read_text(encoding="utf-8"))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All of them."""
        return self.content["rows"]

    def add(self, row: dict[str, Any]) -> None:
        """Put a row in the place of that of the same name and seed."""
        rows = {(old["row"], old["seed"]): old for old in self.rows} | {(row["row"], row["seed"]): row}
        order = sorted(rows, key=lambda key: (self.names.index(key[0]), key[1]))
        self.content |= {"machine": describe_machine(), "rows": [rows[key] for key in order]}

    def write(self, marker: str, *paragraphs: str) -> None:
        """Write the results, and the paragraphs and what follows from the rows between the markers of the page."""
        self.results.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        text = "\n" + "\n\n".join(part for part in (*paragraphs, *self._ending()) if part) + "\n\n"
        self.page.write_text(insert(self.page.read_text(encoding="utf-8"), marker, text), encoding="utf-8")

    def _ending(self) -> list[str]:
        trained = {row["row"] for row in self.rows}
        missing = [f"`{name}`" for name in self.names if name not in trained]
        commits = sorted({str(row["machine"]["commit"])[:9] for row in self.rows})
        processors = ", ".join(dict.fromkeys(row["machine"]["processor"] for row in self.rows))
        later = f"Not trained yet: {', '.join(missing)}." if missing else ""
        return [later, f"{processors}; commit {', '.join(commits)}." if self.rows else ""]

    def train(self, arguments: argparse.Namespace, row_of: Callable[[str, int, Path], dict[str, Any]]) -> Iterator[str]:
        """Train and judge the rows that are asked for, each put among the others; their names, after each."""
        warnings.simplefilter("ignore", UserWarning)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        for seed in arguments.seeds:
            for row in arguments.rows:
                self.add(row_of(row, seed, arguments.runs))
                yield f"{row}, seed {seed}"


def options(description: str | None, names: Sequence[str], runs: str, count: str = "+") -> argparse.ArgumentParser:
    """The folder of the runs, the rows and the seeds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path(__file__).resolve().parents[1] / "runs" / runs)
    parser.add_argument("--rows", nargs=count, choices=names, default=names, metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    return parser
