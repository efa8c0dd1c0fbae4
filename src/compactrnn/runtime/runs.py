"""An index in runs of equal steps, 8 bytes for each, and in blocks of runs that repeat; a position alone takes 4."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

RUN = np.dtype([("first", "<i4"), ("step", "<i2"), ("count", "<u2")])  # see cr_index_run in native/cr_format.h
BLOCK = np.dtype([("times", "<u4"), ("runs", "<u4"), ("reserved", "<u4")])
REPEAT = np.dtype([("first", "<i4"), ("shift", "<i4"), ("step", "<i2"), ("count", "<u2")])
_LONGEST, _WIDEST = 65535, 32767
_PERIODS = 64  # positions after which an index is looked through for a repetition


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


def pack_repeats(index: np.ndarray) -> np.ndarray:
    """An index in blocks: a `BLOCK`, seen as a `REPEAT`, then its runs, which come several times.

    >>> found = pack_repeats(np.array([0, 9, 8, 1, 8, 6, 2, 7, 4, 3, 6, 2, 5]))
    >>> found.tolist()  # 4 times 3 runs of a position, the first of them 1 further each time; once a run
    [(4, 3, 0, 0), (0, 1, 0, 1), (9, -1, 0, 1), (8, -2, 0, 1), (1, 1, 0, 0), (5, 0, 0, 1)]
    """
    index = np.ravel(index).astype(np.int64)
    starts = np.append(0, np.cumsum(pack_runs(index)["count"].astype(np.int64)))
    periods = np.array(sorted({*range(1, _PERIODS + 1), *starts[1 : _PERIODS + 1].tolist()}))
    times = np.array([_repetitions(index, int(period)) for period in periods])
    repeats = times.max(0) > 2
    blocks, at, done = [], 0, 0  # `done`: what blocks have
    while at < len(index):
        block, after = _best_block(index, starts, periods, times[:, at], at) if repeats[at] else (None, at)
        if block is None:
            at = int(starts[np.searchsorted(starts, at, "right")])
        else:
            blocks += [_once(index[done:at]), block]
            at = done = after
    return np.concatenate([*blocks, _once(index[done:])])


def _best_block(
    index: np.ndarray, starts: np.ndarray, periods: np.ndarray, times: np.ndarray, at: int
) -> tuple[np.ndarray | None, int]:
    """The block from `at` on that saves most, and the position after it; None where none saves anything.

    `starts`: of the runs of the whole index; `times`: how often the next positions come, by period.
    """
    replaced = np.searchsorted(starts, at + periods * times) - np.searchsorted(starts, at, "right") + 1  # runs
    least, found = 1, (None, at)  # the next block needs a head
    for choice in np.argsort(-replaced * (times > 2), kind="stable"):
        period, count = int(periods[choice]), int(times[choice])
        if count < 3 or replaced[choice] <= least:
            break
        block = _block(index[at : at + period], index[at + period : at + 2 * period], count)
        if replaced[choice] - len(block) > least:
            least, found = int(replaced[choice]) - len(block), (block, at + period * count)
    return found


def _repetitions(index: np.ndarray, period: int) -> np.ndarray:
    """For each position how often the next `period` positions come, each by a shift of its own further every time."""
    if 3 * period > len(index):
        return np.ones(len(index), int)
    before, after = index[:-period], index[period:]
    same = (before < 0) == (after < 0)  # of two in a row
    shift = after - before
    even = np.append(same[:-period] & same[period:] & (shift[:-period] == shift[period:]), np.zeros(period, bool))
    breaks = np.flatnonzero(~even)
    at = np.arange(len(even))
    length = breaks[np.searchsorted(breaks, at)] - at
    return np.append(np.where(length >= period, np.minimum(2 + length // period, _LONGEST), 1), np.ones(period, int))


def _block(first: np.ndarray, second: np.ndarray, times: int) -> np.ndarray:
    """The records of a stretch of positions that comes `times` times; `second`: what it is the second time."""
    shift = second - first
    ends = np.append(np.flatnonzero(np.diff(shift)) + 1, len(first))
    parts = [pack_runs(part) for part in np.split(first, ends[:-1])]
    runs = np.concatenate(parts)
    records = np.zeros(1 + len(runs), REPEAT)
    records[:1] = np.array([(times, len(runs), 0)], BLOCK).view(REPEAT)
    for name in RUN.names or ():
        records[name][1:] = runs[name]
    records["shift"][1:] = np.repeat(shift[np.append(0, ends[:-1])], [len(part) for part in parts])
    return records


def _once(positions: np.ndarray) -> np.ndarray:
    """The records of positions that come once."""
    return _block(positions, positions, 1) if len(positions) else np.zeros(0, REPEAT)


def unpack_repeats(records: np.ndarray) -> np.ndarray:
    """The index that consists of these blocks.

    >>> unpack_repeats(pack_repeats(np.array([-1, 4, -1, 6, -1, 8, 8]))).tolist()
    [-1, 4, -1, 6, -1, 8, 8]
    """
    parts, at = [], 0
    while at < len(records):
        block = records[at : at + 1].view(BLOCK)[0]
        times, runs = int(block["times"]), records[at + 1 : at + 1 + int(block["runs"])]
        shift = np.repeat(runs["shift"].astype(np.int64), runs["count"])
        parts.append((unpack_runs(runs) + shift * np.arange(times)[:, None]).ravel())
        at += 1 + len(runs)
    return np.concatenate(parts).astype(np.int32)


def index_form(index: np.ndarray) -> tuple[str, np.ndarray]:
    """The form of the least bytes, and what is stored: "single" positions, "runs" or "repeats"."""
    index = np.ascontiguousarray(index, np.int32)
    return _index_form(index.tobytes())


@lru_cache(maxsize=1024)
def _index_form(data: bytes) -> tuple[str, np.ndarray]:
    index = np.frombuffer(data, np.int32)
    forms = {"single": index, "runs": pack_runs(index), "repeats": pack_repeats(index)}  # the simplest of equal ones
    return min(forms.items(), key=lambda form: form[1].nbytes)


def index_bytes(index: np.ndarray) -> int:
    """What an index takes in a file, in the form of the least bytes."""
    return index_form(index)[1].nbytes
