"""Time of a step of quantization-aware training over a plain one, in turn in one process.

python benchmarks/quantize_cost.py [--rounds 60] [--out FILE]

A step is forward, backward and an AdamW update of a language model of two layers, on one thread. Steps with and without
quantization alternate, in turned order every second time. The figure is the median of the ratios of neighboring steps.
"""

import statistics
import time
from collections.abc import Callable

import torch
from published import options, publish
from torch import nn

import compactrnn as cr

MODELS = {  # symbols, embedding, units, sequences, steps
    "the demo's dense model": (73, 64, 256, 16, 64),
    "Penn Treebank, small": (10000, 200, 200, 20, 35),
}


class Model(nn.Module):
    """Embedding, two recurrent layers, a linear layer."""

    def __init__(self, kind: type, symbols: int, embedding: int, units: int):
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.recurrent = kind(embedding, units, 2, batch_first=True)
        self.head = nn.Linear(units, symbols)

    def forward(self, tokens):
        return self.head(self.recurrent(self.embedding(tokens))[0])


def stepper(kind: type, sizes: tuple[int, ...], weights: str | None) -> Callable[[], float]:
    """A function that does one training step and returns how long it took."""
    *model_sizes, rows, steps = sizes
    torch.manual_seed(0)
    model, tokens = Model(kind, *model_sizes), torch.randint(0, sizes[0], (rows, steps))
    quantizer = None if weights is None else cr.Quantize(model, weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> float:
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if quantizer is not None:
            quantizer.step(optimizer)
        return time.perf_counter() - start

    return step


def row_of(name: str, kind: type, weights: str, rounds: int) -> dict:
    """One case, by alternating steps."""
    plain, quantized = (stepper(kind, MODELS[name], w) for w in (None, weights))
    plain(), quantized()
    ratios = []
    for i in range(rounds):
        first, second = (quantized, plain) if i % 2 else (plain, quantized)
        a, b = first(), second()
        ratios.append(a / b if i % 2 else b / a)
    low, middle, high = (round(q, 3) for q in statistics.quantiles(ratios, n=4))
    row = {"model": name, "layers": kind.__name__, "weights": weights, "ratio": middle, "quartiles": [low, high]}
    print(row, flush=True)
    return row


def main() -> None:
    given = options(__doc__, "quantize_cost", rounds=60)
    torch.set_num_threads(1)
    rows = [
        row_of(name, kind, weights, given.rounds)
        for name in MODELS
        for kind in (nn.LSTM, nn.GRU)
        for weights in ("int8", "int4")
    ]
    publish(given, "a step of quantization-aware training over a plain one", rows=rows)


if __name__ == "__main__":
    main()
