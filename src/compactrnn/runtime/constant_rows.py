"""Large constants in int8, as rows of tables that are looked up: gains and shifts with a number for each entry."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from .program import Binary, Buffer, Code, Op, Program, Ref, Segment
from .rounding import quantize_rows

_WIDE = 128  # numbers: of fewer an operation and a scale save little
_FUNCTIONS = (Binary.ADD, Binary.SUB, Binary.MUL)


def constants_in_rows(program: Program) -> Program:
    """The program with constants that are added, subtracted or multiplied with rounded to int8, a scale for each.

    Each is looked up where it is read first. The same program where there are none of 128 numbers or more.
    """
    readers: dict[int, list[tuple[int, Op]]] = defaultdict(list)
    for number, segment in enumerate(program.segments):
        for op in segment.ops:
            for ref in op.refs:
                readers[ref.buffer].append((number, op))
    outputs = {output.ref.buffer for output in program.outputs}
    chosen = [i for i, by in readers.items() if i not in outputs and _is_read_whole(program.buffers[i], i, by)]
    if not chosen:
        return program
    buffers, tensors = list(program.buffers), list(program.tensors)
    numbers = Ref(len(buffers))  # of rows
    by_width: dict[int, list[int]] = defaultdict(list)
    for i in chosen:
        by_width[buffers[i].width].append(i)
    rows = max(map(len, by_width.values()))
    buffers.append(Buffer(rows, "constant", np.arange(rows, dtype=np.float32)))
    look_ups: dict[int, Op] = {}
    for width, constants in by_width.items():
        table = np.array([np.asarray(buffers[i].init).ravel() for i in constants], np.float32)
        for row, i in enumerate(constants):
            place = Ref(numbers.buffer, row)
            look_ups[i] = Op(Code.EMBED, Ref(len(buffers)), width, a=place, tensor=len(tensors), name="constants")
            buffers.append(Buffer(width))
        tensors.append(quantize_rows(table))
    segments = [_with_look_ups(segment, look_ups) for segment in program.segments]
    return replace(program, buffers=buffers, tensors=tensors, segments=segments)


def _is_read_whole(buffer: Buffer, number: int, readers: list[tuple[int, Op]]) -> bool:
    """Whether it is a wide constant, read as it is, in one segment, by operations that may take rounded numbers."""
    if buffer.kind != "constant" or buffer.width < _WIDE or not np.isfinite(np.asarray(buffer.init)).all():
        return False
    fits = all(op.code == Code.BINARY and op.fn in _FUNCTIONS and op.b == Ref(number) for _, op in readers)
    return fits and all(op.k in (0, buffer.width) for _, op in readers) and len({at for at, _ in readers}) == 1


def _with_look_ups(segment: Segment, look_ups: dict[int, Op]) -> Segment:
    ops: list[Op] = []
    done: set[int] = set()
    for op in segment.ops:
        look_up = look_ups.get(op.b.buffer) if op.b is not None else None
        if look_up is not None and op.b is not None:
            ops += [look_up] if op.b.buffer not in done else []
            done.add(op.b.buffer)
            op = replace(op, b=look_up.dst)
        ops.append(op)
    return replace(segment, ops=tuple(ops))
