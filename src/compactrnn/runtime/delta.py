"""Products with what changes only now and then, by the columns of what has changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .dead_code import writes
from .operations import OPERATIONS, WIDTHS
from .program import Buffer, Code, Op, Program, Ref, Segment, Unary

# Numbers of a matrix: where a tenth to a half of what it reads changes, a smaller one is multiplied whole in less time
# (benchmarks/delta_products.py).
_SMALLEST = {"float32": 1 << 13, "int8": 1 << 17}


def skip_unchanged(program: Program, smallest: int | None = None) -> Program:
    """The same program in which each `AFFINE` that reads a reference is a `DELTA`.

    A reference is what a `SELECT` chooses between a new value and a state, and what then is this state: of a delta
    network, what was sent last. The matrix is float32, or int8 with a fixed scale of what it reads, whose products stay
    what they are, to the bit. It has `smallest` numbers or more, by default as many as make it worth while for its
    type. Each `DELTA` has a state of its own.
    """
    buffers = list(program.buffers)
    segments = [_changed(program, segment, buffers, smallest) for segment in program.segments]
    return replace(program, segments=segments, buffers=buffers)


def has_references(program: Program) -> bool:
    """Whether something in the program is a reference, see `skip_unchanged`."""
    return any(_references(program, segment) for segment in program.segments)


def _changed(program: Program, segment: Segment, buffers: list[Buffer], smallest: int | None) -> Segment:
    if segment.kind != "forward":
        return segment
    references = _references(program, segment)
    ops = []
    for op in segment.ops:
        if op.code == Code.AFFINE and op.a in references and _is_worth_it(program, op, smallest):
            memory = WIDTHS[OPERATIONS[Code.DELTA].operands["c"].width](op.n, op.k)
            buffers.append(Buffer(memory, "state", np.zeros(memory, np.float32)))
            op = replace(op, code=Code.DELTA, c=Ref(len(buffers) - 1))
        ops.append(op)
    return replace(segment, ops=tuple(ops))


def _references(program: Program, segment: Segment) -> set[Ref | None]:
    """The places that a `SELECT` alone writes, with a state that it reads and in which its result is then kept."""
    kept = {(op.a, op.dst) for op in segment.ops if op.code == Code.UNARY and op.fn == Unary.COPY}
    found: set[Ref | None] = set()
    for op in segment.ops:
        if op.code != Code.SELECT or sum(ref.buffer == op.dst.buffer for o in program.ops for ref, _ in writes(o)) > 1:
            continue
        states = [ref for ref in (op.a, op.b) if ref is not None and program.buffers[ref.buffer].kind == "state"]
        if any(op.dst == state or (op.dst, state) in kept for state in states):
            found.add(op.dst)
    return found


def _is_worth_it(program: Program, op: Op, smallest: int | None) -> bool:
    assert op.tensor is not None
    tensor, kind = program.tensors[op.tensor], program.tensors[op.tensor].values.dtype.name
    if tensor.form is not None or tensor.group_scale is not None or (kind == "int8" and not op.p0):
        return False
    return kind in _SMALLEST and tensor.values.size >= (_SMALLEST[kind] if smallest is None else smallest)
