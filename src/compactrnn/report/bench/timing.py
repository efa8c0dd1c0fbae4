"""Interleaved timing of runners in one process, on one thread."""

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

from .base import AbstractRunner

REPETITION = 0.03  # seconds of back-to-back calls in a repetition
COLD_CALLS = 2  # calls with cold caches in a repetition
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Timing:
    """Microseconds per call, one figure for each repetition.

    >>> Timing((4.0, 1.0, 2.0)).as_dict()
    {'median': 2.0, 'lower_quartile': 1.5, 'upper_quartile': 3.0, 'best': 1.0}
    """

    repetitions: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.repetitions))

    def as_dict(self) -> dict[str, float]:
        """Median, quartiles and best, to four digits."""
        lower, median, upper = np.quantile(self.repetitions, [0.25, 0.5, 0.75]).tolist()
        found = {"median": median, "lower_quartile": lower, "upper_quartile": upper, "best": min(self.repetitions)}
        return {name: float(f"{value:.4g}") for name, value in found.items()}

    def times(self, other: Timing) -> float:
        """Ratio of this time to `other`'s: the median of the ratios within a round, to three digits.

        A machine that is slower for a while is slower for both.
        """
        return float(f"{np.median(np.divide(self.repetitions, other.repetitions)):.3g}")


def distance(got: np.ndarray, wanted: np.ndarray, precision: str) -> float:
    """Error against float32: relative for float32, 1 - cosine below; `ValueError` beyond 1e-3 or 0.02.

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


def answers_of(runner: AbstractRunner, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Outputs of a runner for successive calls, (time, size)."""
    runner.activate()
    runner.reset()
    return np.concatenate([runner.to_numpy(runner.feed(runner.prepare(given))) for given in inputs])


def time_interleaved(
    runners: Mapping[str, AbstractRunner],
    inputs: Sequence[np.ndarray],
    *,
    rounds: int,
    cold: bool = False,
    after_repetition: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Timing]]:
    """Times of a call: runner -> `hot` (back to back), `cold` (caches evicted before each call), and its further times.

    In each of `rounds` every runner has a repetition of about 30 ms; the `inputs` are the calls, repeated as often as
    the repetition is long, one at least. Before them a few calls warm up and find out how many that is.
    """
    evict = _cache_evictor() if cold else None
    repetitions = {name: _Repetitions(runner, inputs) for name, runner in runners.items()}
    with _no_garbage_collection():
        for _ in range(rounds):
            for repetition in repetitions.values():
                repetition.take(evict)
                after_repetition()
    return {
        name: {kind: Timing(tuple(1e6 * value for value in values)) for kind, values in repetition.taken.items()}
        for name, repetition in repetitions.items()
    }


class _Repetitions:
    """The repetitions of one runner and their times, by kind."""

    def __init__(self, runner: AbstractRunner, inputs: Sequence[np.ndarray]):
        self.runner, self.first = runner, inputs[0]
        self.taken: dict[str, list[float]] = {}
        runner.activate()
        runner.reset()
        prepared = [runner.prepare(given) for given in inputs]
        runner.feed(prepared[0])
        once = min(_seconds(runner.feed, [given]) for given in islice(cycle(prepared), 3))
        self.calls = min(max(1, int(REPETITION / once)), 100_000)
        self.prepared: list[Any] = list(islice(cycle(prepared), self.calls))

    def take(self, evict: Callable[[], Any] | None) -> None:
        runner, feed = self.runner, self.runner.feed
        runner.activate()
        runner.reset()
        if self.calls > 1:
            feed(self.prepared[0])
        self._note("hot", _seconds(feed, self.prepared) / self.calls)
        for kind, seconds in runner.further_seconds(self.first, self.calls).items():
            self._note(kind, seconds)
        if evict is not None:
            for given in islice(cycle(self.prepared), min(COLD_CALLS, self.calls)):
                evict()
                self._note("cold", _seconds(feed, [given]))

    def _note(self, kind: str, seconds: float) -> None:
        self.taken.setdefault(kind, []).append(seconds)


@contextmanager
def one_core() -> Iterator[int | None]:
    """Pin this thread, and those it starts, to the first allowed core; yields its number, or None."""
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


def _cache_evictor() -> Callable[[], Any]:
    """Evicts the caches: reads twice the size of the largest."""
    sizes = [path.read_text().strip() for path in _CACHES.glob("index*/size")] if _CACHES.exists() else []
    largest = max([int(text[:-1]) << 10 for text in sizes if text.endswith("K")], default=0)
    return np.ones(max(2 * largest, 64 << 20) // 8).sum
