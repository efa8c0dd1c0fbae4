"""Equalization: scale a product's inputs, and its columns inversely, from calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .measure import run
from .operations import OPERATIONS
from .program import GATES, Binary, Buffer, Code, Op, Output, Program, Ref, Segment, Unary


def source(op: Op) -> Ref:
    """Where the vector lies that the operation multiplies its matrix with."""
    ref = op.a if GATES[op.code] == 1 else op.c
    assert ref is not None
    return ref


def rows_read(program: Program, tensor: int, sequences: Sequence[Any]) -> np.ndarray:
    """The finite vectors that the matrix `tensor` is multiplied with on the sequences, (count, columns)."""
    buffers, outputs, segments = list(program.buffers), [], []
    for segment in program.segments:
        ops = []
        for op in segment.ops:
            if op.code in GATES and op.tensor == tensor:
                copy = Ref(len(buffers))
                buffers.append(Buffer(op.k))
                ops.append(Op(Code.UNARY, copy, op.k, a=source(op), fn=Unary.COPY))
                outputs.append(Output(f"read{len(outputs)}", copy, (op.k,), final=segment.kind == "once"))
            ops.append(op)
        segments.append(replace(segment, ops=tuple(ops)))
    probe = replace(program, buffers=buffers, segments=segments, outputs=outputs)
    rows = np.concatenate([y.reshape(-1, y.shape[-1]) for ys in run(probe, sequences) for y in ys])
    return rows[np.isfinite(rows).all(axis=1)]


def can_scale(program: Program, tensor: int) -> bool:
    """Whether each column of the matrix is multiplied with one number of one vector: not where there are many."""
    ops = [op for op in program.ops if op.tensor == tensor]
    return not any(OPERATIONS[op.code].rows or op.code == Code.DELTA for op in ops)


def can_center(program: Program, tensor: int) -> bool:
    """Whether a mean can be taken from what the matrix reads, and its product added to a bias."""
    readers = [op for op in program.ops if op.tensor == tensor and op.code in GATES]
    return all(
        op.code == Code.AFFINE and (op.b is None or program.buffers[op.b.buffer].kind == "constant") for op in readers
    )


def equalize(program: Program, tensor: int, rows: np.ndarray, center: bool) -> Program:
    """The same products, `W x + b = (W / r) (r (x - m)) + (b + W m)`, with a scale r for each column.

    Rows of W must not be looked up, see `storage.with_table`.

    With a the root mean square of what a column of W reads and w that of the column, `r = sqrt(w / a)`: each column
    then reads numbers as large as its weights, so that rounding takes the same part of both. m is the mean with
    `center`, else zero.
    """
    values = program.tensors[tensor].values.astype(np.float64)
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32) if center else np.zeros(rows.shape[1], np.float32)
    read = _known(np.sqrt(np.square(rows.astype(np.float64) - mean).mean(axis=0)))
    weights = _known(np.sqrt(np.square(values).mean(axis=0)))
    scale = np.sqrt(weights / read)
    scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    shift = values @ mean.astype(np.float64)
    tensors = list(program.tensors)
    tensors[tensor] = replace(tensors[tensor], values=values / scale.astype(np.float64))
    buffers = [*program.buffers, Buffer(len(scale), "constant", scale)]
    factor, offset = Ref(len(buffers) - 1), Ref(len(buffers))
    if center:
        buffers.append(Buffer(len(mean), "constant", mean))

    def change(op: Op) -> list[Op]:
        if op.code not in GATES or op.tensor != tensor:
            return [op]
        x, before = source(op), []
        scaled = Ref(len(buffers))
        buffers.append(Buffer(op.k))
        if center:
            before.append(Op(Code.BINARY, scaled, op.k, op.k, a=x, b=offset, fn=Binary.SUB))
            x, op = scaled, replace(op, b=_shifted(buffers, op, shift))
        before.append(Op(Code.BINARY, scaled, op.k, op.k, a=x, b=factor, fn=Binary.MUL))
        moved = {"a": scaled} if op.code == Code.AFFINE else {"c": scaled}
        return [*before, replace(op, p0=0.0, **moved)]

    segments = [Segment(s.kind, tuple(new for op in s.ops for new in change(op))) for s in program.segments]
    return replace(program, tensors=tensors, segments=segments, buffers=buffers)


def _known(sizes: np.ndarray) -> np.ndarray:
    """Sizes with the geometric mean of the others in the place of zeros and of what is smaller by 1e-9."""
    there = sizes > 1e-9 * sizes.max()
    return np.where(there, sizes, np.exp(np.log(sizes[there]).mean()) if there.any() else 1.0)


def _shifted(buffers: list[Buffer], op: Op, shift: np.ndarray) -> Ref:
    """A constant: the bias that the operation has, and `shift`."""
    bias = np.zeros(op.n)
    if op.b is not None:
        init = buffers[op.b.buffer].init
        assert init is not None
        bias = np.ravel(init)[op.b.offset : op.b.offset + op.n].astype(np.float64)
    buffers.append(Buffer(op.n, "constant", (bias + shift).astype(np.float32)))
    return Ref(len(buffers) - 1)
