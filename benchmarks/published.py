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
    result = {"what": what, "rounds": given.rounds, "machine": describe_machine(), **content}
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
