"""A step of an LSTM with Toeplitz-like matrices against one with plain float32 matrices.

python benchmarks/toeplitz_products.py [--rounds 100] [--out benchmarks/results/toeplitz_products.json]

A layer of n units on n inputs, both matrices of displacement rank r, batch 1, one thread, called from Python:
`stream.step(x)`. A round times a burst of calls of each, in turned order every second round, by the clock of the
thread. A figure is the median over rounds of the time with Toeplitz-like matrices over that with plain ones, with its
quartiles. Files and the time to open them are given too.
"""

import statistics
import time

import numpy as np
from native_step import race
from published import options, publish

import compactrnn as cr
from compactrnn.runtime.file import write
from compactrnn.runtime.gates import padded
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.toeplitz import ToeplitzBlocks

SIZES = (
    (128, 2),
    (256, 2),
    (256, 4),
    (512, 1),
    (512, 4),
    (512, 16),
    (512, 17),
    (1024, 4),
    (1024, 8),
    (1024, 32),
    (1500, 4),
    (2048, 4),
)


def layer(n: int, rank: int, plain: bool) -> Program:
    """An LSTM of n units on n inputs; `plain` stores the same matrices entry by entry."""
    rng, rows = np.random.default_rng(0), 4 * padded(n)
    form, tensors = ToeplitzBlocks(4 * n, 4, interleaved=True), []
    for _ in range(2):
        vectors = (rng.normal(size=(2, 4, rank, n)) * rank**-0.25 * n**-0.5).astype(np.float32)
        tensor = Tensor(vectors, form=form)
        tensors.append(Tensor(tensor.dense().astype(np.float32)) if plain else tensor)
    buffers = [Buffer(n, "input"), Buffer(rows), Buffer(n, "state"), Buffer(n, "state"), Buffer(n)]
    ops = (
        Op(Code.AFFINE, Ref(1), rows, n, a=Ref(0), tensor=0),
        Op(Code.LSTM, Ref(4), n, n, a=Ref(1), b=Ref(3), c=Ref(2), tensor=1),
        Op(Code.UNARY, Ref(2), n, a=Ref(4), fn=Unary.COPY),
    )
    return Program(buffers, tensors, [Segment("forward", ops)], [Input("x", 0, (n,))], [Output("y", Ref(4), (n,))])


def row_of(n: int, rank: int, rounds: int) -> dict:
    """The figures of one size."""
    x = np.random.default_rng(1).normal(size=n).astype(np.float32)
    row: dict = {"n": n, "rank": rank, "by polynomials": ToeplitzBlocks(4 * n, 4).is_spectral(rank, n)}
    streams = {}
    for name, plain in (("toeplitz", False), ("plain", True)):
        data = write(layer(n, rank, plain))
        start = time.thread_time()
        engine = cr.Engine(data)
        row[f"{name}, milliseconds to open"] = round(1e3 * (time.thread_time() - start), 2)
        row[f"{name}, bytes"] = len(data)
        row[f"{name}, MACs"] = engine.macs_per_step
        streams[name] = engine.stream()
    times = race({name: (lambda s=s: s.step(x)) for name, s in streams.items()}, rounds)
    low, middle, high = statistics.quantiles(
        (a / b for a, b in zip(times["toeplitz"], times["plain"], strict=True)), n=4
    )
    row["ratio"], row["quartiles"] = round(middle, 3), [round(low, 3), round(high, 3)]
    row["toeplitz, microseconds a step"] = round(statistics.median(times["toeplitz"]), 2)
    return row


def main() -> None:
    given = options(__doc__, "toeplitz_products", 100)
    rows = []
    for n, rank in SIZES:
        rows.append(row_of(n, rank, given.rounds))
        print(rows[-1], flush=True)
    publish(
        given,
        "an LSTM with Toeplitz-like matrices over one with plain ones, from Python, in turns in one process",
        rows=rows,
    )


if __name__ == "__main__":
    main()
