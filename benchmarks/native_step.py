"""One time step on the engine, against the same cell's step in torch, side by side in one process.

python benchmarks/native_step.py [--rounds 400] [--out benchmarks/results/native_step.json]

For every cell of compactrnn.cells, one layer of 128 units on 40 inputs, batch 1, one thread, called from Python: torch
runs `cell(x, states)` in inference mode, and nn.LSTM, nn.GRU and nn.RNN beside it; the engine runs `stream.step(x)` on
the packed layer, in float32 and int8. A round times a burst of calls of each, in turned order every second round, by
the clock of the thread, which stands still while others have the core. A figure is the median over rounds of torch's
time over the engine's, with its quartiles.
"""

import statistics
import time
from collections.abc import Callable

import torch
from published import options, publish
from torch import nn

import compactrnn as cr
from compactrnn import cells
from compactrnn.lower import lower
from compactrnn.models.recurrent_layers import known_cells
from compactrnn.runtime.file import write
from compactrnn.runtime.quantize import quantize

INPUT, SIZE = 40, 128
BURST = 0.001  # seconds
LAYERS = {cells.LSTM: nn.LSTM, cells.GRU: nn.GRU, cells.Elman: nn.RNN}


def every_cell() -> list[type[cells.AbstractCell]]:
    """The cell classes, by name; not those around another cell."""
    return [found for _, found in sorted(known_cells().items())]


def in_torch(cell: cells.AbstractCell, x: torch.Tensor) -> Callable[[], None]:
    """A function that does a step of the cell in torch and keeps the states."""
    states = cell.initial_states(1)

    def step() -> None:
        nonlocal states
        _, states = cell(x, states)

    return step


def in_torch_layer(layer: nn.RNNBase, x: torch.Tensor) -> Callable[[], None]:
    """The same of torch's own layer."""
    states, steps = None, x[None]

    def step() -> None:
        nonlocal states
        _, states = layer(steps, states)

    return step


def on_engine(layer: cr.Recurrent, x: torch.Tensor, weights: str) -> Callable[[], None]:
    """A step of the packed layer."""
    program = quantize(lower(layer, x[None].repeat(3, 1, 1)), weights)
    stream, row = cr.Engine(write(program)).stream(), x[0].numpy()
    return lambda: stream.step(row)


def race(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Microseconds a call, in each round."""
    calls, times = {}, {name: [] for name in contenders}
    for name, step in contenders.items():
        for _ in range(30):
            step()
        start = time.thread_time()
        for _ in range(30):
            step()
        calls[name] = max(10, round(30 * BURST / (time.thread_time() - start)))
    for number in range(rounds):
        for name in list(contenders) if number % 2 else reversed(contenders):
            step = contenders[name]
            start = time.thread_time()
            for _ in range(calls[name]):
                step()
            times[name].append((time.thread_time() - start) / calls[name] * 1e6)
    return times


def row_of(cell_class: type[cells.AbstractCell], rounds: int) -> dict:
    """One cell's figures."""
    torch.manual_seed(0)
    layer = cr.Recurrent(cell_class, INPUT, SIZE).eval()
    x = torch.randn(1, INPUT)
    contenders = {"torch cell": in_torch(layer.rows()[0][0], x)}
    if cell_class in LAYERS:
        contenders["torch layer"] = in_torch_layer(LAYERS[cell_class](INPUT, SIZE).eval(), x)
    contenders |= {weights: on_engine(layer, x, weights) for weights in ("float32", "int8")}
    with torch.inference_mode():
        times = race(contenders, rounds)
    row: dict = {"cell": cell_class.__name__, "microseconds": {}, "ratio": {}}
    for name, taken in times.items():
        row["microseconds"][name] = round(statistics.median(taken), 3)
    for peer in ("torch cell", "torch layer"):
        for weights in ("float32", "int8"):
            if peer in times:
                ratios = [a / b for a, b in zip(times[peer], times[weights], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                figures = {"median": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}
                row["ratio"][f"{peer} / {weights}"] = figures
    return row


def main() -> None:
    given = options(__doc__, "native_step", 400)
    torch.set_num_threads(1)
    rows = []
    for cell_class in every_cell():
        rows.append(row_of(cell_class, given.rounds))
        ratios = "  ".join(f"{name} {figures['median']:.1f}" for name, figures in rows[-1]["ratio"].items())
        print(f"{rows[-1]['cell']:8} {ratios}  {rows[-1]['microseconds']}")
    publish(
        given,
        "one time step, torch over the engine, from Python, in turns in one process, one thread, batch 1",
        shape={"input_size": INPUT, "hidden_size": SIZE, "layers": 1},
        rows=rows,
    )


if __name__ == "__main__":
    main()
