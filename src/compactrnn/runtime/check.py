"""Every number that a program reads has been written: what the native core need not know to be safe."""

from __future__ import annotations

import numpy as np

from .program import Code, Op, Program, Ref
from .tidy import output_width, reads, writes


def check_defined(program: Program) -> None:
    """Raise `ValueError` where an operation reads scratch or sequence numbers that nothing has written in this step.

    Otherwise a stream would carry state that its copies do not have.
    """
    kinds = [b.kind for b in program.buffers]
    defined = [np.full(b.width, b.kind in ("state", "constant", "input")) for b in program.buffers]
    number = 0
    for segment in program.segments:
        for op in segment.ops:
            for ref, width in reads(op):
                if not _values(program, op, defined[ref.buffer], ref, width).all():
                    raise ValueError(
                        f"program: operation {number}, {op.code.name}, reads {width} numbers at {tuple(ref)}, "
                        f"a {kinds[ref.buffer]} buffer, before all of them are written"
                    )
            for ref, width in writes(op):
                defined[ref.buffer][ref.offset : ref.offset + width] = True
            number += 1
    for output in program.outputs:
        ref, width = output.ref, output_width(output)
        if not defined[ref.buffer][ref.offset : ref.offset + width].all():
            raise ValueError(f"program: output {output.name!r} at {tuple(ref)} is never written")


def _values(program: Program, op: Op, defined: np.ndarray, ref: Ref, width: int) -> np.ndarray:
    values = defined[ref.offset : ref.offset + width]
    if op.code != Code.GATHER or op.tensor is None:
        return values
    index = program.tensors[op.tensor].values
    index = index[(index >= 0) & (index < len(values))]  # others are refused by the core, by name
    return values[index]
