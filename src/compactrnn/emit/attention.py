"""Attention over all steps: scores of every two steps, their softmax, and what it weights.

A value with two axes of time is no row of a step. It is never in place: `Scores` says what its entries are, until they
weight values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.program import Attend, Binary, Code, Ref, Unary
from .builder import STEP, Builder, Operand
from .movement import Mover
from .pointwise import against, scale, select

MASKED = -1e4  # what is added to scores that do not count, or less
_NO_WEIGHT = -1e30  # a score beside which no other counts, nor changes it
_LOWEST = float(np.finfo(np.float32).min)
OTHER_MASK = "a mask with which other steps count than all of a sequence, or all up to and with that of the query"
FINITE = (
    "a mask that is computed from data beside one for the steps to come, of finite numbers, with which these count"
    " where the other leaves no step; expected -infinity, for the steps to come last"
)
CAN = (
    "an engine takes scores of every two steps as attention alone: products q k^T, moved, multiplied with a number and"
    " masked for the steps to come, then their softmax over the steps, then the product with v"
)


@dataclass(frozen=True)
class Scores:
    """Products of queries and keys of every two steps, a number for each head.

    `entries` says what lies where: of query t, key s and head h, (h steps + t) steps + s; -1 where it does not count.
    `queries` and `keys` have the vectors of all heads, one after the other, as rows of a step.
    """

    entries: np.ndarray
    queries: Operand
    keys: Operand
    heads: int
    steps: int
    scale: float = 1.0
    softmax: bool = False
    finite: bool = False  # entries that do not count have finite scores
    data_mask: bool = False  # of numbers that are computed from data
    biases: tuple[Operand | None, ...] = ()  # these, (heads, steps, 1), None for those of queries
    safe: bool = False  # where they leave no step the weights are zero

    @property
    def shape(self) -> tuple[int, ...]:
        """With both axes of time."""
        return self.entries.shape

    def moved(self, run: Callable[[np.ndarray], np.ndarray]) -> Scores:
        """Moved by `run`, which may only move entries."""
        return replace(self, entries=run(self.entries))

    def scaled(self, factor: float, where: str) -> Scores:
        """Times a number."""
        if self.softmax and factor != 1:
            raise refused(where)
        return replace(self, scale=self.scale * factor)

    def masked(self, counts: np.ndarray, where: str, low: float = -math.inf) -> Scores:
        """Without the entries for which `counts`, broadcast to all, is not true, as their score is `low` or less."""
        if self.softmax:
            raise refused(where)
        finite = self.finite or (low > -math.inf and not bool(counts.all()))
        return replace(self, entries=np.where(counts, self.entries, -1), finite=finite)

    def masked_by(self, mover: Mover, mask: Operand, low: float) -> Scores:
        """`low` for all scores of the keys, or of the queries, for which `mask`, computed from data, is not 0."""
        build = mover.builder
        if low > -math.inf and bool((self.entries < 0).any()):
            raise UnsupportedModelError(f"{build.where}: {FINITE}")
        side, here = self._of_heads(mover, mask)
        vectors = _by_head(getattr(self, side), self)
        wide = mover.spread(here, vectors.shape, 1)
        vectors = select(build, wide, _zeros(mover, vectors), vectors)
        added = select(build, here, mover.spread(_above(low / self.scale, low), here.shape, 1), _zeros(mover, here))
        return self._with(mover, side, vectors, added)

    def plus(self, mover: Mover, mask: Operand, sign: float) -> Scores:
        """With `sign` `mask`, a number for each key, or for each query, that is computed from data."""
        side, here = self._of_heads(mover, mask)
        added = scale(mover.builder, here, sign / self.scale)
        return self._with(mover, side, _by_head(getattr(self, side), self), added)

    def _with(self, mover: Mover, side: str, vectors: Operand, added: Operand) -> Scores:
        """With the numbers `added`, by the vectors `side`: these get them as one entry more, the others a 1."""
        other = {"keys": "queries", "queries": "keys"}[side]
        ones = _by_head(getattr(self, other), self)
        shape = (*ones.shape[:2], 1)
        joined = mover.move([vectors, added], lambda a: np.concatenate(a, -1), 1)
        filled = mover.move([ones, np.ones(())], lambda a: np.concatenate([a[0], np.broadcast_to(a[1], shape)], -1), 1)
        found = {side: mover.materialize(joined), other: mover.materialize(filled)}
        biases = (*self.biases, added if side == "keys" else None)
        return replace(self, queries=found["queries"], keys=found["keys"], data_mask=True, biases=biases)

    def _of_heads(self, mover: Mover, mask: Operand) -> tuple[str, Operand]:
        """Whether a mask is for "keys" or "queries", and its numbers, (heads, steps, 1)."""
        where = mover.builder.where
        missing = len(self.shape) - len(mask.shape)
        axes = {"keys": self._axis(1), "queries": self._axis(self.steps)}
        along = None if mask.time is None else mask.time + missing
        side = next((name for name, axis in axes.items() if axis == along and axis is not None), None)
        if self.softmax or self.scale <= 0 or missing < 0 or side is None or None in axes.values() or mask.rate > 1:
            raise refused(where)
        across = next(axis for name, axis in axes.items() if name != side)
        assert along is not None and across is not None
        wide = [1 if d == across else n for d, n in enumerate(self.shape)]
        heads = (self.entries.max((along, across)) // self.steps**2).ravel().tolist()
        fits = all(n in (1, m) for n, m in zip((1,) * missing + mask.shape, wide, strict=True))
        if not fits or mask.shape[along - missing] != self.steps or (mask.width > 1 and len(heads) != self.heads):
            raise refused(where)
        order = [heads.index(head) for head in range(self.heads)]

        def run(arrays: list[np.ndarray]) -> np.ndarray:
            whole = np.broadcast_to(arrays[0].reshape((1,) * missing + mask.shape), wide)
            return np.moveaxis(whole, (along, across), (-2, -1)).reshape(-1, self.steps, 1)[order]

        return side, mover.materialize(mover.move([mask], run, 1))

    def _axis(self, stride: int) -> int | None:
        """The axis along which the entries that count are so far apart."""
        for axis, size in enumerate(self.shape):
            lines = np.moveaxis(self.entries, axis, -1)
            both = (lines[..., 1:] >= 0) & (lines[..., :-1] >= 0)
            if size == self.steps and both.any() and bool((np.diff(lines)[both] == stride).all()):
                return axis
        return None

    def softmax_over(self, axis: int, where: str, safe: bool = False) -> Scores:
        """Their softmax along an axis, which is that of all keys; or of all queries, which then are the keys.

        It is zero, if it is `safe`, where all scores are -infinity, and NaN else.
        """
        rows = np.moveaxis(self.entries, axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        if self.softmax or rows.shape[1] != self.steps:
            raise refused(where)
        turned = not self._runs(rows % self.steps, rows // self.steps, rows < 0)
        if safe and self.data_mask and (turned or None in self.biases):
            raise UnsupportedModelError(
                f"{where}: gives zeros where a mask that is computed from data leaves no step, which is taken of masks"
                " of keys alone; write the attention out: q @ k.mT, masked_fill, softmax, @ v"
            )
        if not turned:
            return replace(self, softmax=True, safe=safe and self.data_mask)
        head, query, key = self._places(rows)
        if not self._runs(query, head * self.steps + key, rows < 0):
            raise refused(where)
        head, query, key = self._places(self.entries)
        swapped = np.where(self.entries < 0, -1, (head * self.steps + key) * self.steps + query)
        return replace(self, entries=swapped, queries=self.keys, keys=self.queries, softmax=True)

    def _places(self, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return entries // self.steps**2, entries // self.steps % self.steps, entries % self.steps

    def _runs(self, step: np.ndarray, rest: np.ndarray, out: np.ndarray) -> bool:
        """Whether `step` counts along the rows while `rest` stays as it is, but for what is left out."""
        some = np.take_along_axis(rest, (~out).argmax(1)[:, None], 1)
        return bool((out | ((step == np.arange(self.steps)) & (rest == some))).all())


def _by_head(x: Operand, of: Scores) -> Operand:
    """The vectors of all heads, (heads, steps, n)."""
    return replace(x, shape=(of.heads, of.steps, x.width // of.heads), time=1)


def _zeros(mover: Mover, like: Operand) -> Operand:
    return mover.spread_like(0.0, like)


def _above(low: float, given: float) -> float:
    """`low` as a float32 number, which is infinite only where `given` is."""
    return low if math.isinf(given) else max(low, _LOWEST)


def refused(where: str) -> UnsupportedModelError:
    """What else is done with scores."""
    return UnsupportedModelError(f"{where}: {CAN}")


def scores(mover: Mover, a: Operand, b: Operand) -> Scores:
    """The products of the rows of `a`, (..., time, n), with the columns of `b`, (..., n, time)."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    steps, n, heads = *a.shape[-2:], math.prod(batch)
    if mover.steps not in (None, steps):
        raise UnsupportedModelError(f"{mover.builder.where}: attends over fewer steps than the sequence has")
    entries = np.arange(heads * steps**2).reshape(*batch, steps, steps)
    shape = (*batch, steps, n)
    queries = mover.rearrange(a, lambda t: np.broadcast_to(t, shape), len(batch))
    keys = mover.rearrange(b, lambda t: np.broadcast_to(t.swapaxes(-1, -2), shape), len(batch))
    return Scores(entries, queries, keys, heads, steps)


def weighted(mover: Mover, a: Scores | Operand, b: Scores | Operand) -> Operand:
    """The product of weights, (..., query, key), and values, (..., time, n); or of values and weights, both turned.

    Raises:
        UnsupportedModelError: the weights are no softmax, or other steps count than all or those up to the query's.
    """
    where = mover.builder.where
    if isinstance(b, Scores):
        if isinstance(a, Scores):
            raise refused(where)
        turned = b.moved(lambda t: t.swapaxes(-1, -2))
        value = _swapped(mover, a)
        return _swapped(mover, weighted(mover, turned, value))
    assert isinstance(a, Scores) and isinstance(b, Operand)
    if not a.softmax or len(a.shape) < 2 or len(b.shape) < 2 or b.time != len(b.shape) - 2:
        raise refused(where)
    if a.data_mask and a.finite:
        raise UnsupportedModelError(f"{where}: {FINITE}")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    heads, fn = _heads(a, batch, where)
    n = b.shape[-1]
    values = mover.rearrange(b, lambda t: np.broadcast_to(t, (*batch, *b.shape[-2:])), len(batch))
    build, because = mover.builder, f"{where}: attention over all steps"
    if a.safe:  # zeros, and not NaN, where no step counts
        a, values = _safe(mover, a, values, heads)
    keys, values = _kept(build, a.keys), _kept(build, values)
    build.close(because)
    build.every_step([a.queries, keys, values], because)
    dst, k = build.buffer(len(heads) * n, "sequence"), a.queries.width // a.heads
    for i, head in enumerate(heads):
        places = {"a": _at(a.queries, head * k), "b": _at(keys, head * k), "c": _at(values, i * n)}
        build.emit(Code.ATTEND, _moved(dst, i * n), n, k=k, fn=int(fn), p0=a.scale, **places)
    result = replace(values, ref=dst, kind=STEP, segment=build.segment)
    build.close(because)  # what attends and does nothing else reads keys and values once for many steps
    return result


def _heads(weights: Scores, batch: tuple[int, ...], where: str) -> tuple[list[int], Attend]:
    """The head of each (query, key) that the product multiplies, and which steps count."""
    steps = weights.steps
    if weights.shape[-2:] != (steps, steps):
        raise refused(where)
    entries = np.broadcast_to(weights.entries, (*batch, steps, steps)).reshape(-1, steps, steps)
    heads = entries[:, 0, 0] // steps**2
    whole = heads[:, None, None] * steps**2 + np.arange(steps**2).reshape(steps, steps)
    if np.array_equal(entries, whole):
        return heads.tolist(), Attend.ALL
    if np.array_equal(entries, np.where(np.tri(steps, dtype=bool), whole, -1)):
        return heads.tolist(), Attend.CAUSAL
    if bool((entries < 0).any()):
        raise UnsupportedModelError(f"{where}: {OTHER_MASK}")
    raise refused(where)


def _safe(mover: Mover, a: Scores, values: Operand, heads: list[int]) -> tuple[Scores, Operand]:
    """The same with scores that are finite, and values of zero where they were -infinity.

    Such a step has no weight beside others; where there are no others, they all have the same.
    """
    build = mover.builder
    for bias in a.biases:
        assert bias is not None
        out = against(build, Binary.EQUAL, bias, -math.inf)
        shape = (len(heads), a.steps, values.shape[-1])
        wide = mover.rearrange(out, lambda t, shape=shape: np.broadcast_to(t[heads], shape), 1)
        of_heads = replace(values, shape=shape, time=1)
        chosen = select(build, wide, _zeros(mover, of_heads), of_heads)
        values = replace(chosen, shape=values.shape, time=values.time)
    keys = build.binary(Binary.MAX, a.keys, build.constant(np.array([_NO_WEIGHT])), period=1)
    return replace(a, keys=keys), values


def _swapped(mover: Mover, x: Operand) -> Operand:
    last = len(x.shape) - 1
    if last < 1:
        raise refused(mover.builder.where)
    time = None if x.time is None else {last: last - 1, last - 1: last}.get(x.time, x.time)
    return mover.rearrange(x, lambda t: t.swapaxes(-1, -2), time)


def _kept(build: Builder, x: Operand) -> Operand:
    """`x` as a row of every step."""
    if x.kind == STEP:
        return x
    build.every_step([x])
    dst = build.buffer(x.width)
    build.emit(Code.UNARY, dst, x.width, a=x.ref, fn=int(Unary.COPY))
    return replace(x, ref=dst, kind=STEP, segment=build.segment)


def _at(x: Operand, offset: int) -> Ref:
    return _moved(x.ref, offset)


def _moved(ref: Ref, offset: int) -> Ref:
    return Ref(ref.buffer, ref.offset + offset)


def counting(mask: np.ndarray) -> np.ndarray | None:
    """Which entries count where `mask` is added to scores; None where it does more than that."""
    out = mask <= MASKED
    return ~out if bool((out | (mask == 0)).all()) else None


def highest(mask: np.ndarray, counts: np.ndarray) -> float:
    """The largest number that is added to scores that do not count."""
    return float(np.max(mask, where=~counts, initial=-np.inf))


def pattern(counts: np.ndarray) -> str:
    """Of which steps of queries and keys, the last two axes: "all", "lower" triangle, "upper" or "other"."""
    steps = counts.shape[-1]
    triangle = np.tri(steps, dtype=bool)
    if bool(counts.all()):
        return "all"
    if counts.ndim < 2 or counts.shape[-2] != steps:
        return "other"
    found = {"lower": triangle, "upper": triangle.T}
    return next((name for name, mask in found.items() if bool((counts == mask).all())), "other")


def check_mask(counts: np.ndarray, longer: np.ndarray | None, where: str) -> None:
    """Raise an error unless a mask, and the same of a much longer sequence, is for all steps or those to come."""
    found = pattern(counts)
    if found == "other" or longer is None or pattern(longer) != found:
        raise UnsupportedModelError(f"{where}: {OTHER_MASK}")
