"""From a float32 program to the one that is stored: token inputs folded into tables, weights quantised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .._errors import invalid
from .choose import CACHES, choose
from .hoist import hoist
from .program import Code, Op, Program, Tensor
from .rounding import quantize_groups, quantize_rows
from .tidy import output_width, overlap, reads, tidy, writes

WEIGHTS = ("float32", "int8", "int4", "auto")
_FILE_GROWTH = 1.25  # how much larger a file may get for a smaller hot set


def quantize(
    program: Program,
    weights: str = "int8",
    fold: str | bool = "auto",
    *,
    calibration: Sequence = (),
    caches: Sequence[int] = CACHES,
) -> Program:
    """The program with its matrices and tables stored as `weights`, its products in segments of their own (`hoist`).

    "int8" has a scale per row; "int4" has one per row and 64 columns too, and keeps tables in int8; "auto" takes one of
    the two for each matrix, see `choose`, by the sizes of the `caches` in bytes and, if there are any, by its error on
    the sequences of `calibration`, inputs as `Engine.run` takes them.

    `fold` replaces an embedding and the matrices that alone read it by tables of their products, bias included,
    computed in float64: always, never, or ("auto") where the file gets smaller, or, with whole numbers, where a step
    touches fewer bytes and the file grows by less than a quarter.
    """
    if weights not in WEIGHTS:
        raise invalid("weights", got=repr(weights), wanted=f"one of {', '.join(map(repr, WEIGHTS))}")
    if fold not in ("auto", True, False):
        raise invalid("fold", got=repr(fold), wanted="'auto', True or False")
    program = tidy(program)
    if fold:
        program = tidy(fold_tokens(program, weights, always=fold is True))
    small = choose(store(program), calibration, caches) if weights == "auto" else set()
    return hoist(store(program, weights, small))


def store(program: Program, weights: str = "float32", small: set[int] | None = None) -> Program:
    """The program with its matrices and tables as `weights`; of "auto", the tensors of `small` in int4, others int8."""
    used = {op.tensor: op.code for op in program.ops if op.tensor is not None}
    tensors = []
    for i, tensor in enumerate(program.tensors):
        values, block = tensor.values, tensor.block
        if values.dtype.kind != "f" or used[i] == Code.GATHER:
            tensors.append(tensor)
        elif weights == "float32":
            tensors.append(Tensor(values.astype(np.float32), block=block))
        elif used[i] != Code.EMBED and (weights == "int4" or i in (small or ())):
            tensors.append(quantize_groups(values, block))
        else:
            tensors.append(quantize_rows(values, block))
    return replace(program, tensors=tensors)


def fold_tokens(program: Program, weights: str, always: bool) -> Program:
    """The program in which embeddings stand for the products with them; tables are float64."""
    while True:
        for position, op in enumerate(program.ops):
            readers = _foldable_readers(program, position) if op.code == Code.EMBED else []
            if readers and (always or _pays(program, op, readers, weights)):
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
        float_weights = reader.tensor is not None and program.tensors[reader.tensor].values.dtype.kind == "f"
        if not (same_place and bias_known and after and float_weights):
            return []
    return readers


def _pays(program: Program, op: Op, readers: list[Op], weights: str) -> bool:
    entry, weight = {"float32": (4, 4), "int4": (1, 0.5)}.get(weights, (1, 1))  # bytes in a table, in a matrix
    rows = len(program.tensors[_index(op)].values)
    others = [o for o in program.ops if not any(o is r for r in readers) and o is not op]
    kept = {o.tensor for o in others}
    before = sum(weight * r.n * r.k for r in readers if r.tensor not in kept)
    before += entry * rows * op.n if op.tensor not in kept else 0
    after = entry * rows * sum(r.n for r in readers)
    if after <= before:
        return True
    tables = {_index(o) for o in program.ops if o.code == Code.EMBED}
    stored = {_index(o) for o in program.ops if o.tensor is not None}
    total = sum((entry if i in tables else weight) * program.tensors[i].values.size for i in stored)
    return entry == 1 and total - before + after <= _FILE_GROWTH * total


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
        folded[id(reader)] = Op(Code.EMBED, reader.dst, reader.n, a=op.a, tensor=len(tensors))
        tensors.append(Tensor(product))
    segments = [replace(s, ops=tuple(folded.get(id(o), o) for o in s.ops if o is not op)) for s in program.segments]
    return replace(program, tensors=tensors, segments=segments)


def _index(op: Op) -> int:
    assert op.tensor is not None
    return op.tensor
