"""Windows of long series: where they are cut, and in which order they are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._errors import check_positive, invalid

NONE = -1


@dataclass(frozen=True)
class Cut:
    """The windows of an epoch, in the order of time: window i has the steps from `begin[i]` to `end[i]`.

    `following[i]` is the number of the window that begins where window i ends; -1 at the end of a stretch.
    """

    begin: np.ndarray
    end: np.ndarray
    following: np.ndarray


class Windows:
    """Windows of `length` steps of stretches (begin, end) of a file, shorter where a stretch ends: each once an epoch.

    An epoch has as many updates as batches of `batch_size` are needed. In random order their sizes differ by one at
    most. With `in_order` row b of a batch reads its own run of windows, one after the other in the order of time, so
    that in update i stand the windows that follow those of update i - 1; the last update may have fewer rows.

    With `shift` each stretch begins in each epoch at another of its first `length` steps, drawn from `seed`; those
    before it are left out, and at the end whatever is more than as many windows as fit into the stretch.

    >>> windows = Windows([(0, 10), (10, 16)], 4, batch_size=2, in_order=True)
    >>> cut = windows.cut(0)
    >>> cut.begin.tolist(), cut.end.tolist(), cut.following.tolist()
    ([0, 4, 8, 10, 14], [4, 8, 10, 14, 16], [1, 2, -1, 4, -1])
    >>> [batch.tolist() for batch in windows.batches(0)]
    [[0, 3], [1, 4], [2]]
    """

    def __init__(
        self,
        stretches: Sequence[tuple[int, int]],
        length: int,
        batch_size: int,
        *,
        in_order: bool = False,
        seed: int = 0,
        shift: bool = False,
    ):
        self.length, self.batch_size = check_positive(length, "window"), check_positive(batch_size, "batch_size")
        odd = next((pair for pair in stretches if not 0 <= pair[0] < pair[1]), None)
        if odd is not None or not stretches:
            raise invalid("stretches", got=odd or "none", expected="steps (begin, end), at least one in each")
        self.stretches, self.in_order, self.seed, self.shift = list(stretches), in_order, seed, shift

    def __len__(self) -> int:
        """The number of windows, the same in every epoch."""
        return sum(self._count(end - begin) for begin, end in self.stretches)

    def updates(self) -> int:
        """The number of batches of an epoch."""
        return -(-len(self) // self.batch_size)

    def cut(self, epoch: int) -> Cut:
        """Where the windows of an epoch are."""
        random, rows = self._random(epoch, 0), []
        for begin, end in self.stretches:
            count, most = self._count(end - begin), min(self.length, end - begin - self.length + 1)
            first = begin + (int(random.integers(most)) if self.shift and most > 1 else 0)
            bounds = np.minimum(first + np.arange(count + 1) * self.length, end)
            following = len(rows) + np.arange(1, count + 1)
            following[-1] = NONE
            rows.extend(zip(bounds[:-1], bounds[1:], following, strict=True))
        begin, end, following = np.array(rows, np.int64).T
        return Cut(begin, end, following)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The numbers of the windows of each update of an epoch."""
        if not self.in_order:
            return np.array_split(self._random(epoch, 1).permutation(len(self)), self.updates())
        rows = np.array_split(np.arange(len(self)), min(self.batch_size, len(self)))
        return [np.array([row[i] for row in rows if i < len(row)]) for i in range(len(rows[0]))]

    def _count(self, steps: int) -> int:
        return max(1, steps // self.length) if self.shift else -(-steps // self.length)

    def _random(self, epoch: int, use: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, use))
