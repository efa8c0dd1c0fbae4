"""A GRU over the rows of one step, such as frequencies, as speech enhancers have it: the engine from C, beside torch.

    python benchmarks/inner_steps.py [--rounds 60] [--out benchmarks/results/inner_steps.json]

One call is one time step with 32 inner steps, as many inputs as units, and the products with the inputs; torch calls
`nn.GRU` in inference mode, one thread. Times are of the thread's clock, which stands still while others have the core,
in turns; medians and quartiles over the rounds.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from published import options, publish
from torch import nn

import compactrnn as cr
from compactrnn.emit.builder import STEP, Builder, Operand
from compactrnn.emit.recurrent_rows import gru_rows
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Input, Output, Program
from compactrnn.runtime.quantize import quantize

ROWS, UNITS, WEIGHTS = 32, (4, 8, 16, 32), ("float32", "int8")
CALLS = {"engine": 2000, "torch": 20}  # a round


def over_rows(gru: nn.GRU) -> Program:
    """A step that runs the layer over the rows of its input, from a state of zeros."""
    build = Builder()
    x = Operand(build.buffer(ROWS * gru.input_size, "input"), (ROWS, gru.input_size), None, STEP, 0)
    before = Operand(build.constant(np.zeros(gru.hidden_size)), (gru.hidden_size,), None, STEP, 0)
    y, _ = gru_rows(build, x, [before], *(p.detach().numpy() for p in gru.parameters()))
    program = build.finish()
    program.inputs.append(Input("x", x.ref.buffer, (ROWS, gru.input_size)))
    program.outputs.append(Output("y", y.ref, (ROWS, gru.hidden_size)))
    return program


def row_of(units: int, rounds: int) -> dict[str, Any]:
    """The figures of one size."""
    torch.manual_seed(0)
    gru, x = nn.GRU(units, units, batch_first=True).eval(), torch.randn(1, ROWS, units)
    program, given, results = over_rows(gru), [x.numpy()], [np.empty((1, ROWS, units), np.float32)]
    wanted, runs, errors = gru(x)[0][0].detach().numpy(), {}, {}
    for weights in WEIGHTS:
        stream = cr.Engine(write(quantize(program, weights))).stream()
        errors[weights] = float(np.abs(stream.step(given[0][0]) - wanted).max())

        def from_c(stream: Any = stream) -> None:
            stream._native.time(given, results, 1, CALLS["engine"])

        runs[weights] = (from_c, CALLS["engine"])

    def in_torch() -> None:
        for _ in range(CALLS["torch"]):
            gru(x)

    runs["torch"] = (in_torch, CALLS["torch"])
    with torch.inference_mode():
        times = {name: [] for name in runs}
        for name, (run, calls) in [*runs.items()] * (rounds + 1):
            times[name].append(_seconds(run) / calls * 1e6)
    found = {name: statistics.quantiles(taken[1:], n=4) for name, taken in times.items()}  # the first warms up
    return {
        "units": units,
        "microseconds": {name: [round(t, 3) for t in quartiles] for name, quartiles in found.items()},
        "torch over engine": {weights: round(found["torch"][1] / found[weights][1], 1) for weights in WEIGHTS},
        "largest difference from torch": errors,
    }


def _seconds(run: Callable[[], None]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began


def main() -> None:
    given = options(__doc__, "inner_steps", 60)
    torch.set_num_threads(1)
    rows = []
    for units in UNITS:
        rows.append(row_of(units, given.rounds))
        print(rows[-1], flush=True)
    publish(
        given, f"a GRU over {ROWS} rows of one step, from C; quartiles of microseconds", inner_steps=ROWS, rows=rows
    )


if __name__ == "__main__":
    main()
