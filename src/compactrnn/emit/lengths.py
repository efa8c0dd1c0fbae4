"""Programs for any sequence length, from programs for two lengths that must agree."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

import numpy as np

from .._errors import UnsupportedModelError
from .builder import Builder
from .plan import UndecidedError

FEWEST, MOST = 17, 1151  # steps of the sequences on which it is told how far back a model looks: 17, 35, 71, ...
SHORT = tuple((FEWEST + 1 << n) - 1 for n in range(5))  # of which the first is taken that leaves a model any steps


def for_any_length(
    build: Callable[[int], Builder], model: str, fewest: int = FEWEST, most: int | None = None
) -> Builder:
    """The program of `build(steps)`, checked to be the same for a short and a long sequence.

    The sequences get longer, from `fewest` on, until both show how far back each operation looks. `model` is what
    messages name; it takes at most so many steps, where it does not take any number.

    Raises:
        UnsupportedModelError: the program depends on the length of the sequence, or looks back further than `MOST`.
    """
    steps = fewest
    while True:
        last = most is not None and 2 * steps + 4 > most
        try:
            short, long = (build(n) for n in (steps, _second(steps, most)))
            where = difference(short, long)
            if where is None:
                return short
            if last or 8 * steps > MOST:
                raise UnsupportedModelError(
                    f"{where or model}: depends on the length of the sequence, as `x * (x.shape[1] % 2)` or"
                    " `x[:, x.shape[1] // 2]` do; an engine takes sequences of any length"
                )
        except UndecidedError:
            if last or steps >= MOST:
                raise
        steps = 2 * steps + 1


def _second(steps: int, most: int | None) -> int:
    """A second length, about three times the first, or less than `most`.

    It is a prime number of steps longer, so that the two have other remainders, and long enough for what shows in
    neither 17 nor 18 steps.
    """
    apart = 2 * steps + 2
    for n in (*range(apart, 2 * apart), *range(apart, 0, -1)):
        if n != 2 and all(n % m for m in range(2, n)) and (most is None or steps + n < most):
            return steps + n
    return steps + 1


def difference(a: Builder, b: Builder) -> str | None:
    """Origin of the first difference between two programs; None if they are equal."""
    for number, (p, q) in enumerate(zip_longest(a.program.buffers, b.program.buffers)):
        if p is None or q is None or (p.width, p.kind) != (q.width, q.kind) or not _equal(p.init, q.init):
            return (a.origins if p is not None else b.origins)[number]
    p, q = a.finish(), b.finish()
    for x, y in zip_longest(p.ops, q.ops):
        if x is None or x != y:
            return a.origins[(x or y).dst.buffer]
    same = [t.form for t in p.tensors] == [t.form for t in q.tensors]
    same = same and all(map(_equal, *([t.values for t in z.tensors] for z in (p, q))))
    return None if same and p.outputs == q.outputs else ""


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
