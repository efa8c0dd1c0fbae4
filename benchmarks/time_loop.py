"""Training time of cells without a torch operator: the native loop against every alternative in torch.

python benchmarks/time_loop.py [--batch 64] [--turns 5] [--cells NAME...] [--only NAME...]

A step is forward and backward (all parameters and the input) of one layer: 784 steps, a batch of 64 or of one, input
and hidden size 128, one thread. Steps alternate with those of an `nn.LSTM` with the same input whose hidden size makes
its multiply-accumulates of a time step equal (4 h (h + 128) = those of the cell, to the nearest h); the figure is the
median of the ratios of neighbors, with its quartiles. What the first call takes longer than the median of the others,
compiling, stands apart. A contender that fails, or is not done in two minutes, is a row with its error. Rows that are
not asked for are kept as the file has them, each with the machine's load at its time.

`CONTENDERS` is the table: a function from a cell to one that maps input and first states to all outputs. Those of torch
are written for cells of one state.
"""

import argparse
import itertools
import json
import math
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from published import write_result
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan as torch_scan
from torch._higher_order_ops.while_loop import while_loop as torch_while_loop

from compactrnn._machine import describe_machine
from compactrnn.cells import GILR, MGU, DuRNN, IndRNN, MinGRU
from compactrnn.layers import scan, time_loop
from compactrnn.layers.sequence import Steps

STEPS, SIZE = 784, 128
BATCHES = (64, 1)
LIMIT = 120
Run = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


CELLS = {cell.__name__: cell for cell in (MGU, IndRNN, DuRNN, GILR, MinGRU)}


def our_loop(kind: str) -> Callable[..., Run]:
    def make(cell) -> Run:
        def run(x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
            with time_loop(kind):
                return scan(cell, Steps(x, None, x.shape[1]), states)[0]

        return run

    return make


def one_state(make: Callable[..., Callable[[Tensor, Tensor], Tensor]]) -> Callable[..., Run]:
    def of(cell) -> Run:
        if len(cell.states) > 1:
            raise NotImplementedError("written for cells of one state")
        run = make(cell)
        return lambda x, states: run(x, states[0])

    return of


def compiled_chunks(length: int) -> Callable[..., Run]:
    def make(cell) -> Callable[[Tensor, Tensor], Tensor]:
        @torch.compile(fullgraph=True, dynamic=False)
        def chunk(projected: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            outputs = []
            for one in projected.unbind(0):
                y, (h,) = cell.step(one, (h,))
                outputs.append(y)
            return torch.stack(outputs), h

        def run(x: Tensor, h: Tensor) -> Tensor:
            outputs = []
            for piece in cell.project(x).split(length):
                y, h = chunk(piece, h)
                outputs.append(y)
            return torch.cat(outputs)

        return run

    return make


def scan_operator(cell) -> Callable[[Tensor, Tensor], Tensor]:
    def combine(h: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        y, (h,) = cell.step(projected, (h,))
        return h, y.clone()

    return lambda x, h: torch_scan(combine, h, cell.project(x))[1]


def while_operator(cell) -> Callable[[Tensor, Tensor], Tensor]:
    """The last output alone: a loop that keeps all would have to copy them in every turn."""

    def run(x: Tensor, h: Tensor) -> Tensor:
        projected = cell.project(x)

        def more(t: Tensor, h: Tensor) -> Tensor:
            return t < STEPS

        def body(t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            one = projected.index_select(0, t.view(1)).squeeze(0)
            return t + 1, cell.step(one, (h,))[0]

        return torch_while_loop(more, body, (torch.zeros((), dtype=torch.int64), h))[1]

    return run


def associative_scan(cell) -> Run:
    raise NotImplementedError("needs a step that is associative in its states, as linear ones are")


def compiled(make: Callable[..., Run]) -> Callable[..., Run]:
    return lambda cell: torch.compile(make(cell), dynamic=False)


@torch.jit.script
def mgu_loop(projected: Tensor, h: Tensor, forget_weight: Tensor, candidate_weight: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    for one in projected.unbind(0):
        forget_x, candidate_x = one.chunk(2, dim=-1)
        forget = torch.sigmoid(forget_x + torch.nn.functional.linear(h, forget_weight))
        candidate = torch.tanh(candidate_x + torch.nn.functional.linear(forget * h, candidate_weight))
        h = torch.lerp(h, candidate, forget)
        outputs.append(h)
    return torch.stack(outputs)


@torch.jit.script
def indrnn_loop(projected: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    for one in projected.unbind(0):
        h = torch.relu(one + weight * h)
        outputs.append(h)
    return torch.stack(outputs)


def scripted(cell) -> Callable[[Tensor, Tensor], Tensor]:
    """Written for each cell: a script cannot take a module's `step` as it is."""
    if isinstance(cell, MGU):
        return lambda x, h: mgu_loop(cell.project(x), h, cell.forget.dense(), cell.candidate.dense())
    if not isinstance(cell, IndRNN):
        raise NotImplementedError("written for MGU and IndRNN")
    return lambda x, h: indrnn_loop(cell.project(x), h, cell.recurrent)


CONTENDERS: dict[str, Callable[..., Run]] = {
    "native loop": our_loop("native"),
    "Python loop": our_loop("plain"),
    "torch.jit.script": one_state(scripted),
    "torch.compile, 8 steps": one_state(compiled_chunks(8)),
    "torch.compile, 16 steps": one_state(compiled_chunks(16)),
    "torch.compile, 28 steps": one_state(compiled_chunks(28)),
    "scan operator": one_state(scan_operator),
    "scan operator, compiled": one_state(compiled(scan_operator)),
    "while_loop operator": one_state(while_operator),
    "while_loop operator, compiled": one_state(compiled(while_operator)),
    "associative_scan operator": associative_scan,
}


def too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"not done in {LIMIT} seconds")


def race(cell_name: str, name: str, batch: int, turns: int) -> dict:
    torch.manual_seed(0)
    torch.compiler.reset()
    cell = CELLS[cell_name](SIZE, SIZE)
    hidden = round((math.sqrt(SIZE**2 + cell.macs()) - SIZE) / 2)
    lstm = nn.LSTM(SIZE, hidden)
    x = torch.randn(STEPS, batch, SIZE).requires_grad_()
    row = {"cell": cell_name, "loop": name, "batch": batch, "macs": cell.macs(), "lstm_hidden_size": hidden}
    row["load_of_the_machine"] = round(os.getloadavg()[0], 1)
    row["lstm_macs"] = 4 * hidden * (hidden + SIZE)

    def timed(forward: Callable[[], Tensor]) -> float:
        start = time.perf_counter()
        forward().square().mean().backward()
        return time.perf_counter() - start

    def step_lstm() -> float:
        return timed(lambda: lstm(x)[0])

    signal.alarm(LIMIT)
    try:
        run, h = CONTENDERS[name](cell), cell.initial_states(batch)
        wanted = CONTENDERS["Python loop"](cell)(x, h)
        got = run(x, h)
        last = wanted[-1] if got.dim() == 2 else wanted
        torch.testing.assert_close(got, last, rtol=1e-4, atol=1e-4)
        del wanted, got, last
        torch.compiler.reset()
        first = timed(lambda: run(x, h))
        step_lstm()
        pairs = [(timed(lambda: run(x, h)), step_lstm()) for _ in range(turns)]
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
    finally:
        signal.alarm(0)
    low, middle, high = statistics.quantiles([ours / lstms for ours, lstms in pairs], n=4)
    typical = statistics.median(ours for ours, _ in pairs)
    row |= {"ratio_to_lstm": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}
    row |= {"milliseconds": round(typical * 1e3, 1), "first_call_longer_by_seconds": round(first - typical, 1)}
    return row | {"lstm_milliseconds": round(statistics.median(lstms for _, lstms in pairs) * 1e3, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, choices=BATCHES, default=BATCHES[0])
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "time_loop.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, too_long)
    old = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    rows = {(row["cell"], row["loop"], row["batch"]): row for row in old}
    for cell_name in arguments.cells:
        for name in arguments.only:
            row = race(cell_name, name, arguments.batch, arguments.turns)
            rows[cell_name, name, arguments.batch] = row
            print(row, flush=True)
            write_result(
                arguments.out,
                "forward and backward of a layer, over nn.LSTM of equal MACs, alternating in one process",
                shape={"steps": STEPS, "input_size": SIZE, "hidden_size": SIZE},
                threads=1,
                machine=describe_machine(),
                rows=[rows[key] for key in itertools.product(CELLS, CONTENDERS, BATCHES) if key in rows],
            )


if __name__ == "__main__":
    main()
