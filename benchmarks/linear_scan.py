"""What a linear scan costs with its gradient: ours, the native loop that runs any cell step by step, a plain loop in C,
a loop in Python, torch's own means.

python benchmarks/linear_scan.py [--seconds 4] [--out benchmarks/results/linear_scan.json]

All contenders compute the states of h_t = a_t * h_{t-1} + x_t and the gradients of a, x and the initial state, in turns
in one process, torch on one thread, the order turned from turn to turn. A figure is the median with its quartiles, and
the least. `processor` is the time that the process computed, of all threads together: on a machine that others use
they do not disturb it much. Ratios are of that, between neighbors in a turn, and say nothing of two threads. The plain
loop (linear_scan.c) is compiled here by `cc -O3 -march=native`. The floor is the time in which torch copies as many
bytes as must be moved at least, into memory that is there: five arrays are read and three written.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from published import write_result
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan

from compactrnn import linear_scan, time_loop
from compactrnn._machine import describe_machine
from compactrnn.cells.base import AbstractCell, StateSpec
from compactrnn.layers import linear_recurrence as implementation
from compactrnn.layers.loop import run_cell

HERE = Path(__file__).parent
SIZES = [(steps, columns) for steps in (256, 4096, 65536, 1 << 20) for columns in (4, 32, 128, 1024)]
LARGEST = 1 << 27  # numbers in an array; a dozen arrays live at a time


def compile_plain() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "plain.so"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(HERE / "linear_scan.c"), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


PLAIN = compile_plain()


def call(function: str, *arguments: Tensor | int) -> None:
    converted = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_ssize_t(a) for a in arguments]
    getattr(PLAIN, function)(*converted)


class PlainLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, x, initial):
        h = torch.empty_like(x)
        call("states", a, x, initial, h, len(x), initial.numel())
        ctx.save_for_backward(a, initial, h)
        return h

    @staticmethod
    def backward(ctx, dh):
        a, initial, h = ctx.saved_tensors
        da, dx, carry = torch.empty_like(a), torch.empty_like(dh), torch.zeros_like(initial)
        call("gradients", a, initial, h, dh, da, dx, carry, len(dh), initial.numel())
        return da, dx, carry


def python_loop(a: Tensor, x: Tensor, initial: Tensor) -> Tensor:
    h, states = initial, []
    for at, xt in zip(a.unbind(0), x.unbind(0), strict=True):
        h = at * h + xt
        states.append(h)
    return torch.stack(states)


def torch_associative(a: Tensor, x: Tensor, initial: Tensor) -> Tensor:
    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    product, local = associative_scan(combine, (a, x), dim=0, combine_mode="generic")
    return product * initial + local


class Recurrence(AbstractCell):
    """The recurrence as a cell that reads a and x side by side."""

    states = (StateSpec("h"),)

    def state_sizes(self):
        return (self.hidden_size,)

    @property
    def output_size(self):
        return self.hidden_size

    def project(self, x):
        return x

    def step(self, projected, states):
        a, x = projected.chunk(2, dim=-1)
        h = a * states[0] + x
        return h, (h,)


def native_loop(both: Tensor, initial: Tensor) -> Tensor:
    with time_loop("native"):
        return run_cell(CELLS[initial.shape[-1]], both, (initial,))[0]


CELLS = {columns: Recurrence(2 * columns, columns) for columns in (4, 32, 128, 1024)}


def with_threads(threads: int) -> Callable[..., Tensor]:
    def run(*arguments: Tensor) -> Tensor:
        implementation._threads = lambda h: threads
        return linear_scan(*arguments)

    return run


CORES = len(os.sched_getaffinity(0))
NATIVE = "native loop"
ALL = f"ours, {CORES} threads"
CONTENDERS = {
    "ours": with_threads(1),
    "C loop": PlainLoop.apply,
    ALL: with_threads(CORES),
    "torch, chunks": implementation._scan_in_torch,
    "torch, associative_scan": torch_associative,
    "Python loop": python_loop,
}
# up to how many numbers in an array, and how often
SLOW = {"torch, chunks": (1 << 21, 3), "torch, associative_scan": (1 << 18, 3), "Python loop": (1 << 21, 2)}


def race(steps: int, columns: int, seconds: float) -> dict:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(steps, 1, columns, generator=generator).mul_(0.1).add_(0.9).requires_grad_()
    x = torch.randn(steps, 1, columns, generator=generator).requires_grad_()
    initial = torch.randn(1, columns, generator=generator).requires_grad_()
    dh = torch.randn(steps, 1, columns, generator=generator)
    both = torch.cat([a, x], dim=-1).detach().requires_grad_()
    copied = torch.empty(4, steps, columns), torch.empty(4, steps, columns)

    def step(name: str) -> tuple[float, float]:
        start, used = time.perf_counter(), time.process_time()
        if name == "floor":
            copied[0].copy_(copied[1])
        elif name == NATIVE:
            torch.autograd.grad(native_loop(both, initial), (both, initial), dh)
        else:
            torch.autograd.grad(CONTENDERS[name](a, x, initial), (a, x, initial), dh)
        return time.perf_counter() - start, time.process_time() - used

    fast = ["floor", NATIVE, *(n for n in CONTENDERS if n not in SLOW)]
    slow = [n for n, (most, _) in SLOW.items() if steps * columns <= most and (steps <= 1 << 16 or n != "Python loop")]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in fast + slow}
    ratios: dict[str, list[float]] = {name: [] for name in fast + slow if name != "ours"}
    start, turn = time.perf_counter(), 0
    while turn < 6 or (time.perf_counter() - start < seconds and turn < 1000):
        order = fast[turn % len(fast) :] + fast[: turn % len(fast)]
        taken = {name: step(name) for name in order}
        for name in fast if turn else ():
            times[name].append(taken[name])
            if name in ratios:
                ratios[name].append(taken[name][1] / taken["ours"][1])
        turn += 1
    for name in slow:
        for _ in range(SLOW[name][1]):
            times[name].append(step(name))
            ratios[name].append(times[name][-1][1] / step("ours")[1])
    row = {"steps": steps, "columns": columns, "turns": turn - 1, "microseconds": {}, "processor": {}, "least": {}}
    for name, taken in times.items():
        wall, used = zip(*taken, strict=True)
        row["microseconds"][name] = [round(q * 1e6, 1) for q in quartiles(wall)]
        row["processor"][name] = [round(q * 1e6, 1) for q in quartiles(used)]
        row["least"][name] = round(min(wall) * 1e6, 1)
    return row | {"ratio_to_ours": {name: [round(q, 2) for q in quartiles(r)] for name, r in ratios.items()}}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, then the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "linear_scan.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, load = [], [os.getloadavg()[0]]
    for steps, columns in SIZES:
        if steps * columns > LARGEST:
            continue
        rows.append(race(steps, columns, arguments.seconds))
        medians = {name: q[0] for name, q in rows[-1]["microseconds"].items()}
        print(steps, columns, medians, {name: q[0] for name, q in rows[-1]["ratio_to_ours"].items()}, flush=True)
    load.append(os.getloadavg()[0])
    write_result(
        arguments.out,
        "states and gradients of a linear scan, in turns in one process: median and quartiles",
        columns_of_ratios_and_times=["median", "lower quartile", "upper quartile"],
        load_of_the_machine=load,
        machine=describe_machine(),
        rows=rows,
    )


if __name__ == "__main__":
    main()
