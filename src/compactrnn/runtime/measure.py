"""Error of a program's outputs on calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .engine import Engine
from .file import encode
from .hoist import hoist
from .program import Program

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Difference:
    """Of two lists of outputs: the relative root mean square error and the cosine.

    Of several outputs the worst of each counts. Equal infinities and NaN at the same place are no error; of others the
    error is infinite. `by_sequence` has the squared error of each sequence, each output relative to its own power.
    """

    error: float
    cosine: float
    by_sequence: np.ndarray


def compare(wanted: Sequence[Sequence[np.ndarray]], got: Sequence[Sequence[np.ndarray]]) -> Difference:
    """The difference of `got` from `wanted`: for each sequence its outputs.

    >>> compare([[np.array([3.0, 4.0])]], [[np.array([3.0, 4.5])]]).error
    0.1
    """
    sums = np.array([[_sums(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(wanted, got, strict=True)])
    if not sums.size:
        return Difference(0.0, 1.0, np.zeros(len(wanted)))
    error, power, other, product = sums.sum(axis=0).T  # of each output
    power = np.maximum(power, _TINY)
    cosine = product / np.sqrt(power) / np.sqrt(np.maximum(other, _TINY))
    cosine[(other == 0) & (error == 0)] = 1.0
    by_sequence = (sums[:, :, 0] / power).sum(axis=1)
    return Difference(float(np.sqrt((error / power).max())), float(cosine.min()), by_sequence)


def _sums(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    """The squared error, the squares of both, and their product."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    whole = np.isfinite(a) & np.isfinite(b)
    if not bool((whole | (a == b) | (np.isnan(a) & np.isnan(b))).all()):
        return np.inf, 0.0, 0.0, 0.0
    a, b = np.where(whole, a, 0.0), np.where(whole, b, 0.0)
    return tuple(float((x * y).sum()) for x, y in ((a - b, a - b), (a, a), (b, b), (a, b)))  # pyright: ignore


class Measure:
    """The error of programs on sequences, given as `Engine.run` takes them, with the outputs that are `wanted`."""

    def __init__(self, inputs: Sequence[Any], wanted: Sequence[Sequence[np.ndarray]]):
        self.inputs, self.wanted = list(inputs), list(wanted)

    def difference(self, program: Program) -> Difference:
        """Error of the program's outputs against the reference."""
        return compare(self.wanted, run(program, self.inputs))

    def without_numbers(self) -> list[int]:
        """The outputs that are wanted to be NaN or infinite throughout, of which no error can be told."""
        numbers = [[bool(np.isfinite(y).any()) or not y.size for y in ys] for ys in self.wanted]
        return [] if not numbers else np.flatnonzero(~np.any(numbers, axis=0)).tolist()

    def hardest(self, program: Program, difference: Difference, steps: int) -> Measure:
        """The sequences with the largest errors, of at most `steps` steps in all, but at least one sequence."""
        order = np.argsort(-difference.by_sequence, kind="stable")
        lengths = [_steps(program, self.inputs[i]) for i in order]
        count = max(1, int(np.searchsorted(np.cumsum(lengths), steps, side="right")))
        return Measure([self.inputs[i] for i in order[:count]], [self.wanted[i] for i in order[:count]])


def run(program: Program, inputs: Sequence[Any]) -> list[list[np.ndarray]]:
    """The outputs of the program for each sequence."""
    engine = Engine(encode(hoist(program)))
    results = (engine.run(xs) for xs in inputs)
    return [list(y) if isinstance(y, tuple) else [y] for y in results]


def _steps(program: Program, xs: Any) -> int:
    given = xs if isinstance(xs, tuple) else (xs,)
    return next(len(x) for port, x in zip(program.inputs, given, strict=True) if not port.once)
