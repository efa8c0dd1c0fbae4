"""Write small model files that use every operation, for corrupt.c: python make_models.py FOLDER."""

import sys
from pathlib import Path

import numpy as np

from compactrnn.runtime.file import write
from compactrnn.runtime.pack import quantize
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.testing.programs import random_program


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


def main(folder: Path) -> None:
    """Add random programs until all codes have occurred, streaming and offline, in float32 and int8."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "smallest.crnn").write_bytes(write(smallest()))
    missing = set(Code)
    seed = 0
    while missing:
        offline = seed % 2 == 1
        program = random_program(seed, 5, offline, largest=6)
        codes = {op.code for op in program.ops}
        if codes & missing:
            missing -= codes
            weights = "int8" if seed % 3 else "float32"
            (folder / f"random{seed}.crnn").write_bytes(write(quantize(program, weights)))
        seed += 1


main(Path(sys.argv[1]))
