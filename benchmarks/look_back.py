"""Cost of a causal convolution before a GRU, with delay lines and with a chain of states per tap.

python benchmarks/look_back.py [--rounds 200] [--out benchmarks/results/look_back.json]

The model is Conv1d(4 -> 8, k taps, causal) and GRU(8), batch 1, float32. `pack` keeps the inputs of all taps in one
delay line. The chains are the same program with the line written out as states: one chain for each tap, as long as its
delay (`apart`), or one chain that all taps read (`shared`). All three give the same numbers, which is checked, and they
alternate in one process on one core. A figure is the median over the rounds of the time of a step over that of the
chains apart.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.lower import lower
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Buffer, Code, Op, Program, Ref, Unary
from compactrnn.runtime.quantize import quantize

TAPS = (9, 25, 60)
STEPS = 512


class Front(nn.Module):
    """A causal convolution and a GRU."""

    def __init__(self, taps: int):
        super().__init__()
        self.taps, self.conv = taps, nn.Conv1d(4, 8, taps)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(nn.functional.pad(x.mT, (self.taps - 1, 0)))
        return self.gru(y.mT)[0]


def written_out(program: Program, shared: bool) -> Program:
    """`program` with every delay line as chains of states, and the line a scratch that they are copied to."""
    buffers, segments = list(program.buffers), []

    def buffer(width: int, kind: str = "scratch") -> Ref:
        init = np.zeros(width, np.float32) if kind == "state" else None
        buffers.append(Buffer(width, kind, init))
        return Ref(len(buffers) - 1)

    def copy(dst: Ref, a: Ref, n: int) -> Op:
        return Op(Code.UNARY, dst, n, a=a, fn=Unary.COPY)

    for segment in program.segments:
        ops: list[Op] = []
        for op in segment.ops:
            if op.code != Code.DELAY:
                ops.append(op)
                continue
            assert op.a is not None and not op.dst.offset
            buffers[op.dst.buffer] = Buffer(op.k)
            ops.append(copy(op.dst, op.a, op.n))
            value = op.a
            for delay in range(1, op.k // op.n):
                for _ in range(1 if shared else delay):
                    state, before = buffer(op.n, "state"), buffer(op.n)
                    ops += [copy(before, state, op.n), copy(state, value, op.n)]
                    value = before
                ops.append(copy(Ref(op.dst.buffer, delay * op.n), value, op.n))
                value = value if shared else op.a
        segments.append(replace(segment, ops=tuple(ops)))
    return Program(buffers, program.tensors, segments, program.inputs, program.outputs, program.metadata)


def measure(taps: int, rounds: int) -> dict:
    """Operations, difference from torch, and times of a step over those of the chains apart."""
    torch.manual_seed(taps)
    model, x = Front(taps).eval(), torch.randn(1, STEPS, 4)
    line = quantize(lower(model, x[:, :16]), "float32")
    programs = {"line": line, "shared": written_out(line, True), "apart": written_out(line, False)}
    engines = {name: cr.Engine(write(program)) for name, program in programs.items()}
    rows = list(x[0].numpy())
    with torch.no_grad():
        want = model(x)[0].numpy()
    wanted = engines["line"].run(x[0].numpy())
    assert all(np.array_equal(engine.run(x[0].numpy()), wanted) for engine in engines.values())
    streams = {name: engine.stream() for name, engine in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in streams}
    for number in range(rounds):
        for name in list(streams) if number % 2 else reversed(streams):
            step = streams[name].step
            step(rows[0])
            start = time.perf_counter()
            for row in rows:
                step(row)
            times[name].append((time.perf_counter() - start) / len(rows))
    ratios = {name: [t / a for t, a in zip(times[name], times["apart"], strict=True)] for name in times}
    return {
        "taps": taps,
        "isa": engines["line"].isa,
        "difference_from_torch": float(f"{np.abs(wanted - want).max() / np.abs(want).max():.2g}"),
        "operations": {name: sum(len(s.ops) for s in p.segments) for name, p in programs.items()},
        "bytes": {name: engine.bytes for name, engine in engines.items()},
        "time_over_apart": {
            name: [float(f"{q:.3g}") for q in statistics.quantiles(ratios[name], n=4)] for name in ("line", "shared")
        },
    }


def main() -> None:
    """Measure all numbers of taps and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/look_back.json"))
    options = parser.parse_args()
    rows = [measure(taps, options.rounds) for taps in TAPS]
    for row in rows:
        print(row["taps"], "taps:", {k: v for k, v in row.items() if k not in ("taps", "isa")})
    content = {"machine": describe_machine(), "rounds": options.rounds, "rows": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
