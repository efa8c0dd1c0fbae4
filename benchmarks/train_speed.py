"""How long a training step of our layers takes, against torch's, side by side in one process.

python benchmarks/train_speed.py [--pairs 200] [--threads 1] [--out benchmarks/results/train_speed.json]

A step is forward, backward and an SGD update of a layer with a linear head, which are the same for both; "alone" are
forward and backward of the layer, with one gradient of its outputs. Steps of the two models alternate, in turned order
every second time, and both are built anew, in turned order, in each of several rounds (where in memory a model lies
matters more than anything else here). The figure is the median of the ratios of neighboring steps, with its quartiles.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from published import write_result
from torch import nn

import compactrnn as cr
from compactrnn._machine import describe_machine

INPUT, SIZE = 64, 256
ROUNDS = 8


class Chain(nn.Module):
    """What one has to write in torch for layers of different sizes."""

    def __init__(self, kind: type[nn.RNNBase], input_size: int, sizes: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(kind(a, b) for a, b in zip([input_size, *sizes], sizes, strict=False))

    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(x)
        return x, None


class Case(NamedTuple):
    """Our layer and torch's, and what they read."""

    ours: Callable[[], nn.Module]
    torchs: Callable[[], nn.Module]
    steps: int = 35
    batch: int = 20
    input_size: int = INPUT


def alike(kind: str, size: int, **shape: int) -> Case:
    """A layer that both have."""
    width = shape.get("input_size", INPUT)
    return Case(lambda: getattr(cr, kind)(width, size), lambda: getattr(nn, kind)(width, size), **shape)


CASES = {
    "LSTM 2x256": Case(lambda: cr.LSTM(INPUT, SIZE, 2), lambda: nn.LSTM(INPUT, SIZE, 2)),
    "GRU 2x256": Case(lambda: cr.GRU(INPUT, SIZE, 2), lambda: nn.GRU(INPUT, SIZE, 2)),
    "RNN 2x256": Case(lambda: cr.RNN(INPUT, SIZE, 2), lambda: nn.RNN(INPUT, SIZE, 2)),
    "LSTM 1x16, one step (overhead)": alike("LSTM", 16, steps=1, batch=1, input_size=4),
    "GRU 1x64": alike("GRU", 64, steps=64, batch=32, input_size=32),
    "GRU 1x64, one sequence": alike("GRU", 64, steps=64, batch=1, input_size=32),
    "GRU 1x512": alike("GRU", 512, steps=64, batch=32),
    "RNN 1x64": alike("RNN", 64, steps=64, batch=32, input_size=32),
    "LSTM [256, 192] against a chain": Case(
        lambda: cr.LSTM(INPUT, [256, 192]), lambda: Chain(nn.LSTM, INPUT, [256, 192])
    ),
    "LSTM 2x256, low rank 32 against dense": Case(
        lambda: cr.LSTM(INPUT, SIZE, 2, input_weight=cr.LowRank(rank=32), hidden_weight=cr.LowRank(rank=32)),
        lambda: nn.LSTM(INPUT, SIZE, 2),
    ),
}


def stepper(case: Case, number: int, alone: bool) -> Callable[[], float]:
    """A function that does one training step, of ours (0) or torch's (1), and says how long it took."""
    layer = (case.torchs if number else case.ours)()
    shape = case.steps, case.batch, case.input_size
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    above = torch.ones_like(layer(x)[0])
    head = nn.Linear(above.shape[-1], 50)
    optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=0.01)

    def step_alone() -> float:
        optimizer.zero_grad()
        start = time.perf_counter()
        layer(x)[0].backward(above)
        return time.perf_counter() - start

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        head(layer(x)[0]).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - start

    return step_alone if alone else step


def race(name: str, pairs: int, seed: int, alone: bool) -> dict:
    """One case, by alternating steps."""
    times, ratios = ([], []), []
    for round_number in range(ROUNDS):
        built = {}
        for j in (0, 1) if round_number % 2 else (1, 0):
            torch.manual_seed(seed + round_number)
            built[j] = stepper(CASES[name], j, alone)
        for _ in range(3):
            built[0](), built[1]()
        for i in range(max(1, pairs // ROUNDS)):
            taken = {j: built[j]() for j in ((0, 1) if i % 2 else (1, 0))}
            ratios.append(taken[0] / taken[1])
            for j in (0, 1):
                times[j].append(taken[j] * 1e3)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(middle, 4),
        "ratio_quartiles": [round(low, 4), round(high, 4)],
        "milliseconds": {"ours": round(statistics.median(times[0]), 3), "torch": round(statistics.median(times[1]), 3)},
        "pairs": len(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train_speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in CASES:
        pairs = arguments.pairs * 10 if CASES[name].batch == 1 else arguments.pairs
        row: dict = {"case": name, "shape": dict(zip(("steps", "batch", "input_size"), CASES[name][2:], strict=True))}
        for kind, alone in (("whole", False), ("alone", True)):
            row[kind] = race(name, pairs, arguments.seed, alone)
            print(f"{name:40} {kind} ours / torch {row[kind]}", flush=True)
        rows.append(row)
    write_result(
        arguments.out,
        "training step, ours over torch, alternating in one process",
        threads=arguments.threads,
        seed=arguments.seed,
        machine=describe_machine(),
        rows=rows,
    )


if __name__ == "__main__":
    main()
