"""An index as runs of equal steps: 8 bytes for each, where every position alone takes 4."""

from __future__ import annotations

import numpy as np

RUN = np.dtype([("first", "<i4"), ("step", "<i2"), ("count", "<u2")])  # see cr_index_run in native/cr_format.h
_LONGEST, _WIDEST = 65535, 32767


def pack_runs(index: np.ndarray) -> np.ndarray:
    """The runs of an index, each as long as it can be: positions by equal steps, or -1 alone.

    >>> pack_runs(np.array([0, 33, 66, 99, -1, -1, 7, 6, 5])).tolist()
    [(0, 33, 4), (-1, 0, 2), (7, -1, 3)]
    """
    index = np.ravel(index).astype(np.int64)
    steps = np.diff(index)
    absent = index < 0
    steps[absent[1:] != absent[:-1]] = _WIDEST + 1  # no run has both
    ends = np.append(np.flatnonzero(steps[1:] != steps[:-1]) + 1, len(steps))  # from here on steps are others
    runs, at = [], 0
    while at < len(index):
        count, step = 1, 0
        if at < len(steps) and abs(int(steps[at])) <= _WIDEST:
            step = int(steps[at])
            count = min(int(ends[np.searchsorted(ends, at, "right")]) - at + 1, _LONGEST)
        runs.append((int(index[at]), step, count))
        at += count
    return np.array(runs, RUN)


def unpack_runs(runs: np.ndarray) -> np.ndarray:
    """The index that consists of these runs.

    >>> unpack_runs(pack_runs(np.array([4, 2, 0, -1, 5]))).tolist()
    [4, 2, 0, -1, 5]
    """
    count = runs["count"].astype(np.int64)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return (np.repeat(runs["first"], count) + np.repeat(runs["step"], count) * within).astype(np.int32)


def index_bytes(index: np.ndarray) -> int:
    """What an index takes in a file: as runs, or position by position."""
    return min(RUN.itemsize * len(pack_runs(index)), 4 * index.size)
