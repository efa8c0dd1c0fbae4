"""Fold an embedding and the matrices that read it into one table of products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .dead_code import output_width, overlap, reads, writes
from .program import GATES, Code, Op, Program, Tensor
from .storage import join_names

_FILE_GROWTH = 0.25  # how much larger a file may get for a smaller hot set
_BYTES = {"float32": 4, "int4": 0.5}  # of an entry; else 1


def fold_tokens(
    program: Program, type_of: Callable[[Op], str], always: bool, apart: Callable[[Op], bool] = lambda op: False
) -> Program:
    """The program in which embeddings stand for the products with them; tables are float64.

    `type_of` says how an operation's tensor will be stored. What is `apart` stays an operation of its own.
    """
    while True:
        for position, op in enumerate(program.ops):
            readers = _foldable_readers(program, position) if op.code == Code.EMBED else []
            if any(map(apart, [op, *readers])):
                continue
            if readers and (always or _pays(program, op, readers, type_of)):
                program = _fold(program, op, readers)
                break
        else:
            return program


def _foldable_readers(program: Program, position: int) -> list[Op]:
    """The `AFFINE`s that alone read what this `EMBED` writes, if they can become tables; else nothing."""
    op = program.ops[position]
    kinds = [b.kind for b in program.buffers]
    segment = next(s for s in program.segments if any(o is op for o in s.ops))
    if (
        op.a is None
        or kinds[op.a.buffer] not in ("input", "constant")
        or kinds[op.dst.buffer] not in ("scratch", "sequence")
    ):
        return []
    if any(overlap(op.dst, op.n, o.ref, output_width(o)) for o in program.outputs):
        return []
    written = [o for o in program.ops if any(overlap(op.dst, op.n, *place) for place in writes(o))]
    readers = [o for o in program.ops if any(overlap(op.dst, op.n, ref, width) for ref, width in reads(o))]
    if len(written) != 1:
        return []
    for reader in readers:
        same_place = reader.code == Code.AFFINE and reader.a == op.dst and reader.k == op.n
        bias_known = reader.b is None or kinds[reader.b.buffer] == "constant"
        after = any(o is reader for o in segment.ops[[o is op for o in segment.ops].index(True) :])
        float_weights = reader.tensor is not None and program.tensors[reader.tensor].is_float
        if not (same_place and bias_known and after and float_weights):
            return []
    return readers


def _pays(program: Program, op: Op, readers: list[Op], type_of: Callable[[Op], str]) -> bool:
    def entry(op: Op) -> float:
        return _BYTES.get(type_of(op), 1)

    rows = len(program.tensors[_index(op)].values)
    others = [o for o in program.ops if not any(o is r for r in readers) and o is not op]
    kept = {o.tensor for o in others}
    before = sum(entry(r) * program.tensors[_index(r)].numbers for r in readers if r.tensor not in kept)
    before += entry(op) * rows * op.n if op.tensor not in kept else 0
    folded = [_folded(op, reader, len(program.tensors)) for reader in readers]
    after = sum(entry(o) * rows * o.n for o in folded)
    if after <= before:
        return True
    stored: dict[int, float] = {}
    read: dict[int, float] = {}
    for other in program.ops:
        if other.tensor is not None:
            size = entry(other) * program.tensors[other.tensor].numbers
            stored[other.tensor] = max(size, stored.get(other.tensor, 0))
            if other.code in GATES:
                read[other.tensor] = size
    growth = (after - before) / sum(stored.values())
    saved = {_index(r) for r in readers} - kept
    shrinkage = sum(read[i] for i in saved) / sum(read.values())
    return all(entry(o) == 1 for o in folded) and growth <= min(_FILE_GROWTH, shrinkage)


def _fold(program: Program, op: Op, readers: list[Op]) -> Program:
    table = program.tensors[_index(op)].values.astype(np.float64)
    tensors = list(program.tensors)
    folded: dict[int, Op] = {}
    for reader in readers:
        product = table @ tensors[_index(reader)].values.astype(np.float64).T
        if reader.b is not None:
            bias = program.buffers[reader.b.buffer].init
            assert bias is not None
            product = product + np.ravel(bias)[reader.b.offset : reader.b.offset + reader.n]
        folded[id(reader)] = _folded(op, reader, len(tensors))
        tensors.append(Tensor(product))
    segments = [replace(s, ops=tuple(folded.get(id(o), o) for o in s.ops if o is not op)) for s in program.segments]
    return replace(program, tensors=tensors, segments=segments)


def _folded(op: Op, reader: Op, tensor: int) -> Op:
    return Op(Code.EMBED, reader.dst, reader.n, a=op.a, tensor=tensor, name=join_names(op.name, reader.name))


def _index(op: Op) -> int:
    assert op.tensor is not None
    return op.tensor
