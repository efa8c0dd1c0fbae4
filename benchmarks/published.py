"""What the benchmarks of kernels have in common: their options, and the file that a run is published in."""

import argparse
import json
from pathlib import Path
from typing import Any

from compactrnn._machine import describe_machine

RESULTS = Path(__file__).parent / "results"


def options(description: str | None, name: str, rounds: int) -> argparse.Namespace:
    """`rounds`, and `out`, where the result `name` goes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser.parse_args()


def publish(given: argparse.Namespace, what: str, **content: Any) -> None:
    """Write the file, with the machine that it was measured on."""
    write_result(given.out, what, rounds=given.rounds, machine=describe_machine(), **content)


def write_result(path: Path, what: str, **content: Any) -> None:
    """Write what a run has found, in a folder that it makes where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"what": what, **content}, indent=2) + "\n", encoding="utf-8")
