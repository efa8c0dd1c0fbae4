"""A step of int8 LSTMs with block-sparse matrices against the same LSTMs with dense ones, and a product with single
entries against others, from C.

python benchmarks/sparse_products.py [--rounds 200] [--out benchmarks/results/sparse_products.json]

Layers of n units on n inputs, both matrices of each in int8, batch 1, one thread. Three quarters or nine tenths of the
blocks of 16 rows x 4 columns are zero, as many in each 16 rows. A round times a burst of steps of every model (steps.c,
compiled here with the core by `cc -O2`), in turned order every second round, by the clock of the thread. A ratio is the
median over rounds of the dense model's time over the sparse one's, with its quartiles. Every step of a model goes
through all its layers: where they do not fit a cache together, each finds its weights evicted by the others. "floor" is
the time of a plain read of the bytes of all weights, again and again, as `compactrnn bench` measures it.

The product is of a matrix of 4n rows and n columns of which a part of the entries, anywhere, is not zero, stored
plainly, by lines of 16 rows, or entry by entry.
"""

import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from published import options, publish

from compactrnn.report.bench.roofline import read_rate
from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from compactrnn.runtime.entries import ENTRIES
from compactrnn.runtime.file import write
from compactrnn.runtime.gates import padded
from compactrnn.runtime.inventory import inventory
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.rounding import quantize_rows
from compactrnn.runtime.sparse import SPARSE

ROOT = Path(__file__).parents[1]
CASES = ((256, 1), (256, 8), (512, 1), (512, 3))  # units, layers
KEPT = (1.0, 0.25, 0.1)  # of the blocks
SCATTERED = tuple((n, keep) for n in (256, 512) for keep in (0.01, 0.03, 0.1))  # units, part of the entries
FORMS = {"plain": None, "lines": SPARSE, "entries": ENTRIES}


def matrix(rng: np.random.Generator, rows: int, columns: int, keep: float) -> Tensor:
    """Random, in int8, with as many blocks of 16 x 4 in each 16 rows."""
    panels, lines = rows // 16, columns // 4
    kept = rng.random((panels, lines)).argsort(axis=1) < round(keep * lines)
    values = rng.normal(size=(rows, columns)) * columns**-0.5 * np.repeat(np.repeat(kept, 16, axis=0), 4, axis=1)
    return replace(quantize_rows(values), form=SPARSE if keep < 1 else None)


def model(n: int, layers: int, keep: float) -> Program:
    """The layers on top of each other."""
    rng, rows = np.random.default_rng(0), 4 * padded(n)
    buffers, tensors, ops, x = [Buffer(n, "input")], [], [], Ref(0)
    for _ in range(layers):
        first = len(buffers)
        buffers += [Buffer(rows), Buffer(n, "state"), Buffer(n, "state"), Buffer(n)]
        gates, h, c, y = (Ref(first + i) for i in range(4))
        scale = 0.0 if x == Ref(0) else 1 / 127
        ops += [
            Op(Code.AFFINE, gates, rows, n, a=x, tensor=len(tensors), p0=scale),
            Op(Code.LSTM, y, n, n, a=gates, b=c, c=h, tensor=len(tensors) + 1, p0=1 / 127),
            Op(Code.UNARY, h, n, a=y, fn=Unary.COPY),
        ]
        tensors += [matrix(rng, rows, n, keep) for _ in range(2)]
        x = y
    return Program(buffers, tensors, [Segment("forward", tuple(ops))], [Input("x", 0, (n,))], [Output("y", x, (n,))])


def product(tensor: Tensor) -> Program:
    """One product with a matrix."""
    n, k = tensor.shape
    segments = [Segment("forward", (Op(Code.AFFINE, Ref(1), n, k, a=Ref(0), tensor=0),))]
    return Program(
        [Buffer(k, "input"), Buffer(n)], [tensor], segments, [Input("x", 0, (k,))], [Output("y", Ref(1), (n,))]
    )


def compile_steps(folder: Path) -> Path:
    """The program of steps.c."""
    core = sorted((ROOT / "native").glob("cr_*.c"))
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    command = ["cc", *flags, f"-I{ROOT / 'native'}", str(ROOT / "benchmarks" / "steps.c"), *map(str, core)]
    subprocess.run([*command, "-lm", "-o", str(folder / "steps")], check=True)
    return folder / "steps"


def race(steps: Path, models: Sequence[Program], rounds: int) -> np.ndarray:
    """Microseconds a step of each model, (models, rounds)."""
    files = [steps.parent / f"{number}.crnn" for number in range(len(models))]
    for file, made in zip(files, models, strict=True):
        file.write_bytes(write(made))
    command = [str(steps), str(rounds), *map(str, files)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return np.array([[float(number) for number in line.split()] for line in found.splitlines()]).T


def floor(size: int) -> float:
    """Microseconds of a plain read of so many bytes, the median of nine."""
    return 1e6 * size / statistics.median(read_rate(_native.isas()[0], size) or 0.0 for _ in range(9))


def sparsity_rows(steps: Path, n: int, layers: int, rounds: int) -> list[dict]:
    """The figures of one size: dense, and each sparsity over it."""
    models, rows = [model(n, layers, keep) for keep in KEPT], []
    times = race(steps, models, rounds)
    for keep, made, each in zip(KEPT, models, times, strict=True):
        size = sum(row["bytes"] for row in inventory(made))
        low, middle, high = np.quantile(times[0] / each, (0.25, 0.5, 0.75)).tolist()
        row = {"units": n, "layers": layers, "kept": keep, "bytes of weights": size, "MACs": made.macs_per_step()}
        row |= {"microseconds": round(float(np.median(each)), 2), "floor": round(floor(size), 2)}
        rows.append({**row, "dense over this": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]})
    return rows


def scattered_row(steps: Path, n: int, keep: float, rounds: int) -> dict:
    """Microseconds and bytes of one product, by form and type."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4 * n, n)) * (rng.random((4 * n, n)) < keep)
    stored = {"float32": Tensor(values.astype(np.float32)), "int8": quantize_rows(values)}
    tensors = {f"{name} {kind}": replace(t, form=form) for name, form in FORMS.items() for kind, t in stored.items()}
    models = [product(tensor) for tensor in tensors.values()]
    times = np.median(race(steps, models, rounds), axis=1)
    row: dict = {"rows": 4 * n, "columns": n, "kept": keep}
    for name, made, microseconds in zip(tensors, models, times, strict=True):
        row[name] = {"microseconds": round(float(microseconds), 2), "bytes": inventory(made)[0]["bytes"]}
    return row


def main() -> None:
    given = options(__doc__, "sparse_products", 200)
    blocks, scattered = [], []
    with tempfile.TemporaryDirectory() as folder:
        steps = compile_steps(Path(folder))
        for case in CASES:
            blocks += sparsity_rows(steps, *case, given.rounds)
            print(*blocks[-len(KEPT) :], sep="\n", flush=True)
        for case in SCATTERED:
            scattered.append(scattered_row(steps, *case, given.rounds))
            print(scattered[-1], flush=True)
    publish(
        given,
        "a step of int8 LSTMs, the time with dense matrices over that with block-sparse ones; products; from C",
        blocks=blocks,
        scattered=scattered,
    )


if __name__ == "__main__":
    main()
