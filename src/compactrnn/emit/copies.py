"""Assembly of a row from entries of others, by slice copies or one gather."""

from __future__ import annotations

import numpy as np

from ..runtime.program import Code, Ref, Unary
from .builder import CONSTANT, Builder, Operand

_MOST_COPIES = 16


def copied(build: Builder, entries: np.ndarray, sources: list[Operand]) -> Ref:
    """A new row, in the current segment, of `entries`: (source, position) each."""
    dst, runs = build.buffer(len(entries)), _runs(entries)
    repeated = len(runs) > 2 and bool((entries == entries[0]).all())
    if len(runs) > _MOST_COPIES or repeated:
        _gather(build, dst, entries, sources)
        return dst
    for start, end, number, first in runs:
        ref = sources[number].ref
        at, place = Ref(dst.buffer, start), Ref(ref.buffer, ref.offset + first)
        build.emit(Code.UNARY, at, end - start, a=place, fn=int(Unary.COPY))
    return dst


def _gather(build: Builder, dst: Ref, entries: np.ndarray, sources: list[Operand]) -> None:
    index, parts, width = np.full(len(entries), -1, np.int32), [], 0  # -1 gives zero
    for number, source in enumerate(sources):
        mine = (entries[:, 0] == number) & ~_zeros(build, entries, number, source)
        if not mine.any():
            continue
        first, last = entries[mine, 1].min(), entries[mine, 1].max()
        index[mine] = width + entries[mine, 1] - first
        parts.append((Ref(source.ref.buffer, source.ref.offset + int(first)), width, int(last - first + 1)))
        width += parts[-1][2]
    ref = parts[0][0] if len(parts) == 1 else build.buffer(width)
    for part, start, count in parts if len(parts) > 1 else []:
        build.emit(Code.UNARY, Ref(ref.buffer, start), count, a=part, fn=int(Unary.COPY))
    build.emit(Code.GATHER, dst, len(index), k=width, a=ref, tensor=build.tensor(index))


def _zeros(build: Builder, entries: np.ndarray, number: int, source: Operand) -> np.ndarray:
    """Which entries are zeros of source `number`, if it is a constant."""
    found = np.zeros(len(entries), bool)
    init = build.program.buffers[source.ref.buffer].init
    if source.kind == CONSTANT and init is not None:
        mine = entries[:, 0] == number
        values = np.ravel(init)[source.ref.offset + entries[mine, 1]]
        found[mine] = (values == 0) & ~np.signbit(values)
    return found


def is_run(positions: np.ndarray) -> bool:
    """Whether the positions are contiguous.

    >>> is_run(np.array([3, 4, 5])), is_run(np.array([3, 5, 4]))
    (True, False)
    """
    return bool((positions == positions[0] + np.arange(len(positions))).all())


def _runs(entries: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(start, end, source, first position) of contiguous runs."""
    follows = (entries[1:, 0] == entries[:-1, 0]) & (entries[1:, 1] == entries[:-1, 1] + 1)
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist()]
    ends = [*starts[1:], len(entries)]
    return [(start, end, *entries[start].tolist()) for start, end in zip(starts, ends, strict=True)]
