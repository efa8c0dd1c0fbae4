"""A step of an LSTM with Kronecker products, or of low rank, against one with dense matrices, all int8.

python benchmarks/kronecker_products.py [--rounds 200] [--out benchmarks/results/kronecker_products.json]

One or three layers of n units on n inputs, batch 1, one thread, the step called from C. Of low rank are matrices with a
quarter of the parameters of the dense ones; Kronecker products have the block sizes that `Kronecker()` chooses, and are
timed as sums of two, too. A round times a burst of steps of each, in turned order every second round. A figure is the
median over rounds of the dense time over the other, with its quartiles; beside it, of each, the median time, that of a
plain read of its weights (`floor`), the bytes of the file and the multiply-accumulate operations of a step.
"""

import json
import statistics

import numpy as np
import torch
from published import options, publish

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.report.bench.roofline import read_rate, weight_bytes
from compactrnn.runtime.file import write
from compactrnn.runtime.quantize import quantize
from compactrnn.weights import WeightSpec

SIZES = (256, 512)
LAYERS = (1, 3)
BURST = 0.001  # seconds


class Model(torch.nn.Module):
    """Layers of n units on n inputs, both matrices of each stored as `spec` says."""

    def __init__(self, n: int, layers: int, spec: WeightSpec):
        super().__init__()
        self.lstm = cr.LSTM(n, n, layers, batch_first=True, input_weight=spec, hidden_weight=spec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def specs(n: int) -> dict[str, WeightSpec]:
    """By name; a matrix is (4 n, n)."""
    rank = n * 4 * n // 4 // (4 * n + n)
    return {
        "dense": cr.Dense(),
        f"low rank, {rank}": cr.LowRank(rank=rank),
        "Kronecker": cr.Kronecker(),
        "Kronecker, rank 2": cr.Kronecker(rank=2),
    }


class Contender:
    """A packed model, stepped from C."""

    def __init__(self, n: int, layers: int, spec: WeightSpec):
        torch.manual_seed(0)
        self.data = write(quantize(lower(Model(n, layers, spec).eval(), torch.randn(1, 3, n)), "int8"))
        self.engine = cr.Engine(self.data)
        self.stream = self.engine.stream()
        self.given = [np.random.default_rng(0).uniform(-1, 1, (1, n)).astype(np.float32)]
        self.results = [np.empty((1, n), np.float32)]
        self.step(30)
        self.calls = max(10, round(BURST / self.step(30)))
        self.times: list[float] = []

    def step(self, calls: int) -> float:
        """Seconds of one step."""
        return self.stream._native.time(self.given, self.results, 1, calls) / calls

    def figures(self) -> dict:
        """What does not depend on the others."""
        read = weight_bytes(self.data)
        rate = read_rate(self.engine.isa, read)
        return {
            "microseconds": round(1e6 * statistics.median(self.times), 3),
            "floor": None if rate is None else round(1e6 * read / rate, 3),
            "weight bytes": read,
            "file bytes": len(self.data),
            "MACs": self.engine.macs_per_step,
        }


def row_of(n: int, layers: int, rounds: int) -> dict:
    """The figures of one size."""
    contenders = {name: Contender(n, layers, spec) for name, spec in specs(n).items()}
    for number in range(rounds):
        for one in list(contenders.values())[:: 1 if number % 2 else -1]:
            one.times.append(one.step(one.calls))
    row: dict = {"n": n, "layers": layers, "isa": contenders["dense"].engine.isa, "models": {}, "ratio": {}}
    for name, one in contenders.items():
        row["models"][name] = one.figures()
        ratios = (a / b for a, b in zip(contenders["dense"].times, one.times, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        row["ratio"][name] = {"median": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}
    return row


def main() -> None:
    given = options(__doc__, "kronecker_products", 200)
    torch.set_num_threads(1)
    rows = []
    for n in SIZES:
        for layers in LAYERS:
            rows.append(row_of(n, layers, given.rounds))
            print(json.dumps(rows[-1]), flush=True)
    publish(
        given,
        "a step of an int8 LSTM, dense over low rank and Kronecker products, from C, in turns in one process",
        rows=rows,
    )


if __name__ == "__main__":
    main()
