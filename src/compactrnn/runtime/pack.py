"""From a float32 program to the one that is stored: token inputs folded into tables, weights quantised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .._errors import invalid
from .program import Code, Op, Program, Tensor
from .tidy import output_width, overlap, reads, tidy

_FILE_GROWTH = 1.25  # how much larger a file may get for a smaller hot set


def quantize(program: Program, weights: str = "int8", fold: str | bool = "auto") -> Program:
    """The program with its matrices and tables stored as `weights`: float32, or int8 with a scale per row.

    `fold` replaces an embedding and the matrices that alone read it by tables of their products, bias included,
    computed in float64: always, never, or ("auto") where the file gets smaller, or, with int8, where a step touches
    fewer bytes and the file grows by less than a quarter.
    """
    if weights not in ("float32", "int8"):
        raise invalid("weights", got=repr(weights), wanted="'float32' or 'int8'")
    if fold not in ("auto", True, False):
        raise invalid("fold", got=repr(fold), wanted="'auto', True or False")
    program = tidy(program)
    if fold:
        program = tidy(fold_tokens(program, weights, always=fold is True))
    return _store(program, weights)


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


def quantize_rows(values: np.ndarray) -> Tensor:
    """Int8 with one scale per row, absmax / 127; a row of zeros gets scale 1.

    >>> tensor = quantize_rows(np.array([[1.0, -0.5], [0.0, 0.0]]))
    >>> tensor.values.tolist(), bool(tensor.scale[1] == 1)
    ([[127, -64], [0, 0]], True)
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise invalid("weights", got="NaN or infinity", wanted="finite numbers")
    largest = np.abs(values).max(axis=1)
    scale = np.where(largest < 1e-34, 1.0, largest / 127).astype(np.float32)
    whole = np.rint(values / scale[:, None].astype(np.float64))
    return Tensor(np.clip(whole, -127, 127).astype(np.int8), scale)


def _foldable_readers(program: Program, position: int) -> list[Op]:
    """The `AFFINE`s that alone read what this `EMBED` writes, if they can become tables; else nothing."""
    op = program.ops[position]
    kinds = [b.kind for b in program.buffers]
    segment = next(s for s in program.segments if any(o is op for o in s.ops))
    if (
        op.a is None
        or kinds[op.a.buffer] not in ("input", "constant")
        or kinds[op.dst.buffer]
        not in (
            "scratch",
            "sequence",
        )
    ):
        return []
    if any(overlap(op.dst, op.n, o.ref, output_width(o)) for o in program.outputs):
        return []
    written = [o for o in program.ops if overlap(op.dst, op.n, o.dst, o.n)]
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
    size = 4 if weights == "float32" else 1
    rows = len(program.tensors[_index(op)].values)
    others = [o for o in program.ops if not any(o is r for r in readers) and o is not op]
    kept = {o.tensor for o in others}
    before = sum(r.n * r.k for r in readers if r.tensor not in kept) + (rows * op.n if op.tensor not in kept else 0)
    after = rows * sum(r.n for r in readers)
    if after <= before:
        return True
    total = sum(program.tensors[i].values.size for i in {_index(o) for o in program.ops if o.tensor is not None})
    return size == 1 and total - before + after <= _FILE_GROWTH * total


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


def _store(program: Program, weights: str) -> Program:
    used = {op.tensor: op.code for op in program.ops if op.tensor is not None}
    tensors = []
    for i, tensor in enumerate(program.tensors):
        if tensor.values.dtype.kind != "f" or used[i] == Code.GATHER:
            tensors.append(tensor)
        elif weights == "int8":
            tensors.append(quantize_rows(tensor.values))
        else:
            tensors.append(Tensor(tensor.values.astype(np.float32)))
    return replace(program, tensors=tensors)
