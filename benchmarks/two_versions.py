"""Does a change cost speed? The standard set on two installed versions of compactrnn, alternating in one run.

python benchmarks/two_versions.py BEFORE_PYTHON [--rounds 5] [--starts 4] [--out benchmarks/results/two_versions.json]

`BEFORE_PYTHON` is the interpreter of an environment in which the other version is installed, for example of a git
worktree of an earlier commit. Each version packs the same models (same seeds, same random weights) in its own file
format and keeps its streams open in a process of its own; all processes share one core, and only one runs at a time.
In a round, each version in alternating order has a turn of about 30 ms on each model. Where the memory of a process
happens to lie moves its times by some percent, so both are started several times. A figure is the median over all
rounds of this version's time a call over the other's (1: the same speed), with its quartiles.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

MODELS = {
    "lstm:1500-1500-1500": ("LSTM", 0, (1500, 1500, 1500)),
    "lstm:1500-373-315": ("LSTM", 0, (1500, 373, 315)),
    "lstm:10000@1500-373-315": ("LSTM", 10_000, (1500, 373, 315)),
    "lstm:40-128": ("LSTM", 0, (40, 128)),
    "gru:40-128": ("GRU", 0, (40, 128)),
    "lstm:40-256-256-256": ("LSTM", 0, (40, 256, 256, 256)),
    "gru:400-400-400": ("GRU", 0, (400, 400, 400)),
    "lstm:69@64-126-127": ("LSTM", 69, (64, 126, 127)),
}
WEIGHTS = ("int8", "int4", "float32")
STEPS = (1, 32)
TURN = 0.03  # seconds


def worker() -> None:
    """Answer each line `model weights steps` on standard input with the seconds a call of one turn."""
    import tempfile

    import numpy as np
    import torch
    from torch import nn

    import compactrnn as cr

    class Stack(nn.Module):
        def __init__(self, kind: str, vocabulary: int, sizes: tuple[int, ...]):
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, sizes[0]) if vocabulary else nn.Identity()
            layers = itertools.pairwise(sizes)
            self.layers = nn.ModuleList(getattr(nn, kind)(n, m, batch_first=True) for n, m in layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embedding(x)
            for layer in self.layers:
                x = layer(x)[0]
            return x

    folder, engines, ready = tempfile.mkdtemp(), {}, {}

    def prepare(name: str, weights: str, steps: int) -> tuple:
        kind, vocabulary, sizes = MODELS[name]
        if (name, weights) not in engines:
            torch.manual_seed(0)
            model = Stack(kind, vocabulary, sizes).eval()
            torch.manual_seed(1)
            x = torch.randint(vocabulary, (1, 64)) if vocabulary else torch.randn(1, 64, sizes[0])
            path = Path(folder) / "model.crnn"
            cr.pack(model, path, x[:, :16], weights=weights, calibration=[x])
            engines[name, weights] = cr.Engine(path), x[0].numpy()
        engine, x = engines[name, weights]
        stream = engine.stream()
        given = [int(v) if vocabulary else np.ascontiguousarray(v) for v in x] if steps == 1 else [x[:32], x[32:]]
        call = stream.step if steps == 1 else stream.run
        for v in given:
            call(v)
        start = time.perf_counter()
        for v in given:
            call(v)
        once = (time.perf_counter() - start) / len(given)
        return call, given, max(1, int(TURN / once / len(given)))

    for line in sys.stdin:
        name, weights, steps = line.split()
        key = name, weights, int(steps)
        if key not in ready:
            ready[key] = prepare(*key)
        call, given, repeats = ready[key]
        call(given[0])
        start = time.perf_counter()
        for _ in range(repeats):
            for v in given:
                call(v)
        seconds = (time.perf_counter() - start) / (repeats * len(given))
        print(json.dumps({"seconds": seconds, "isa": engines[name, weights][0].isa}), flush=True)


def _start(python: str) -> subprocess.Popen:
    """A worker of the version that `python` has."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [python, __file__, "--worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _turn(process: subprocess.Popen, case: tuple[str, str, int]) -> dict:
    """What a worker answers to a case."""
    assert process.stdin and process.stdout
    print(*case, file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def main() -> None:
    """Race the two versions and write down the ratios."""
    import numpy as np

    from compactrnn._machine import describe_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="Python interpreter with the other version installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--models", default=",".join(MODELS), help="some of the standard set, with commas")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/two_versions.json"))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cases = [(name, weights, steps) for name in options.models.split(",") for weights in WEIGHTS for steps in STEPS]
    isas: dict[tuple, str] = {}
    ratios: dict[tuple, list[float]] = {case: [] for case in cases}
    for start in range(options.starts):
        sides = {"before": _start(options.before), "now": _start(sys.executable)}
        for case in cases:
            isas[case] = [_turn(process, case)["isa"] for process in sides.values()][-1]  # packs and warms up
            for number in range(options.rounds):
                order = list(sides) if (start + number) % 2 else list(reversed(sides))
                seconds = {side: _turn(sides[side], case)["seconds"] for side in order}
                ratios[case].append(seconds["now"] / seconds["before"])
        for process in sides.values():
            assert process.stdin
            process.stdin.close()
            process.wait()
        print(f"start {start + 1} of {options.starts}", file=sys.stderr)
    rows = []
    for case in cases:
        lower, median, upper = (round(float(q), 3) for q in np.quantile(ratios[case], [0.25, 0.5, 0.75]))
        found = {"median": median, "lower_quartile": lower, "upper_quartile": upper}
        name, weights, steps = case
        rows.append({"model": name, "weights": weights, "steps": steps, "isa": isas[case], "now_over_before": found})
        print(f"{name:26} {weights:8} {steps:3} steps a call: {median:.3f} ({lower:.3f} to {upper:.3f})")
    medians = [row["now_over_before"]["median"] for row in rows]
    root = Path(options.before).absolute().parent.parent.parent
    before = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    summary = {"median": round(float(np.median(medians)), 3), "least": min(medians), "most": max(medians)}
    print(f"median of all: {summary['median']}, from {summary['least']} to {summary['most']}")
    content = {
        "machine": describe_machine(),
        "commit_before": before.stdout.strip() or None,
        "rounds": options.rounds,
        "starts": options.starts,
        "now_over_before": summary,
        "rows": rows,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["--worker"] else main()
