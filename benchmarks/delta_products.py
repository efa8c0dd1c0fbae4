"""A step of a delta LSTM, by the share of numbers that change, against the same LSTM with dense products.

python benchmarks/delta_products.py [--rounds 100] [--out benchmarks/results/delta_products.json]

An LSTM step of n units on n inputs, packed, batch 1, one thread, called from Python: `stream.step`. Both vectors that
its matrices read, x and h, come from the caller, so that it is known how many of their numbers change at each step: the
given share, at random places, by 0.1 to 0.3 (one step in 64 begins again with other numbers). The delta step includes
the comparison with what was sent last. Dense is the engine's fused LSTM kernel and its product with x. A round times 64
steps of each, in turned order every second round, by the clock of the thread. A figure is the median over rounds of the
dense step's time over that of the delta step, with its quartiles.
"""

import statistics
from collections.abc import Callable

import numpy as np
from native_step import race
from published import options, publish

import compactrnn as cr
from compactrnn.emit.builder import STEP, Builder, Operand
from compactrnn.emit.delta import held
from compactrnn.emit.recurrent import lstm_step
from compactrnn.runtime.engine import Stream
from compactrnn.runtime.file import write
from compactrnn.runtime.hoist import hoist
from compactrnn.runtime.program import Code, Input, Output, Program, Unary
from compactrnn.runtime.quantize import quantize

SIZES = (256, 512)
SHARES = (0.1, 0.25, 0.5, 1.0)
STEPS = 64


def step(n: int, delta: bool) -> Program:
    """An LSTM step of n units on n inputs of at most 1, x, that reads h from the caller, too."""
    rng, b = np.random.default_rng(0), Builder()
    w, u, bias = (rng.uniform(-1, 1, shape) / np.sqrt(n) for shape in ((4 * n, n), (4 * n, n), 4 * n))

    def operand(kind: str, bounded: bool = True) -> Operand:
        return Operand(b.buffer(n, kind), (n,), None, STEP, 0, bounded)

    x, h = given = [operand("input") for _ in range(2)]
    cell = operand("state", bounded=False)
    if delta:
        references = [operand("state") for _ in given]
        x, h = kept = [held(b, new, old, 0.0) for new, old in zip(given, references, strict=True)]
        for new, old in zip(kept, references, strict=True):
            b.emit(Code.UNARY, old.ref, n, a=new.ref, fn=int(Unary.COPY))
    y, _ = lstm_step(b, x, [h, cell], [w], [u], bias, fused=not delta)
    program = b.finish()
    program.inputs += [Input(name, place.ref.buffer, (n,)) for name, place in zip("xh", given, strict=True)]
    program.outputs.append(Output("y", y.ref, (n,)))
    return program


def signal(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """64 rows of n numbers, of which so many change from each row to the next."""
    rows = [rng.uniform(-0.6, 0.6, n)]
    for _ in range(STEPS - 1):
        changed = rng.random(n).argsort() < round(share * n)
        away = rng.uniform(0.1, 0.3, n) * np.where(rows[-1] > 0, -1, 1)
        rows.append(np.where(changed, rows[-1] + away, rows[-1]))
    return np.array(rows, np.float32)


def caller(stream: Stream, x: np.ndarray, h: np.ndarray) -> Callable[[], None]:
    pairs = list(zip(x, h, strict=True))

    def call() -> None:
        for pair in pairs:
            stream.step(pair)

    return call


def row_of(n: int, weights: str, share: float, rounds: int) -> dict:
    """The figures of one size, type and share."""
    rng = np.random.default_rng(1)
    x, h = signal(rng, n, share), signal(rng, n, share)
    streams = {}
    for name, delta in (("dense", False), ("delta", True)):
        streams[name] = cr.Engine(write(hoist(quantize(step(n, delta), weights)))).stream()
    times = race({name: caller(stream, x, h) for name, stream in streams.items()}, rounds)
    low, middle, high = statistics.quantiles((a / b for a, b in zip(times["dense"], times["delta"], strict=True)), n=4)
    row = {"units": n, "weights": weights, "share": share, "dense over delta": round(middle, 2)}
    row["quartiles"] = [round(low, 2), round(high, 2)]
    return row | {f"{name}, microseconds": round(statistics.median(t) / STEPS, 2) for name, t in times.items()}


def main() -> None:
    given = options(__doc__, "delta_products", 100)
    rows = []
    for weights in ("float32", "int8"):
        for n in SIZES:
            for share in SHARES:
                rows.append(row_of(n, weights, share, given.rounds))
                print(rows[-1], flush=True)
    publish(given, "a step of an LSTM, the time with dense products over that with products of what changed", rows=rows)


if __name__ == "__main__":
    main()
