"""Write small model files that use every operation, for corrupt.c: python make_models.py FOLDER."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from compactrnn.runtime.file import write
from compactrnn.runtime.hoist import hoist
from compactrnn.runtime.inventory import type_name
from compactrnn.runtime.operations import OPERATIONS
from compactrnn.runtime.program import (
    GATES,
    Attend,
    Buffer,
    Code,
    Input,
    Matmul,
    Op,
    Output,
    Program,
    Ref,
    Segment,
    Tensor,
    Unary,
)
from compactrnn.runtime.quantize import quantize
from compactrnn.runtime.rounding import quantize_groups
from compactrnn.runtime.runs import index_form
from compactrnn.runtime.toeplitz import ToeplitzBlocks
from compactrnn.testing.programs import random_program

KINDS = ("float32", "int8", "int4", "toeplitz float32", "sparse float32", "sparse int8")  # of matrices


def smallest() -> Program:
    """A token, an int8 matrix, a state: in some 1,000 bytes."""
    matrix = Tensor(np.array([[1, -2, 3], [4, 5, -6]], np.int8), np.array([0.5, 0.25], np.float32))
    table = Tensor(np.array([[1, 2, 3], [3, 2, 1]], np.int8), np.array([0.5, 0.25], np.float32))
    ops = (
        Op(Code.EMBED, Ref(1), 3, a=Ref(0), tensor=1),
        Op(Code.AFFINE, Ref(2), 2, 3, a=Ref(1), b=Ref(2), tensor=0),
        Op(Code.UNARY, Ref(2), 2, a=Ref(2), fn=Unary.TANH),
    )
    start = np.array([0.25, -0.25], np.float32)
    buffers = [Buffer(1, "input"), Buffer(3), Buffer(2, "state", start)]
    segments = [Segment("forward", ops)]
    return Program(buffers, [matrix, table], segments, [Input("x", 0, (), 2)], [Output("y", Ref(2), (2,))])


def wide() -> Program:
    """Int4 with a second group of columns, a second panel and a second block."""
    tensor = quantize_groups(np.random.default_rng(0).uniform(-1, 1, (17, 70)), block=1)
    op = Op(Code.AFFINE, Ref(1), 17, 70, a=Ref(0), tensor=0)
    buffers = [Buffer(70, "input"), Buffer(17)]
    return Program(buffers, [tensor], [Segment("forward", (op,))], [Input("x", 0, (70,))], [Output("y", Ref(1), (17,))])


def shorter() -> Program:
    """A row less than there are steps, of 2 to 40 steps."""
    op = Op(Code.FLIP, Ref(1), 3, a=Ref(0))
    outputs = [Output("y", Ref(1), (3,), fewer=1)]
    program = Program([Buffer(3, "input"), Buffer(3)], [], [Segment("forward", (op,))], [Input("x", 0, (3,))], outputs)
    return replace(program, least_steps=2, most_steps=40)


def polynomials(code: Code) -> Program:
    """An LSTM or GRU whose product the core makes by polynomials, where it is compiled for tests with small files."""
    gates, units, k = GATES[code], 66, 128
    values = np.random.default_rng(0).normal(size=(2, gates, 1, k)).astype(np.float32)
    tensor = Tensor(values, block=gates, form=ToeplitzBlocks(gates * units, gates, interleaved=True))
    rows = tensor.shape[0]
    buffers = [Buffer(k, "input"), Buffer(rows, "constant", np.zeros(rows)), Buffer(units, "state"), Buffer(units)]
    state = {"b": Ref(2)} if code == Code.LSTM else {"d": Ref(2)}
    op = Op(code, Ref(3), units, k, a=Ref(1), c=Ref(0), tensor=0, **state)
    inputs, outputs = [Input("x", 0, (k,))], [Output("y", Ref(3), (units,))]
    return Program(buffers, [tensor], [Segment("forward", (op,))], inputs, outputs)


def uses(program: Program) -> set:
    """Operations, each with the type of its tensor, and whether segments follow each other in a stream."""
    found: set = {"chunks of segments"} if len(program.segments) > 1 and not program.offline else set()
    for op in program.ops:
        kind = "none"
        if op.tensor is not None:
            tensor = program.tensors[op.tensor]
            kind = type_name(tensor)
            if op.code == Code.EMBED and op.tensor in program.in_panels:
                kind = f"{kind} matrix"
            if op.code == Code.GATHER:
                kind = index_form(tensor.values)[0]
        found.add((op.code.name, kind))
        if op.code == Code.MATMUL:
            found.add((Matmul(op.fn).name, kind))
        if op.code == Code.ATTEND:
            found.add((Attend(op.fn).name, kind))
    return found


def half_tables(program: Program) -> Program:
    """Tables as float16."""
    tables = {op.tensor for op in program.ops if op.code == Code.EMBED} - program.in_panels
    tensors = [Tensor(t.values.astype(np.float16)) if i in tables else t for i, t in enumerate(program.tensors)]
    return replace(program, tensors=tensors)


def main(folder: Path) -> None:
    """Add random programs until all operations have occurred with all types, streaming and offline."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "smallest.crnn").write_bytes(write(smallest()))
    (folder / "wide.crnn").write_bytes(write(wide()))
    (folder / "shorter.crnn").write_bytes(write(shorter()))
    for code in (Code.LSTM, Code.GRU):
        (folder / f"polynomials-{code.name.lower()}.crnn").write_bytes(write(polynomials(code)))
    rows = {code for code, operation in OPERATIONS.items() if operation.rows}
    products = {(code.name, kind) for code in set(GATES) - rows - {Code.DELTA} for kind in KINDS}
    products |= {(Code.AFFINE.name, f"unstructured {kind}") for kind in ("float32", "int8")}
    products |= {(Code.DELTA.name, kind) for kind in ("float32", "int8")}
    products |= {(code.name, kind) for code in rows for kind in ("float32", "int8")}
    products |= {(side.name, kind) for side in Matmul for kind in ("float32", "int8")}
    tables = {(Code.EMBED.name, kind) for kind in ("float32", "float16", "int8")}
    tables |= {(Code.EMBED.name, f"{kind} matrix") for kind in ("float32", "int8", "int4")}
    rest = {(code.name, "none") for code in set(Code) - set(GATES) - {Code.EMBED, Code.GATHER, Code.DEPTHWISE}}
    rest |= {(Code.DEPTHWISE.name, "float32")} | {(fn.name, "none") for fn in Attend}
    indices = {(Code.GATHER.name, kind) for kind in ("single", "runs", "repeats")}
    missing = products | tables | rest | indices | {"chunks of segments"}
    for seed in range(1000):
        program = quantize(random_program(seed, 5, seed % 4 == 1, largest=5), ("float32", "int8", "int4")[seed % 3])
        program = hoist(half_tables(program) if seed % 3 == 0 and seed % 2 else program, smallest=20)
        if (new := uses(program) & missing) and len(write(program)) < 6000:
            missing -= new
            (folder / f"random{seed}.crnn").write_bytes(write(program))
        if not missing:
            return
    raise SystemExit(f"no model has {missing}")


main(Path(sys.argv[1]))
