"""Products with matrices, convolutions over time, tables, and products of two values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.program import Binary, Code, Reduce, Ref, Unary
from .address import LazyView
from .attention import CAN, Scores, scores
from .builder import Builder, Operand
from .factor import Factor, Structured, factor_name, stored
from .movement import Mover
from .reductions import reduce

_LARGEST = 1 << 16  # numbers that a product of two values is laid out in
_MOST_TOKENS = 256  # that are looked up at a step


def linear(
    build: Builder, x: Operand, factors: Sequence[Factor], bias: np.ndarray | Ref | None = None, name: str = ""
) -> Operand:
    """`bias + F1 F2 ... x` for every vector along the last axis.

    Args:
        build: what to write to.
        x: (..., n), n the columns of the last factor.
        factors: matrices, (rows, columns) each; one is the usual case.
        bias: (rows of the first factor,), also as the place of a constant.
        name: of the matrix in the model.

    Raises:
        UnsupportedModelError: the last axis is time.
    """
    init = build.constant(bias) if isinstance(bias, np.ndarray) else bias
    if x.time == len(x.shape) - 1:
        raise UnsupportedModelError(f"{build.where}: multiplies along the time axis")
    inner, outer = factors[-1].shape[1], factors[0].shape[0]
    count = x.width // inner
    kind = build.place([x])
    if count > 1 and all(_has_rows_product(factor) for factor in factors):
        for number, factor in reversed(list(enumerate(factors))):
            assert not isinstance(factor, Structured)
            ref = build.windows(factor, x, count, factor_name(name, number, len(factors)))
            x = Operand(ref, (*x.shape[:-1], factor.shape[0]), x.time, kind, build.segment, rate=x.rate)
        return x if init is None else add_rows(build, x, init)
    rows = []
    for i in range(count):
        row = replace(x, ref=Ref(x.ref.buffer, x.ref.offset + i * inner), shape=(inner,), time=None)
        rows.append(build.chain(factors, row, init, name))
    shape = (*x.shape[:-1], outer)
    if count == 1:
        return Operand(rows[0], shape, x.time, kind, build.segment, rate=x.rate)
    dst = build.buffer(count * outer)
    for i, row in enumerate(rows):
        build.emit(Code.UNARY, Ref(dst.buffer, i * outer), outer, a=row, fn=int(Unary.COPY))
    return Operand(dst, shape, x.time, kind, build.segment, rate=x.rate)


def _has_rows_product(factor: Factor) -> bool:
    """Whether the vectors of a step are multiplied in one operation."""
    return not isinstance(factor, Structured) and stored(factor).form is None


def add_rows(build: Builder, x: Operand, bias: Ref) -> Operand:
    """`x` with a bias added to every vector along its last axis, in the place of `x`."""
    build.emit(Code.BINARY, x.ref, x.width, a=x.ref, b=bias, fn=int(Binary.ADD), k=x.shape[-1])
    return x


def over_windows(mover: Mover, rows: LazyView, weight: np.ndarray, bias: np.ndarray | None, name: str) -> Operand:
    """`bias + W x` for each row x of `rows`, (..., columns), moved entries that are read nowhere else.

    Where rows are windows of one vector that overlap, as those of a convolution, only this vector is put in place. They
    may be so in another order of the columns.
    """
    count, columns = math.prod(rows.shape[:-1]), weight.shape[1]
    if rows.time is not None or count < 2:
        x = mover.materialize(rows, passing=True)
        return linear(mover.builder, x, [weight], bias, name)
    flat = rows.address.reshape(count, columns)
    step, order = _step(flat), _sliding(flat[count // 2 - 1], flat[count // 2])
    if (other := _step(flat[:, order])) < step:
        step, flat, weight = other, flat[:, order], weight[:, order]
    whole = np.concatenate([flat[0], flat[1:, columns - step :].ravel()])
    x = mover.materialize(LazyView(rows.operands, whole, None, rows.where), passing=True)
    kind = mover.builder.place([x])
    ref = mover.builder.windows(weight, x, count, name)
    y = Operand(ref, (*rows.shape[:-1], len(weight)), None, kind, mover.builder.segment)
    return y if bias is None else add_rows(mover.builder, y, mover.builder.constant(bias))


def _sliding(row: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The columns in the order in which a window leaves them behind: first those that `after` does not have."""
    place = {entry: column for column, entry in enumerate(after.tolist())}
    moved = {place[entry]: column for column, entry in enumerate(row.tolist()) if entry in place}
    level = [column for column, entry in enumerate(row.tolist()) if entry not in place]
    order = []
    while level:
        order += level
        level = [moved[column] for column in level if column in moved]
    return np.array(order) if len(set(order)) == len(order) == len(row) else np.arange(len(row))


def _step(rows: np.ndarray) -> int:
    """How far each of these rows is from the next one in the shortest vector that has all of them as windows."""
    columns = rows.shape[1]
    return next(s for s in range(1, columns + 1) if np.array_equal(rows[:-1, s:], rows[1:, : columns - s]))


def depthwise(
    build: Builder, x: Operand, shape: tuple[int, ...], time: int | None, taps: np.ndarray, init: Operand | None
) -> Operand:
    """`init` + the sum over t of taps[t] x_t, numbers of `shape` whose last axis is the channels.

    Args:
        build: what to write to.
        x: the vectors x_t, which may overlap: they begin at equal distances, the first with `x`; the last ends with it.
        shape: of the result, whose time axis is `time`.
        taps: (taps, channels), the weights.
        init: of `shape`.
    """
    like = replace(x, shape=shape, time=time)  # of the rate of x
    reads, init_ref = ([x], None) if init is None else ([x, init], init.ref)
    tensor = build.tensor(taps, block=1)
    return build.compute(Code.DEPTHWISE, reads, like, a=x.ref, b=init_ref, k=x.width, tensor=tensor)


def lookup(build: Builder, token: Operand, table: np.ndarray, name: str = "") -> Operand | None:
    """Embedding: the row of `table`, (vocabulary, n), for each token, of which a step may have several; None of many.

    An input that is one token a step has a vocabulary, which an engine checks. Where tokens are some of the numbers of
    an input, one that is in no row makes the rows of its step NaN.
    """
    if token.width > _MOST_TOKENS:
        return None
    kind, (vocabulary, n) = build.place([token]), table.shape
    dst, tensor = build.buffer(token.width * n), build.tensor(table)
    for i in range(token.width):
        place = Ref(token.ref.buffer, token.ref.offset + i)
        build.emit(Code.EMBED, Ref(dst.buffer, dst.offset + i * n), n, a=place, tensor=tensor, name=name)
    for i, given in enumerate(build.program.inputs):
        if given.buffer == token.ref.buffer and math.prod(given.shape) == 1:
            known = min(given.vocabulary or vocabulary, vocabulary)
            build.program.inputs[i] = replace(given, shape=(), vocabulary=known)
        elif given.buffer == token.ref.buffer:
            unknown = _unknown(build, token, vocabulary)
            build.emit(Code.BINARY, dst, token.width * n, a=dst, b=unknown.ref, fn=int(Binary.ADD), k=1)
    return Operand(dst, (*token.shape, n), token.time, kind, build.segment, rate=token.rate)


def _unknown(build: Builder, tokens: Operand, vocabulary: int) -> Operand:
    """Minus zero at steps all of whose tokens are below `vocabulary`, else NaN."""
    known = build.unary(Unary.CLAMP, tokens, 0.0, float(vocabulary - 1))
    wrong = build.binary(Binary.NOT_EQUAL, tokens, known)
    count = build.compute(Code.REDUCE, [wrong], wrong, width=1, a=wrong.ref, k=wrong.width, fn=int(Reduce.SUM))
    steps = 1 if wrong.time is None else wrong.shape[wrong.time] // wrong.rate
    count = replace(count, shape=(steps, 1), time=None if wrong.time is None else 0, rate=1)
    return build.unary(Unary.SQRT, build.unary(Unary.SCALE_SHIFT, count, -1.0, 0.0))


def turned(mover: Mover, x: Operand) -> Operand:
    """Transpose of the last two axes."""
    last = len(x.shape) - 1
    time = {last: last - 1, last - 1: last}.get(x.time, x.time) if x.time is not None else None
    return mover.rearrange(x, lambda t: t.swapaxes(-1, -2), time)


def matmul(mover: Mover, a: Operand | np.ndarray, b: Operand | np.ndarray) -> Operand | Scores:
    """The matrix product of two values, of which one may be constant: over the features of a step, or over time.

    Every product of entries is laid out as (..., n, m, k), then summed over k; those of every two steps are `Scores`.

    Raises:
        UnsupportedModelError: there are too many products, or those of every two steps are no scores.
    """
    left = list(a.shape) if len(a.shape) > 1 else [1, *a.shape]
    right = list(b.shape) if len(b.shape) > 1 else [*b.shape, 1]
    batch = list(np.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2])))
    full = (*batch, left[-2], right[-1], left[-1])

    def rows(t: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.expand_dims(t.reshape(left), -2), full)

    def columns(t: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.expand_dims(t.reshape(right).swapaxes(-1, -2), -3), full)

    times = time_after(a, rows), time_after(b, columns)
    found = {t for t in times if t is not None}
    if times == (len(batch), len(batch) + 1) and isinstance(a, Operand) and isinstance(b, Operand):
        return scores(mover, a, b)
    if len(found) > 1:
        raise UnsupportedModelError(f"{mover.builder.where}: multiplies every time step with every other; {CAN}")
    time = found.pop() if found else None
    if math.prod(n for d, n in enumerate(full) if d != time) > _LARGEST:
        raise UnsupportedModelError(
            f"{mover.builder.where}: a product of {tuple(a.shape)} and {tuple(b.shape)} is too large"
        )
    x, y = mover.rearrange(a, rows, time), mover.rearrange(b, columns, time)
    product = mover.builder.binary(Binary.MUL, x, y)
    summed = reduce(mover, replace(product, shape=full, time=time), [len(full) - 1], "sum")
    # a vector has no axis of rows or columns
    dropped = [len(batch)] * (len(a.shape) == 1) + [len(batch) + 1] * (len(b.shape) == 1)
    kept = [d for d in range(len(summed.shape)) if d not in dropped]
    time = kept.index(summed.time) if summed.time is not None else None
    return replace(summed, shape=tuple(summed.shape[d] for d in kept), time=time)


def time_after(x: Operand | np.ndarray, move: Callable[[np.ndarray], np.ndarray]) -> int | None:
    """Where the time axis of `x` is after `move`."""
    if not isinstance(x, Operand) or x.time is None:
        return None
    step = np.arange(x.shape[x.time]).reshape([-1 if d == x.time else 1 for d in range(len(x.shape))])
    moved = move(np.broadcast_to(step, x.shape))
    return next((d for d, n in enumerate(moved.shape) if n > 1 and (moved.take(0, d) != moved.take(1, d)).any()), None)
