"""Who is faster: contenders take turns in one process, on one thread."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from .base import AbstractContender

TURN = 0.03  # seconds of back-to-back calls in a turn
COLD_CALLS = 2  # calls with cold caches in a turn
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Timing:
    """Microseconds a call, in each turn.

    >>> Timing((4.0, 1.0, 2.0)).as_dict()
    {'median': 2.0, 'lower_quartile': 1.5, 'upper_quartile': 3.0, 'best': 1.0}
    """

    turns: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.turns))

    def as_dict(self) -> dict[str, float]:
        """Median, quartiles and best, to four digits."""
        lower, median, upper = np.quantile(self.turns, [0.25, 0.5, 0.75]).tolist()
        found = {"median": median, "lower_quartile": lower, "upper_quartile": upper, "best": min(self.turns)}
        return {name: float(f"{value:.4g}") for name, value in found.items()}

    def times(self, other: Timing) -> float:
        """How many times as long as `other` this takes: the median of the ratios within a round, to three digits.

        A machine that is slower for a while is slower for both.
        """
        return float(f"{np.median(np.divide(self.turns, other.turns)):.3g}")


def distance(got: np.ndarray, wanted: np.ndarray, precision: str) -> float:
    """How far answers are from float32: relative for float32, 1 - cosine for less; `ValueError` beyond 1e-3 or 0.02.

    >>> distance(np.array([1.0, 2.0]), np.array([1.0, 1.9]), "int8") < 0.001
    True
    >>> distance(np.array([1.0, 2.0]), np.array([1.0, 1.9]), "float32")
    Traceback (most recent call last):
    ValueError: wrong answers: 0.053 away from float32, expected at most 0.001
    """
    if got.shape != wanted.shape or not np.isfinite(got).all():
        raise ValueError(f"wrong answers: expected {wanted.shape}, all finite, got shape {got.shape}")
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    if precision == "float32":
        found, bound = float(np.abs(got - wanted).max() / np.abs(wanted).max()), 1e-3
    else:
        found, bound = 1 - float((got * wanted).sum() / np.sqrt((got**2).sum() * (wanted**2).sum())), 0.02
    if not found <= bound:
        raise ValueError(f"wrong answers: {found:.2g} away from float32, expected at most {bound}")
    return found


def answers_of(contender: AbstractContender, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What a contender gives for successive calls, (time, size)."""
    contender.activate()
    contender.reset()
    return np.concatenate([contender.to_numpy(contender.feed(contender.prepare(given))) for given in inputs])


def race(
    contenders: Mapping[str, AbstractContender],
    inputs: Sequence[np.ndarray],
    *,
    rounds: int,
    cold: bool = False,
    after_turn: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Timing]]:
    """Times of a call: contender -> `hot` (back to back), `cold` (caches thrown out before), and its further seconds.

    In each of `rounds` every contender has a turn of about 30 ms; the `inputs` are the calls, repeated as often as
    the turn is long, one at least. Before them a few calls warm up and find out how many that is.
    """
    evict = _cache_thrower() if cold else None
    turns = {name: _Turn(contender, inputs) for name, contender in contenders.items()}
    with _no_garbage_collection():
        for _ in range(rounds):
            for turn in turns.values():
                turn.take(evict)
                after_turn()
    return {
        name: {kind: Timing(tuple(1e6 * value for value in values)) for kind, values in turn.taken.items()}
        for name, turn in turns.items()
    }


class _Turn:
    """One contender's turns and the seconds they took, by kind."""

    def __init__(self, contender: AbstractContender, inputs: Sequence[np.ndarray]):
        self.contender, self.first = contender, inputs[0]
        self.taken: dict[str, list[float]] = {}
        contender.activate()
        contender.reset()
        prepared = [contender.prepare(given) for given in inputs]
        contender.feed(prepared[0])
        once = min(_seconds(contender.feed, [given]) for given in islice(cycle(prepared), 3))
        self.calls = min(max(1, int(TURN / once)), 100_000)
        self.prepared: list[Any] = list(islice(cycle(prepared), self.calls))

    def take(self, evict: Callable[[], Any] | None) -> None:
        contender, feed = self.contender, self.contender.feed
        contender.activate()
        contender.reset()
        if self.calls > 1:
            feed(self.prepared[0])
        self._note("hot", _seconds(feed, self.prepared) / self.calls)
        for kind, seconds in contender.further_seconds(self.first, self.calls).items():
            self._note(kind, seconds)
        if evict is not None:
            for given in islice(cycle(self.prepared), min(COLD_CALLS, self.calls)):
                evict()
                self._note("cold", _seconds(feed, [given]))

    def _note(self, kind: str, seconds: float) -> None:
        self.taken.setdefault(kind, []).append(seconds)


@contextmanager
def one_core() -> Iterator[int | None]:
    """This thread, and those it starts, on the first core that it may use; gives the core's number, if there is one."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield min(before)
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _seconds(feed: Callable[[Any], Any], inputs: Sequence[Any]) -> float:
    start = time.perf_counter()
    for given in inputs:
        feed(given)
    return time.perf_counter() - start


def _cache_thrower() -> Callable[[], Any]:
    """Reads twice as much as the largest cache holds."""
    sizes = [path.read_text().strip() for path in _CACHES.glob("index*/size")] if _CACHES.exists() else []
    largest = max([int(text[:-1]) << 10 for text in sizes if text.endswith("K")], default=0)
    return np.ones(max(2 * largest, 64 << 20) // 8).sum
