"""The records of the file format, `native/cr_format.h`, as numpy types, and the packed order of matrices."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from . import _native  # pyright: ignore[reportAttributeAccessIssue]
from .gates import LANES

MAGIC: bytes = _native.MAGIC
VERSION: int = _native.constants["VERSION"]
LINE: int = _native.constants["LINE"]
GROUP: int = _native.constants["GROUP"]  # columns of an int4 matrix that share a scale
NONE: int = _native.constants["NONE"]
MAX_COLUMNS: int = _native.constants["MAX_COLUMNS"]
MAX_WIDTH: int = _native.constants["MAX_WIDTH"]  # of a buffer
MAX_RANK: int = _native.constants["MAX_RANK"]
MAX_SEGMENTS: int = _native.constants["MAX_SEGMENTS"]
FEATURE_STEPS: int = _native.constants["FEATURE_STEPS"]
MAX_GROUP_SCALES: int = _native.constants["MAX_GROUP_SCALES"]  # of a row, so that no sum of products leaves 32 bits

KINDS = ("scratch", "state", "constant", "input", "sequence")
SEGMENT_KINDS = ("forward", "once")


class Type(IntEnum):
    """What a stored tensor is."""

    MATRIX_F32 = 0
    MATRIX_I8 = 1
    MATRIX_I4 = 2
    TABLE_F32 = 3
    TABLE_F16 = 4
    TABLE_I8 = 5
    INDEX = 6
    TOEPLITZ_F32 = 7
    SPARSE_F32 = 8
    SPARSE_I8 = 9
    ENTRIES_F32 = 10
    ENTRIES_I8 = 11
    COLUMNS_I8 = 12
    RUNS = 13
    REPEATS = 14


MATRICES = (Type.MATRIX_F32, Type.MATRIX_I8, Type.MATRIX_I4)
FORMS = (Type.TOEPLITZ_F32, Type.SPARSE_F32, Type.SPARSE_I8, Type.ENTRIES_F32, Type.ENTRIES_I8)
SCALED = (Type.MATRIX_I8, Type.MATRIX_I4, Type.TABLE_I8, Type.SPARSE_I8, Type.ENTRIES_I8, Type.COLUMNS_I8)
SUMMED = (Type.MATRIX_I8, Type.SPARSE_I8)  # which have the sums of rows beside the scales
QUANTIZED_INPUTS = (Type.MATRIX_I8, Type.MATRIX_I4, Type.SPARSE_I8, Type.COLUMNS_I8)  # what products with them read


HEADER = np.dtype(
    [("magic", "V8"), ("version", "<u4"), ("features", "<u4"), ("file_bytes", "<u8")]
    + [(name, "<u4") for name in ("header_crc", "body_crc", "buffers", "tensors", "ops", "segments")]
    + [(name, "<u4") for name in ("inputs", "outputs", "metadata_bytes", "most_steps")]
)
BUFFER = np.dtype(
    [(name, "<u4") for name in ("kind", "width", "segment", "reserved")] + [("place", "<u8"), ("init", "<u8")]
)
TENSOR = np.dtype(
    [(name, "<u4") for name in ("type", "rows", "columns", "block")] + [("place", "<u8"), ("scale", "<u8")]
)
TOEPLITZ = np.dtype(
    [(name, "<u4") for name in ("rank", "gates", "units", "interleaved", "rule", "size")] + [("reserved", "<u4", 10)]
)
REF = np.dtype([("buffer", "<u4"), ("offset", "<u4")])
OP = np.dtype(
    [("code", "<u2"), ("fn", "<u2"), ("n", "<u4"), ("k", "<u4"), ("tensor", "<u4")]
    + [(name, REF) for name in ("dst", "a", "b", "c")]
    + [("p0", "<f4"), ("p1", "<f4"), ("d", REF)]
)
SEGMENT = np.dtype([(name, "<u4") for name in ("kind", "first_op", "op_count", "reserved")])
PORT = np.dtype(
    [(name, "<u4") for name in ("buffer", "offset", "vocabulary", "final", "segment", "rank")]
    + [("shape", "<u4", MAX_RANK), ("least", "<u4"), ("fewer", "<u4")]
)


def round_line(size: int) -> int:
    """The next multiple of 64.

    >>> round_line(65)
    128
    """
    return -(-size // LINE) * LINE


def matrix_bytes(kind: Type, rows: int, columns: int, block: int) -> int:
    """The size of a packed matrix, without its row scales.

    >>> matrix_bytes(Type.MATRIX_I4, 17, 65, 4) == 64 * (2 * 9 + 2)  # lines of two panels, scales of two groups
    True
    """
    panels = -(-rows // LANES)
    lines = -(-columns // _COLUMNS[kind])
    scales = -(-columns // GROUP) * -(-panels // block) if kind == Type.MATRIX_I4 else 0
    return LINE * (panels * lines + scales)


def pack_matrix(values: np.ndarray, block: int = 4, group_scale: np.ndarray | None = None) -> bytes:
    """The packed form of an `(n, k)` matrix: float32, int8, or, with `group_scale`, int4.

    >>> matrix = np.ones((17, 3), np.float32)
    >>> len(pack_matrix(matrix)) // 64, len(pack_matrix(matrix.astype(np.int8))) // 64
    (6, 2)
    """
    panels = -(-len(values) // LANES)
    kind = Type.MATRIX_I4 if group_scale is not None else Type.MATRIX_I8 if values.itemsize == 1 else Type.MATRIX_F32
    parts = []
    for first in range(0, panels, block):
        rows = slice(first * LANES, min(first + block, panels) * LANES)
        if group_scale is None:
            parts.append(panel_lines(values[rows], _COLUMNS[kind]).tobytes())
            continue
        for group in range(group_scale.shape[1]):
            part = panel_lines(values[rows, group * GROUP : (group + 1) * GROUP] + 8, 8, fill=8).astype(np.uint8)
            parts.append((part[..., :4] | part[..., 4:] << 4).tobytes())
            parts.append(group_scale[rows, group].astype(np.uint8).tobytes().ljust(LINE, b"\0"))
    return b"".join(parts)


def unpack_matrix(data: bytes, kind: Type, rows: int, columns: int, block: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The `(rows, columns)` matrix of its packed form, and the group scales of an int4 one.

    >>> matrix = np.arange(85, dtype=np.int8).reshape(17, 5)
    >>> bool((unpack_matrix(pack_matrix(matrix), Type.MATRIX_I8, 17, 5, 4)[0] == matrix).all())
    True
    """
    depth, panels = _COLUMNS[kind], -(-rows // LANES)
    lines = -(-columns // depth)
    dtype = np.dtype("<f4" if kind == Type.MATRIX_F32 else "u1" if kind == Type.MATRIX_I4 else "i1")
    values = np.zeros((panels, lines, LANES, depth), np.int8 if kind == Type.MATRIX_I4 else dtype)
    scales = np.zeros((panels, LANES, -(-columns // GROUP)), np.uint8) if kind == Type.MATRIX_I4 else None
    at = 0

    def take(count: int, width: int) -> np.ndarray:
        nonlocal at
        part = np.frombuffer(data, dtype, count * width * LINE // dtype.itemsize, at)
        at += part.nbytes
        return part.reshape(count, width, LANES, -1).swapaxes(0, 1)

    for first in range(0, panels, block):
        width = min(block, panels - first)
        if scales is None:
            values[first : first + width] = take(lines, width)
            continue
        for group in range(scales.shape[2]):
            some = min(lines - 8 * group, 8)
            part = take(some, width)
            both = np.concatenate([part & 15, part >> 4], axis=3).astype(np.int8) - 8
            values[first : first + width, 8 * group : 8 * group + some] = both
            scales[first : first + width, :, group] = take(1, 1).reshape(4, LANES)[:width]
    whole = values.swapaxes(1, 2).reshape(panels * LANES, lines * depth)[:rows, :columns]
    group_scale = None if scales is None else np.ascontiguousarray(scales.reshape(panels * LANES, -1)[:rows])
    return np.ascontiguousarray(whole), group_scale


_COLUMNS = {Type.MATRIX_F32: 1, Type.MATRIX_I8: 4, Type.MATRIX_I4: 8}  # of a line


def pack_columns(values: np.ndarray) -> bytes:
    """The packed form of an int8 matrix that is read column by column: 64 rows of a column in a line.

    >>> len(pack_columns(np.ones((65, 3), np.int8))) // 64
    6
    """
    rows, columns = values.shape
    whole = np.pad(values, ((0, -rows % (4 * LANES)), (0, 0)))
    return whole.reshape(-1, 4, 4, 4, columns).transpose(0, 4, 2, 1, 3).tobytes()


def unpack_columns(data: bytes, place: int, rows: int, columns: int) -> np.ndarray:
    """The `(rows, columns)` matrix of its packed form at a place of a file.

    >>> matrix = np.arange(-60, 60, dtype=np.int8).reshape(40, 3)
    >>> bool((unpack_columns(pack_columns(matrix), 0, 40, 3) == matrix).all())
    True
    """
    blocks = -(-rows // (4 * LANES))
    lines = np.frombuffer(data, np.int8, LINE * blocks * columns, place).reshape(blocks, columns, 4, 4, 4)
    return np.ascontiguousarray(lines.transpose(0, 3, 2, 4, 1).reshape(-1, columns)[:rows])


def panel_lines(values: np.ndarray, depth: int, fill: int = 0) -> np.ndarray:
    """The rows of a block, padded, as lines of all its panels: (lines, panels, 16, depth)."""
    rows, columns = values.shape
    whole = np.pad(values, ((0, -rows % LANES), (0, -columns % depth)), constant_values=fill)
    return whole.reshape(-1, LANES, whole.shape[1] // depth, depth).transpose(2, 0, 1, 3)
