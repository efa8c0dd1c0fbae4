"""LSTM_CELL and GRU_CELL after a separate product, against the fused kernels.

python benchmarks/cell_operations.py [--rounds 200] [--out benchmarks/results/cell_operations.json]

A layer of n units on n inputs, as the fused LSTM or GRU and as AFFINE and LSTM_CELL or GRU_CELL, both packed, batch 1,
one thread, called from Python: `stream.step(x)`, and `stream.run(x)` of 64 steps. A round times a burst of calls of
each, in turned order every second round, by the clock of the thread. A figure is the median over rounds of the time of
the separate operations over that of the fused one, with its quartiles.
"""

import statistics

import numpy as np
from native_step import race
from published import options, publish

import compactrnn as cr
from compactrnn.emit.builder import STEP, Builder, Operand
from compactrnn.runtime.file import write
from compactrnn.runtime.gates import gate_rows
from compactrnn.runtime.hoist import hoist
from compactrnn.runtime.program import Code, Input, Output, Program, Unary
from compactrnn.runtime.quantize import quantize

SIZES = (16, 64, 128, 512)
STEPS = 64
GATES = {"lstm": 4, "gru": 3}


def layer(kind: str, n: int, fused: bool) -> Program:
    """A layer of n units on n inputs."""
    rng, b, rows = np.random.default_rng(0), Builder(), GATES[kind] * n
    scale = 1 / np.sqrt(n)
    w, u, bias, own = (rng.uniform(-scale, scale, shape) for shape in ((rows, n), (rows, n), rows, rows))

    def operand(ref, width: int, bounded: bool = False) -> Operand:
        return Operand(ref, (width,), None, STEP, 0, bounded)

    x, h = operand(b.buffer(n, "input"), n), operand(b.buffer(n, "state"), n, bounded=True)
    cell = b.buffer(n, "state") if kind == "lstm" else None
    if fused:
        bias = gate_rows(bias, GATES[kind])
        from_x = b.affine(gate_rows(w, GATES[kind]), x, b.constant(bias))
        fields = {"b": cell} if cell else {"b": b.constant(own[2 * n :]), "d": h.ref}
        y = operand(b.gates(Code.LSTM if cell else Code.GRU, n, from_x, [u], h, **fields), n)
    elif cell:
        y = b.lstm_cell(operand(b.affine(u, h, b.affine(w, x, b.constant(bias))), rows), cell)
    else:
        from_x, from_h = (operand(b.affine(m, v, b.constant(c)), rows) for m, v, c in ((w, x, bias), (u, h, own)))
        y = b.gru_cell(from_x, from_h, h)
    b.emit(Code.UNARY, h.ref, n, a=y.ref, fn=int(Unary.COPY))
    program = b.finish()
    program.inputs.append(Input("x", x.ref.buffer, (n,)))
    program.outputs.append(Output("y", y.ref, (n,)))
    return program


def row_of(kind: str, n: int, weights: str, rounds: int) -> dict:
    """The figures of one size and type."""
    x = np.random.default_rng(1).uniform(-1, 1, (STEPS, n)).astype(np.float32)
    row: dict = {"kind": kind, "n": n, "weights": weights}
    streams = {}
    for name, fused in (("fused", True), ("separate", False)):
        streams[name] = cr.Engine(write(hoist(quantize(layer(kind, n, fused), weights)))).stream()
    for steps in (1, STEPS):
        calls = {
            name: (lambda s=s: s.step(x[0])) if steps == 1 else (lambda s=s: s.run(x)) for name, s in streams.items()
        }
        times = race(calls, rounds)
        ratios = [a / b for a, b in zip(times["separate"], times["fused"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        fused = statistics.median(times["fused"])
        row[f"{steps} steps"] = {
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "fused, microseconds a step": round(fused / steps, 3),
        }
    return row


def main() -> None:
    given = options(__doc__, "cell_operations", 200)
    rows = []
    for kind in GATES:
        for weights in ("float32", "int8"):
            for n in SIZES:
                rows.append(row_of(kind, n, weights, given.rounds))
                print(rows[-1], flush=True)
    publish(
        given,
        "AFFINE and a cell operation over the fused kernel, from Python, in turns in one process, batch 1",
        rows=rows,
    )


if __name__ == "__main__":
    main()
