"""Newton's method over all times at once against the loops over time, native and plain: forward and backward of a cell.

python benchmarks/newton.py [--turns 12] [--seed 0] [--out benchmarks/results/newton.json]

One sequence, batch 1, of normally distributed inputs; u of IndRNN is uniform in (0.9, 1), so that units remember tens
to thousands of steps. The loops take turns in one process. A figure is the median wall time in milliseconds with its
quartiles; "iterations" are those of Newton's method, and none says that it did not converge, so that a loop ran after
all. "Error" is the largest difference of outputs and gradients from the plain loop in float64, over the largest number
in each. The native loop is for float32; the plain loop is left out for more than 16,384 steps.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from published import write_result
from torch import Tensor

from compactrnn import time_loop
from compactrnn._machine import describe_machine
from compactrnn.cells import GRU, IndRNN
from compactrnn.cells.base import AbstractCell
from compactrnn.layers.loop import run_cell
from compactrnn.layers.loop.newton import NewtonLoop
from compactrnn.layers.loop.select import _find
from compactrnn.weights import Diagonal

INPUT = 8
LENGTHS = [1024, 4096, 16384, 65536]
WIDTHS = [16, 64, 256, 1024]
CELLS: dict[str, Callable[[int], AbstractCell]] = {
    "IndRNN, relu": lambda n: IndRNN(INPUT, n, recurrent_init=(0.9, 1.0)),
    "IndRNN, tanh": lambda n: IndRNN(INPUT, n, nonlinearity="tanh", recurrent_init=(0.9, 1.0)),
    "GRU, diagonal": lambda n: GRU(INPUT, n, hidden_weight=Diagonal()),
}
LONGEST_PLAIN, PLAIN_TURNS = 16384, 3
MOST = 1 << 24  # numbers in an array


def training_step(cell: AbstractCell, x: Tensor, above: Tensor, kind: str) -> list[Tensor]:
    """Outputs, and the gradients of inputs and parameters."""
    x = x.detach().requires_grad_()
    with time_loop(kind), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, _ = run_cell(cell, cell.project(x), cell.initial_states(1, x))
    return [output.detach(), *torch.autograd.grad(output, [x, *cell.parameters()], above)]


def error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest of the relative differences."""
    pairs = zip(found, wanted, strict=True)
    return max(float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


def iterations(cell: AbstractCell, x: Tensor) -> int | None:
    """How many Newton's method takes, or None."""
    found = _find(cell)
    newton, step = found.loops["newton"], found.step
    assert isinstance(newton, NewtonLoop) and step is not None
    with torch.no_grad():
        made = newton.solve(cell.project(x), cell.initial_states(1, x), *step.prepare(cell))
    return None if made is None else made[-1]


def race(name: str, steps: int, width: int, dtype: torch.dtype, turns: int, seed: int) -> dict:
    """One cell and shape, by turns."""
    torch.manual_seed(seed)
    cell = CELLS[name](width).to(dtype)
    x, above = torch.randn(steps, 1, INPUT).to(dtype), torch.randn(steps, 1, width).to(dtype)
    kinds = ["newton", *(["native"] if dtype == torch.float32 else [])]
    plain = ["plain"] if steps <= LONGEST_PLAIN else []
    errors = {}
    if plain:
        exact = CELLS[name](width).double()
        exact.load_state_dict(cell.state_dict())
        wanted = training_step(exact, x.double(), above.double(), "plain")
        errors = {kind: error(training_step(cell, x, above, kind), wanted) for kind in kinds}
    times: dict[str, list[float]] = {kind: [] for kind in kinds + plain}
    for turn in range(turns + 1):
        order = kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)] + (plain if turn <= PLAIN_TURNS else [])
        for kind in order:
            start = time.perf_counter()
            training_step(cell, x, above, kind)
            if turn:
                times[kind].append((time.perf_counter() - start) * 1e3)
    return {
        "cell": name,
        "type": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "steps": steps,
        "width": width,
        "iterations": iterations(cell, x),
        "milliseconds": {kind: quartiles(taken) for kind, taken in times.items()},
        "error": {kind: float(f"{value:.2g}") for kind, value in errors.items()},
    }


def quartiles(values: list[float]) -> list[float]:
    """Median, then the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return [round(v, 3) for v in (middle, low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "newton.json")
    arguments = parser.parse_args()
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.float64):
            for name in CELLS:
                for steps in arguments.steps:
                    for width in arguments.widths:
                        if steps * width > MOST:
                            continue
                        rows.append(race(name, steps, width, dtype, arguments.turns, arguments.seed))
                        print(*rows[-1].values(), flush=True)
    write_result(
        arguments.out,
        "forward and backward of one sequence by Newton's method and by loops over time, in turns",
        columns_of_times=["median", "lower quartile", "upper quartile"],
        seed=arguments.seed,
        machine=describe_machine(),
        rows=rows,
    )


if __name__ == "__main__":
    main()
