"""A step of a tied language model that is stored once, against the same model with a table beside the matrix.

python benchmarks/tied_weights.py [--rounds 100] [--out benchmarks/results/tied_weights.json]

Two LSTM layers, whose embedding is the output layer, too, packed, batch 1, one thread, called from Python:
`stream.step` with one token after the other, at random. In one file rows are looked up in the matrix of the product, in
the other in a table of the same numbers; both give the same bits, but for int4, whose table is in int8. A figure is the
median over rounds of the time of the first over that of the second, with its quartiles.
"""

import statistics

import numpy as np
import torch
from native_step import race
from published import options, publish
from torch import nn

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.engine import Stream
from compactrnn.runtime.file import write
from compactrnn.runtime.quantize import quantize
from compactrnn.runtime.storage import with_table

MODELS = ((10_000, 200), (10_000, 650), (1_000, 64), (100, 128))
TOKENS = 64


class Tied(nn.Module):
    """A tied language model."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(vocabulary, width), nn.LSTM(width, width, 2, batch_first=True)
        self.output = nn.Linear(width, vocabulary)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(self.rnn(self.embedding(tokens))[0])


def row_of(vocabulary: int, width: int, weights: str, rounds: int) -> dict:
    """The sizes and times of one model."""
    torch.manual_seed(0)
    program = lower(Tied(vocabulary, width), torch.zeros(1, 9, dtype=torch.long))
    once = quantize(program, weights, False)
    (tied,) = {op.tensor for op in once.ops if op.name in ("embedding", "output")}
    assert tied is not None
    both = {"embedding": "int8", "output": weights, "*": weights}
    twice = quantize(program, both, False) if weights == "int4" else with_table(once, tied)
    files = {"once": write(once), "twice": write(twice)}
    tokens = np.random.default_rng(0).integers(0, vocabulary, TOKENS).tolist()

    def caller(stream: Stream):
        return lambda: [stream.step(token) for token in tokens]

    streams = {name: cr.Engine(file).stream() for name, file in files.items()}
    assert weights == "int4" or np.array_equal(*(stream.run(np.array(tokens)) for stream in streams.values()))
    times = race({name: caller(stream) for name, stream in streams.items()}, rounds)
    low, middle, high = statistics.quantiles((a / b for a, b in zip(times["once"], times["twice"], strict=True)), n=4)
    row = {"vocabulary": vocabulary, "width": width, "weights": weights}
    row |= {f"{name}, bytes": len(file) for name, file in files.items()}
    row |= {f"{name}, microseconds": round(statistics.median(t) / TOKENS, 2) for name, t in times.items()}
    return row | {"once over twice": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def main() -> None:
    given = options(__doc__, "tied_weights", 100)
    rows = []
    for vocabulary, width in MODELS:
        for weights in ("float32", "int8", "int4"):
            rows.append(row_of(vocabulary, width, weights, given.rounds))
            print(rows[-1], flush=True)
    publish(given, "a step of a tied language model, stored once and with a table of its own", rows=rows)


if __name__ == "__main__":
    main()
