"""Equalization: scale a product's inputs, and its columns inversely, from calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .measure import run
from .operations import OPERATIONS
from .program import GATES, Binary, Buffer, Code, Matmul, Op, Output, Program, Ref, Segment, Unary


def source(op: Op) -> Ref:
    """Where the vector lies that the operation multiplies its matrix with."""
    ref = op.a if GATES[op.code] == 1 else op.c
    assert ref is not None
    return ref


def rows_read(program: Program, tensor: int, sequences: Sequence[Any]) -> np.ndarray:
    """The finite vectors that the matrix `tensor` is multiplied with on the sequences, (count, columns)."""
    buffers, outputs, segments, readers = list(program.buffers), [], [], []
    for segment in program.segments:
        ops = []
        for op in segment.ops:
            if op.code in GATES and op.tensor == tensor:
                copy = Ref(len(buffers))
                buffers.append(Buffer(op.k))
                ops.append(Op(Code.UNARY, copy, op.k, a=source(op), fn=Unary.COPY))
                outputs.append(Output(f"read{len(outputs)}", copy, (op.k,), final=segment.kind == "once"))
                readers.append(op)
            ops.append(op)
        segments.append(replace(segment, ops=tuple(ops)))
    probe = replace(program, buffers=buffers, segments=segments, outputs=outputs)
    found = [_vectors(program, *pair) for ys in run(probe, sequences) for pair in zip(readers, ys, strict=True)]
    rows = np.concatenate(found)
    return rows[np.isfinite(rows).all(axis=1)]


def _vectors(program: Program, op: Op, read: np.ndarray) -> np.ndarray:
    """The vectors that an operation multiplies, of all numbers that it reads: (count, columns)."""
    read = read.reshape(-1, op.k)
    step = _step(program, op)
    if op.code != Code.MATMUL or step is None:
        return read
    columns = _columns(program, op)
    return np.concatenate([read[:, start : start + columns] for start in range(0, op.k - columns + 1, step)])


def _columns(program: Program, op: Op) -> int:
    assert op.tensor is not None
    return program.tensors[op.tensor].shape[1]


def _step(program: Program, op: Op) -> int | None:
    """After how many numbers of what is read a scale repeats if columns are scaled; None where they cannot be."""
    columns = _columns(program, op)
    if op.code != Code.MATMUL:
        return None if OPERATIONS[op.code].rows or op.code == Code.DELTA else columns
    if op.fn != Matmul.WINDOWS:
        return columns if op.fn == Matmul.RIGHT else None
    assert op.tensor is not None
    count = op.n // program.tensors[op.tensor].shape[0]
    step = (op.k - columns) // (count - 1) if count > 1 else columns
    return step if step and columns % step == 0 else None


def can_scale(program: Program, tensor: int) -> bool:
    """Whether what the matrix reads can be scaled for its columns: where windows overlap, after every step of them."""
    steps = {_step(program, op) for op in program.ops if op.tensor == tensor and op.code in GATES}
    return len(steps) == 1 and None not in steps


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
    `center`, else zero. Columns that read the same numbers in windows that overlap have the same scale.
    """
    period = next(step for op in program.ops if op.tensor == tensor and (step := _step(program, op)))
    values = program.tensors[tensor].values.astype(np.float64)
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32) if center else np.zeros(rows.shape[1], np.float32)
    read = _known(_size(rows.astype(np.float64) - mean, period))
    weights = _known(_size(values, period))
    scale = np.sqrt(weights / read)
    scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    shift = values @ mean.astype(np.float64)
    tensors = list(program.tensors)
    repeated = np.tile(scale.astype(np.float64), values.shape[1] // period)
    tensors[tensor] = replace(tensors[tensor], values=values / repeated)
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
        before.append(Op(Code.BINARY, scaled, op.k, period, a=x, b=factor, fn=Binary.MUL))
        moved = {"a": scaled} if GATES[op.code] == 1 else {"c": scaled}
        return [*before, replace(op, p0=0.0, **moved)]

    segments = [Segment(s.kind, tuple(new for op in s.ops for new in change(op))) for s in program.segments]
    return replace(program, tensors=tensors, segments=segments, buffers=buffers)


def _size(rows: np.ndarray, period: int) -> np.ndarray:
    """Root mean square of each column, and of those that are a period apart together."""
    return np.sqrt(np.square(rows).reshape(-1, period).mean(axis=0))


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
