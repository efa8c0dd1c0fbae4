"""Overhead of the pruners per training step, interleaved in one process.

python benchmarks/pruning_cost.py [--pairs 60] [--threads 1] [--out benchmarks/results/pruning_cost.json]

A step is forward, backward, clipping and an AdamW update of the demo's dense character model (embedding 64, two LSTM
layers of 256, 73 characters; 16 streams of 64 steps). Steps with and without the pruner alternate, in turned order
every second time. The figure is the median of the ratios of neighboring steps, with its quartiles.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import compactrnn as cr
from compactrnn._machine import describe_machine

SYMBOLS, EMBEDDING, HIDDEN, BATCH, STEPS = 73, 64, 256, 16, 64
STEPS_OF_SCHEDULE = 10_000
CASES: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "GroupLasso, a strength": lambda m, x: cr.GroupLasso(m, x, strength=1e-5),
    "GroupLasso, a size": lambda m, x: cr.GroupLasso(m, x, keep=0.5, steps=STEPS_OF_SCHEDULE),
    "NeuronSelection, a size": lambda m, x: cr.NeuronSelection(m, x, keep=0.5, steps=STEPS_OF_SCHEDULE),
    "Magnitude, 10 % of the weights": lambda m, x: cr.Magnitude(m, cr.Sparse(keep=0.1), steps=STEPS_OF_SCHEDULE),
    "Magnitude, half of the blocks": lambda m, x: cr.Magnitude(m, cr.BlockSparse(keep=0.5), steps=STEPS_OF_SCHEDULE),
}


class Model(nn.Module):
    """The demo's dense model."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, 2, batch_first=True)
        self.head = nn.Linear(HIDDEN, SYMBOLS)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


def stepper(make: Callable[[nn.Module, torch.Tensor], Any] | None, seed: int) -> Callable[[], float]:
    """A function that does one training step and says how long it took."""
    torch.manual_seed(seed)
    model = Model()
    tokens = torch.randint(0, SYMBOLS, (BATCH, STEPS))
    pruner = None if make is None else make(model, tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> float:
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        if pruner is not None:
            loss = loss + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)
        return time.perf_counter() - start

    return step


def race(name: str, pairs: int, seed: int) -> dict:
    """One case, by alternating steps."""
    plain, pruned = stepper(None, seed), stepper(CASES[name], seed)
    for _ in range(3):
        plain(), pruned()
    ratios = []
    for i in range(pairs):
        first, second = (pruned, plain) if i % 2 else (plain, pruned)
        a, b = first(), second()
        ratios.append(a / b if i % 2 else b / a)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"case": name, "ratio": round(middle, 4), "ratio_quartiles": [round(low, 4), round(high, 4)], "pairs": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pruning_cost.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [race(name, arguments.pairs, arguments.seed) for name in CASES]
    for row in rows:
        print(f"{row['case']:32} with / without {row['ratio']:.3f}  quartiles {row['ratio_quartiles']}")
    result = {
        "what": "training step with a pruner over the same step without it, alternating in one process",
        "model": {"embedding": EMBEDDING, "hidden": [HIDDEN, HIDDEN], "batch": BATCH, "steps": STEPS},
        "threads": arguments.threads,
        "seed": arguments.seed,
        "machine": describe_machine(),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
