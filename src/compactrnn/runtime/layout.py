"""The records of the file format, `native/cr_format.h`, as numpy types, and the packed order of matrices."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

MAGIC = b"\x89CRNN\r\n\x1a"
VERSION = 1
LINE = 64
LANES = 16
NONE = 0xFFFFFFFF
MAX_RANK = 8
MAX_METADATA = 16 << 20

KINDS = ("scratch", "state", "constant", "input", "sequence")
SEGMENT_KINDS = ("forward", "once")


class Type(IntEnum):
    """What a stored tensor is."""

    MATRIX_F32 = 0
    MATRIX_I8 = 1
    TABLE_F32 = 2
    TABLE_F16 = 3
    TABLE_I8 = 4
    INDEX = 5


HEADER = np.dtype(
    [("magic", "V8"), ("version", "<u4"), ("features", "<u4"), ("file_bytes", "<u8")]
    + [(name, "<u4") for name in ("header_crc", "body_crc", "buffers", "tensors", "ops", "segments")]
    + [(name, "<u4") for name in ("inputs", "outputs", "metadata_bytes", "reserved")]
)
BUFFER = np.dtype(
    [(name, "<u4") for name in ("kind", "width", "segment", "reserved")] + [("place", "<u8"), ("init", "<u8")]
)
TENSOR = np.dtype(
    [(name, "<u4") for name in ("type", "rows", "columns", "reserved")] + [("place", "<u8"), ("scale", "<u8")]
)
REF = np.dtype([("buffer", "<u4"), ("offset", "<u4")])
OP = np.dtype(
    [("code", "<u2"), ("fn", "<u2"), ("n", "<u4"), ("k", "<u4"), ("tensor", "<u4")]
    + [(name, REF) for name in ("dst", "a", "b", "c")]
    + [("p0", "<f4"), ("p1", "<f4"), ("reserved", "<u4", 2)]
)
SEGMENT = np.dtype([(name, "<u4") for name in ("kind", "first_op", "op_count", "reserved")])
PORT = np.dtype(
    [(name, "<u4") for name in ("buffer", "offset", "vocabulary", "final", "segment", "rank")]
    + [("shape", "<u4", MAX_RANK), ("reserved", "<u4", 2)]
)


def round_line(size: int) -> int:
    """The next multiple of 64.

    >>> round_line(65)
    128
    """
    return -(-size // LINE) * LINE


def pack_matrix(values: np.ndarray) -> np.ndarray:
    """The packed form of an `(n, k)` matrix: panels of 16 rows, in lines of 16 x 1 float32 or 16 x 4 int8.

    >>> pack_matrix(np.ones((17, 3), np.float32)).shape, pack_matrix(np.ones((17, 3), np.int8)).shape
    ((2, 3, 16, 1), (2, 1, 16, 4))
    """
    depth = 4 // values.itemsize
    rows, columns = values.shape
    padded = np.pad(values, ((0, -rows % LANES), (0, -columns % depth)))
    panels = padded.reshape(padded.shape[0] // LANES, LANES, padded.shape[1] // depth, depth)
    return np.ascontiguousarray(panels.transpose(0, 2, 1, 3))


def unpack_matrix(packed: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The `(rows, columns)` matrix of its packed form, given flat.

    >>> matrix = np.arange(85, dtype=np.int8).reshape(17, 5)
    >>> bool((unpack_matrix(pack_matrix(matrix).ravel(), 17, 5) == matrix).all())
    True
    """
    depth = 4 // packed.itemsize
    panels = packed.reshape(-(-rows // LANES), -(-columns // depth), LANES, depth)
    padded = panels.transpose(0, 2, 1, 3).reshape(panels.shape[0] * LANES, panels.shape[1] * depth)
    return np.ascontiguousarray(padded[:rows, :columns])
