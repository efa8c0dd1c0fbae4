"""Roofline of one step: bytes it must read over the read bandwidth of one core."""

from __future__ import annotations

import statistics
from typing import Any

from ...runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from ...runtime.entries import stored_entries
from ...runtime.layout import Type
from ...runtime.records import Records
from ...runtime.sparse import DEPTH, stored_lines

WORKING_SETS = (*(1 << k for k in range(14, 28)), 144 << 20)
_BITS = {"F32": 32, "F16": 16, "I8": 8, "I4": 4}


def weight_bytes(data: bytes) -> int:
    """Bytes of weights that one step reads: every matrix, what is stored of a sparse one, a row of each table.

    A matrix that the engine makes of vectors is counted as the float32 matrix that it becomes.
    """
    total = 0
    for tensor in Records(data).tensors:
        if int(tensor["type"]) in DEPTH:
            kept = stored_lines(data, int(tensor["place"]), int(tensor["rows"]), Type(int(tensor["type"])))
            total += kept.lines.nbytes + kept.numbers.nbytes
        if int(tensor["type"]) in (Type.ENTRIES_F32, Type.ENTRIES_I8):
            entries = stored_entries(data, int(tensor["place"]), int(tensor["columns"]), Type(int(tensor["type"])))
            total += sum(part.nbytes for part in entries)
        shape, _, kind = Type(int(tensor["type"])).name.partition("_")
        rows = {"MATRIX": int(tensor["rows"]), "TOEPLITZ": int(tensor["rows"]), "TABLE": 1}.get(shape, 0)
        total += rows * int(tensor["columns"]) * _BITS.get(kind, 0) // 8
    return total


def read_rate(isa: str, size: int, bytes_read: int = 100 << 20) -> float | None:
    """Read bandwidth in bytes per second for a working set of `size` bytes; None for 0."""
    return _native.read_rate(isa, size, max(2, bytes_read // size)) if size else None


def read_rates(isa: str) -> list[dict[str, Any]]:
    """Read bandwidth for working sets of 16 KB to 144 MB, medians of five."""
    rates = {size: [read_rate(isa, size) or 0.0 for _ in range(5)] for size in WORKING_SETS}
    return [{"bytes": size, "bytes_per_second": round(statistics.median(found))} for size, found in rates.items()]
