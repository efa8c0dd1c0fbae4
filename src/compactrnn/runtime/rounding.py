"""Rounding of weights to int8 and int4 with scales."""

from __future__ import annotations

import os

import numpy as np

from .._errors import invalid
from . import _native  # pyright: ignore[reportAttributeAccessIssue]
from .layout import GROUP, MAX_GROUP_SCALES
from .program import Tensor

_CLIPS = np.linspace(0.5, 1.05, 12)  # largest weight kept as it is, relative to the largest there is


def quantize_rows(values: np.ndarray, block: int = 4) -> Tensor:
    """Int8 with one scale per row, absmax / 127; a row of zeros gets scale 1.

    >>> tensor = quantize_rows(np.array([[1.0, -0.5], [0.0, 0.0]]))
    >>> tensor.values.tolist(), bool(tensor.scale[1] == 1)
    ([[127, -64], [0, 0]], True)
    """
    values = _finite(values)
    entries, scale = np.empty(values.shape, np.int8), np.empty(len(values), np.float32)
    _native.quantize_rows(values, entries, scale)
    return Tensor(entries, scale, block=block)


def quantize_groups(values: np.ndarray, block: int = 4) -> Tensor:
    """Int4, from -8 to 7, with a scale for each row and group of 64 columns.

    Of twelve scales, which clip the group's largest weight to from 0.5 to 1.05 of itself, the one with the least sum of
    squared errors is taken. Scales are whole multiples of the row's own scale.

    >>> tensor = quantize_groups(np.array([[1.0, -0.5, 0.1], [0.0, 0.0, 0.0]]))
    >>> tensor.values.tolist(), tensor.group_scale.tolist()
    ([[7, -4, 1], [0, 0, 0]], [[231], [0]])
    """
    values = _finite(values)
    rows, columns = values.shape
    entries, scale = np.empty(values.shape, np.int8), np.empty(rows, np.float32)
    group_scale = np.empty((rows, -(-columns // GROUP)), np.uint8)
    _native.quantize_groups(values, largest_multiple(columns), _CLIPS, entries, scale, group_scale)
    return Tensor(entries, scale, group_scale, block)


def largest_multiple(columns: int) -> int:
    """Of a row's scale, that a group of an int4 matrix may have."""
    return min(255, MAX_GROUP_SCALES // -(-columns // GROUP))


def quantize_matrix(values: np.ndarray, kind: str, dense: np.ndarray, memory: np.ndarray) -> None:
    """What `values`, float32, are as a matrix in "int8" or "int4": its numbers in `dense`, and all of it in `memory`.

    `memory`, uint8, has `packed_bytes` bytes and is what `quantized_linear` takes.
    """
    _native.quantize_matrix(values, kind == "int4", largest_multiple(values.shape[1]), _CLIPS, dense, memory)


def packed_bytes(shape: tuple[int, int], kind: str) -> int:
    """The bytes of a matrix of (rows, columns) in memory."""
    return _native.packed_bytes(*shape, kind == "int4")


def quantized_linear(
    x: np.ndarray, memory: np.ndarray, kind: str, scale: float, y: np.ndarray, threads: int = 1
) -> None:
    """The engine's product of each row of `x` with a matrix of `quantize_matrix`, into the rows of `y`.

    What it reads is rounded to multiples of `scale`, with 0 of a 127th of the largest of the row.
    """
    _native.quantized_linear(x, memory, kind == "int4", scale, y, threads, os.environ.get("CRNN_ISA", ""))


def fake_quant(x: np.ndarray, scale: float, y: np.ndarray, threads: int = 1) -> None:
    """What `quantized_linear` makes of the rows of `x`, into `y`."""
    _native.fake_quant(x, scale, y, threads, os.environ.get("CRNN_ISA", ""))


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float64)
    if not np.isfinite(values).all():
        raise invalid("weights", got="NaN or infinity", expected="finite numbers")
    return values
