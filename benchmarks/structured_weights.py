"""A training step of a layer with structured matrices over that of a dense layer, side by side in one process.

python benchmarks/structured_weights.py [--pairs 15] [--threads 1] [--out benchmarks/results/structured_weights.json]

A step is forward and backward over a sequence; input and hidden size are the same, both matrices are of the weight that
is named. "dense" makes the matrices dense once per sequence, for torch's operator; "own" multiplies with the product of
the weight itself, in the native loop; "chosen" is what the layer does without being told. Steps alternate with those of
torch's layer, in reversed order every second time. A figure is the median ratio of neighboring steps, with quartiles.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.layers.fused import AbstractFused

LAYERS = {"LSTM": cr.LSTM, "GRU": cr.GRU}
TOEPLITZ = [("LSTM", 512, steps, batch, "ToeplitzLike", 4) for steps in (50, 100) for batch in (16, 32)]
LOW_RANK = [
    ("LSTM", n, 50, batch, "LowRank", n // part) for n in (128, 512) for batch in (1, 16) for part in (16, 4, 2)
]
GRUS = [
    ("GRU", 256, 50, 16, "LowRank", 16),
    ("GRU", 256, 50, 16, "LowRank", 64),
    ("GRU", 512, 50, 16, "ToeplitzLike", 4),
]


def stepper(layer: nn.Module, x: torch.Tensor, own: bool | None = None) -> Callable[[], float]:
    """A function that does one training step, in the way that `own` says, and says how long it took."""

    def step() -> float:
        start = time.perf_counter()
        layer.zero_grad()
        layer(x)[0].square().mean().backward()
        return time.perf_counter() - start

    def forced() -> float:
        with patch.object(AbstractFused, "_has_few_products", lambda layer, number: own):
            return step()

    return step if own is None else forced


def race(kind: str, size: int, steps: int, batch: int, weight: str, rank: int, pairs: int, seed: int) -> list[dict]:
    """One case, by alternating steps."""
    torch.manual_seed(seed)
    spec, x = getattr(cr, weight)(rank), torch.randn(steps, batch, size)
    layer = LAYERS[kind](size, size, input_weight=spec, hidden_weight=spec)
    dense = stepper(getattr(nn, kind)(size, size), x)
    ways = {"chosen": None, "dense": False} | ({"own": True} if weight == "LowRank" else {})
    macs = (layer.weight_ih_l0.macs() + layer.weight_hh_l0.macs()) / (2 * layer.weight_hh_l0.dense().numel())
    rows = []
    for way, own in ways.items():
        structured, ratios = stepper(layer, x, own), []
        for _ in range(2):
            dense(), structured()
        for i in range(pairs):
            first, second = (structured, dense) if i % 2 else (dense, structured)
            a, b = first(), second()
            ratios.append(a / b if i % 2 else b / a)
        low, middle, high = statistics.quantiles(ratios, n=4)
        case = {"layer": kind, "size": size, "steps": steps, "batch": batch, "weight": repr(spec)}
        figures = {"ratio": round(middle, 3), "ratio_quartiles": [round(low, 3), round(high, 3)]}
        rows.append({**case, "way": way, "macs_over_dense": round(macs, 3), **figures})
        print(
            f"{kind} {size}, {steps} x {batch}, {spec!s:22} {way:7} {middle:.2f}  quartiles {low:.2f} {high:.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "structured_weights.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for c in [*TOEPLITZ, *LOW_RANK, *GRUS] for row in race(*c, arguments.pairs, arguments.seed)]
    result = {
        "what": "training step with structured matrices over the step with dense ones, alternating in one process",
        "threads": arguments.threads,
        "seed": arguments.seed,
        "pairs": arguments.pairs,
        "machine": describe_machine(),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
