"""How many frames of an input one step of an engine takes, where a model has strides over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

_MOST = 1 << 14  # frames of a step
_LONGEST = 1 << 20  # frames of the sequences that are tried
_TIMES = (2, 4, 8, 16, 32)  # as long as the first

Sizes = Callable[[int], tuple[int, ...] | None]  # of what a model makes of an input of this length, None if it does not


def frames_a_step(sizes: Sizes, length: int) -> int | None:
    """The least number by which the length must grow for all sizes to grow by whole numbers.

    1 where there is no stride, also where the model does not take other lengths; None where there is no such number.
    `length` is one that the model takes.

    >>> frames_a_step(lambda n: ((n - 1) // 8 + 1, n // 2), 100), frames_a_step(lambda n: (n, n - 2), 9)
    (8, 1)
    """
    if _grow_evenly(sizes, [length, length + 1, 2 * length]) or sizes(2 * length) is None:
        return 1
    for times in _TIMES:
        found = sizes(times * length) if times * length <= _LONGEST else None
        if found is None or len(found) != len(sizes(length) or ()):
            return None
        if found != sizes(length):
            frames = _between_changes(sizes, length, found) or _in_proportion(sizes, length, times * length)
            return frames if _is_step(sizes, length, frames) else None
    return None


def _grow_evenly(sizes: Sizes, lengths: Sequence[int]) -> bool:
    """Whether all sizes grow in proportion to the length, and some do."""
    first, *rest = (sizes(length) for length in lengths)
    if first is None or any(found is None or len(found) != len(first) for found in rest):
        return False
    growth = [[b - a for a, b in zip(first, found or (), strict=True)] for found in rest]
    unit = lengths[1] - lengths[0]
    more = [length - lengths[0] for length in lengths[1:]]
    even = all(
        n * unit == one * longer
        for longer, row in zip(more, growth, strict=True)
        for n, one in zip(row, growth[0], strict=True)
    )
    return even and any(growth[0])


def _between_changes(sizes: Sizes, length: int, longer: tuple[int, ...]) -> int | None:
    """After how many entries all sizes have changed that do so at all, from one change to the next.

    None where the model does not take all lengths.
    """
    periods = []
    for place, (a, b) in enumerate(zip(sizes(length) or (), longer, strict=True)):
        if a != b:
            first = _next_change(sizes, place, length)
            second = first and _next_change(sizes, place, first)
            if not first or not second:
                return None
            periods.append(second - first)
    return math.lcm(*periods)


def _in_proportion(sizes: Sizes, short: int, long: int) -> int:
    """The same where the model takes multiples alone, and `short` and `long` are some."""
    before, after = sizes(short) or (), sizes(long) or ()
    return math.lcm(*(Fraction(b - a, long - short).denominator for a, b in zip(before, after, strict=True)))


def _next_change(sizes: Sizes, place: int, length: int) -> int | None:
    """The least larger length at which a size is another; None where the model does not take all lengths."""

    def same(other: int) -> bool | None:
        found, now = sizes(other), sizes(length)
        return None if found is None or now is None or len(found) != len(now) else found[place] == now[place]

    low, high = length, length + 1
    while same(high):
        low, high = high, high + 2 * (high - length)
        if high > _LONGEST:
            return None
    while high - low > 1 and same(high) is not None:
        middle = (low + high) // 2
        low, high = (middle, high) if same(middle) else (low, middle)
    return high if same(high) is False else None


def _is_step(sizes: Sizes, length: int, frames: int) -> bool:
    first = max(2, length // frames)
    return 1 < frames <= _MOST and _grow_evenly(sizes, [frames * n for n in (first, first + 1, 2 * first + 1)])
