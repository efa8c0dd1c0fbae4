"""Assembly of a row from entries of others, by slice copies or one gather."""

from __future__ import annotations

import numpy as np

from ..runtime.program import Code, Ref, Unary
from .builder import Builder, Operand

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
    widths = [s.width for s in sources]
    if len(sources) == 1:
        ref = sources[0].ref
    else:
        ref = build.buffer(sum(widths))
        for i, source in enumerate(sources):
            build.emit(Code.UNARY, Ref(ref.buffer, sum(widths[:i])), widths[i], a=source.ref, fn=int(Unary.COPY))
    starts = np.array([sum(widths[:i]) for i in range(len(widths))])
    index = (starts[entries[:, 0]] + entries[:, 1]).astype(np.int32)
    build.emit(Code.GATHER, dst, len(index), k=sum(widths), a=ref, tensor=build.tensor(index))


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
