"""Who is faster: contenders take turns in one process, on one thread."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


class AbstractContender(ABC):
    """One way to run a language model, its state carried from call to call."""

    name: str
    exact: bool = True

    @abstractmethod
    def prepare(self, tokens: np.ndarray) -> Any:
        """Tokens, (time,), in the form that `feed` takes; not timed."""

    @abstractmethod
    def feed(self, prepared: Any) -> Any:
        """The logits of the next tokens; timed."""

    @abstractmethod
    def reset(self) -> None:
        """Start from zero states."""

    def activate(self) -> None:
        """Called before each turn; not timed."""
        return None

    def to_numpy(self, output: Any) -> np.ndarray:
        """Logits as (time, symbols)."""
        return np.asarray(output)


@dataclass(frozen=True)
class Timing:
    """Microseconds per token: median, quartiles and best of the rounds."""

    median: float
    lower_quartile: float
    upper_quartile: float
    best: float

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def check_answers(
    contenders: Iterable[AbstractContender], truth: AbstractContender, tokens: np.ndarray
) -> dict[str, float]:
    """Each contender's distance to `truth` on `tokens`: relative for exact ones, 1 - cosine for quantised ones.

    A contender that gives other answers (above 1e-3, or 0.02) is not worth timing: `ValueError`.
    """
    wanted = _answers(truth, tokens)
    distances = {}
    for contender in contenders:
        got = _answers(contender, tokens)
        if got.shape != wanted.shape or not np.isfinite(got).all():
            raise ValueError(f"{contender.name}: got answers of shape {got.shape}, wanted {wanted.shape}, all finite")
        if contender.exact:
            distance, bound = float(np.abs(got - wanted).max() / np.abs(wanted).max()), 1e-3
        else:
            cosine = float((got * wanted).sum() / np.sqrt((got**2).sum() * (wanted**2).sum()))
            distance, bound = 1 - cosine, 0.02
        if distance > bound:
            raise ValueError(f"{contender.name}: got answers {distance:.2g} away from float32, wanted at most {bound}")
        distances[contender.name] = distance
    return distances


def race(
    contenders: Sequence[AbstractContender], tokens: np.ndarray, *, steps: int = 1, rounds: int = 15
) -> dict[str, Timing]:
    """Microseconds per token when `tokens` come `steps` at a time; the contenders alternate in each of `rounds`."""
    tokens = tokens[: len(tokens) // steps * steps]
    prepared = {
        c.name: [c.prepare(chunk) for chunk in tokens.reshape(-1, steps, *tokens.shape[1:])] for c in contenders
    }
    taken: dict[str, list[float]] = {c.name: [] for c in contenders}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            for contender in contenders:
                seconds = _turn(contender, prepared[contender.name])
                if number:
                    taken[contender.name].append(seconds / len(tokens) * 1e6)
    finally:
        gc.enable()
    return {name: _timing(values) for name, values in taken.items()}


def _turn(contender: AbstractContender, inputs: list[Any]) -> float:
    contender.activate()
    contender.reset()
    feed = contender.feed
    start = time.perf_counter()
    for given in inputs:
        feed(given)
    return time.perf_counter() - start


def _timing(values: list[float]) -> Timing:
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Timing(median, lower, upper, min(values))


def _answers(contender: AbstractContender, tokens: np.ndarray) -> np.ndarray:
    contender.activate()
    contender.reset()
    outputs = [contender.to_numpy(contender.feed(contender.prepare(tokens[i : i + 1]))) for i in range(len(tokens))]
    return np.concatenate([o.reshape(1, -1) for o in outputs]).astype(np.float64)
