"""Element-wise functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .._activations import ACTIVATIONS
from .._activations import power as _simple_power
from ..runtime.program import Binary, Code, Unary
from .address import Source
from .builder import Builder, Operand
from .movement import Mover


def scale(b: Builder, x: Operand, factor: float, shift: float = 0.0) -> Operand:
    """`factor x + shift`."""
    return b.unary(Unary.SCALE_SHIFT, x, factor, shift, bounded=x.bounded and abs(factor) + abs(shift) <= 1)


def clamp(b: Builder, x: Operand, low: float | None, high: float | None) -> Operand:
    """`x` clamped to [low, high]."""
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return b.unary(Unary.CLAMP, x, low, high, bounded=x.bounded or (low >= -1 and high <= 1))


def unary(b: Builder, fn: Unary, x: Operand) -> Operand:
    """A function of the core without parameters."""
    return b.unary(fn, x, bounded=fn.bounded or (fn == Unary.ABS and x.bounded))


class _Emitted:
    """`compactrnn._activations.Arithmetic` of operands."""

    def __init__(self, builder: Builder):
        self.builder = builder

    def unary(self, name: str, x: Operand) -> Operand:
        return unary(self.builder, Unary[name.upper()], x)

    def affine(self, x: Operand, factor: float, shift: float = 0.0) -> Operand:
        return scale(self.builder, x, factor, shift)

    def above(self, x: Operand) -> Operand:
        return clamp(self.builder, x, 0, None)

    def below(self, x: Operand) -> Operand:
        return clamp(self.builder, x, None, 0)

    def clamp(self, x: Operand, low: float | None, high: float | None) -> Operand:
        return clamp(self.builder, x, low, high)

    def add(self, x: Operand, y: Operand) -> Operand:
        return self.builder.binary(Binary.ADD, x, y)

    def sub(self, x: Operand, y: Operand) -> Operand:
        return self.builder.binary(Binary.SUB, x, y)

    def mul(self, x: Operand, y: Operand) -> Operand:
        return self.builder.binary(Binary.MUL, x, y)


def power(b: Builder, x: Operand, exponent: float) -> Operand | None:
    """x^exponent; of a negative x only for whole exponents, else NaN."""
    if exponent == 0:
        return b.binary(Binary.MAX, b.binary(Binary.EQUAL, x, x), b.binary(Binary.NOT_EQUAL, x, x))
    if math.isfinite(exponent) and exponent != int(exponent) and abs(exponent) != 0.5:
        return b.unary(Unary.EXP, scale(b, b.unary(Unary.LOG, x), float(exponent)))
    return _simple_power(_Emitted(b), x, exponent)


def combine(b: Builder, fn: Binary, x: Operand, y: Operand) -> Operand:
    """Element-wise `fn`; the shape is that of the operand with a time axis."""
    value = b.binary(fn, x, y)
    return value if x.time is not None or y.time is None else replace(value, shape=y.shape, time=y.time, rate=y.rate)


_SYMMETRIC = (Binary.ADD, Binary.MUL, Binary.MAX, Binary.MIN, Binary.EQUAL, Binary.NOT_EQUAL)


def broadcast(mover: Mover, fn: Binary, x: Source, y: Source, shape: tuple[int, ...], time: int | None) -> Operand:
    """Element-wise `fn` of values or constants broadcast to `shape`, of which `time` is the time axis.

    The operation itself repeats an operand of one number a step, and a constant that does.
    """

    def single(value: Source) -> bool:
        if not isinstance(value, Operand) or value.width != 1:
            return False
        aligned = value.time is None or (time is not None and len(shape) - time == len(value.shape) - value.time)
        return aligned and math.prod(n for d, n in enumerate(shape) if d != time) > 1

    constant = isinstance(x, np.ndarray) and isinstance(y, Operand)
    if (constant or (single(x) and not single(y))) and fn in _SYMMETRIC:
        x, y = y, x
    first = mover.spread(x, shape, time)
    if isinstance(y, np.ndarray) and (repeated := _repeated(y, shape, time, mover.rate(shape, time))) is not None:
        return mover.builder.binary(fn, first, mover.constant(repeated), period=len(repeated))
    if not isinstance(y, Operand) or not single(y):
        return combine(mover.builder, fn, first, mover.spread(y, shape, time))
    value = mover.builder.binary(fn, first, y, period=1)
    return value if first.time is not None or y.time is None else replace(value, time=time, rate=y.rate)


def _repeated(constant: np.ndarray, shape: tuple[int, ...], time: int | None, rate: int) -> np.ndarray | None:
    """What a constant broadcast to a step of `shape` repeats, a part of it; None if there is none."""
    wide = np.broadcast_to(constant, shape)
    if time is not None and constant.ndim >= len(shape) - time and constant.shape[time - len(shape)] != 1:
        return None
    row = (wide if time is None else np.take(wide, range(rate), time)).ravel()
    for k in range(1, len(row) // 2 + 1):
        if len(row) % k == 0 and np.array_equal(
            row.reshape(-1, k), np.tile(row[:k], (len(row) // k, 1)), equal_nan=True
        ):
            return row[:k]
    return None


def select(b: Builder, condition: Operand, x: Operand, y: Operand) -> Operand:
    """`x` where `condition` holds, else `y`; what is not taken has no effect."""
    like = next((v for v in (condition, x, y) if v.time is not None), x)
    value = b.compute(Code.SELECT, [condition, x, y], like, a=x.ref, b=y.ref, c=condition.ref)
    return replace(value, bounded=x.bounded and y.bounded)


def compare(b: Builder, fn: Binary, x: Operand, y: Operand) -> Operand:
    """1 where it holds, else 0."""
    return replace(combine(b, fn, x, y), bounded=True)


def against(b: Builder, fn: Binary, x: Operand, n: float) -> Operand:
    """`x` compared with a number."""
    return replace(b.binary(fn, x, b.constant(np.array([n])), period=1), bounded=True)


def rounded(b: Builder, x: Operand, decimals: int = 0) -> Operand:
    """Round half to even; float32 has no fraction beyond 2^23."""
    if decimals:
        return scale(b, rounded(b, scale(b, x, 10.0**decimals)), 10.0**-decimals)
    size = b.unary(Unary.ABS, x)
    near = scale(b, scale(b, size, 1.0, 2.0**23), 1.0, -(2.0**23))
    near = select(b, against(b, Binary.LESS, x, 0), scale(b, near, -1.0), near)
    return select(b, against(b, Binary.LESS, size, 2.0**23), near, x)


def floor(b: Builder, x: Operand) -> Operand:
    near = rounded(b, x)
    return select(b, compare(b, Binary.LESS, x, near), scale(b, near, 1.0, -1.0), near)


def ceil(b: Builder, x: Operand) -> Operand:
    return scale(b, floor(b, scale(b, x, -1.0)), -1.0)


def trunc(b: Builder, x: Operand) -> Operand:
    return select(b, against(b, Binary.LESS, x, 0), ceil(b, x), floor(b, x))


def rest(b: Builder, x: Operand, y: Operand) -> Operand:
    """Remainder with the sign of y: x - y floor(x / y), corrected for rounding."""
    whole = floor(b, combine(b, Binary.DIV, x, y))
    left = combine(b, Binary.SUB, x, combine(b, Binary.MUL, whole, y))
    below = against(b, Binary.LESS, combine(b, Binary.MUL, left, y), 0)
    return select(b, below, combine(b, Binary.ADD, left, y), left)


def floor_divide(b: Builder, x: Operand, y: Operand) -> Operand:
    """Floor division; NaN for an infinite x, as in torch."""
    return rounded(b, combine(b, Binary.DIV, combine(b, Binary.SUB, x, rest(b, x, y)), y))


def sign(b: Builder, x: Operand) -> Operand:
    """Sign; 0 for NaN."""
    return b.binary(Binary.SUB, against(b, Binary.LESS, scale(b, x, -1.0), 0), against(b, Binary.LESS, x, 0))


def log1p(b: Builder, x: Operand) -> Operand:
    """log(1 + x), of small x, too: x log(u) / (u - 1) of u = 1 + x, which makes up for what u lost."""
    u = scale(b, x, 1.0, 1.0)
    ratio = b.binary(Binary.DIV, b.binary(Binary.MUL, x, b.unary(Unary.LOG, u)), scale(b, u, 1.0, -1.0))
    small = against(b, Binary.EQUAL, u, 1.0)
    large = against(b, Binary.EQUAL, u, math.inf)
    return select(b, small, x, select(b, large, u, ratio))


_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)  # S. L. Moshier, Cephes, atanf


def atan(b: Builder, x: Operand) -> Operand:
    """Arc tangent, by a polynomial of what is left of |x| after two reductions."""
    size = b.unary(Unary.ABS, x)
    far = against(b, Binary.LESS, scale(b, size, -1.0), -2.414213562373095)
    near = against(b, Binary.LESS_EQUAL, size, 0.4142135623730950)
    middle = b.binary(Binary.DIV, scale(b, size, 1.0, -1.0), scale(b, size, 1.0, 1.0))
    part = select(b, near, size, select(b, far, scale(b, b.unary(Unary.RECIPROCAL, size), -1.0), middle))
    square = b.binary(Binary.MUL, part, part)
    series = scale(b, square, _ATAN[0], _ATAN[1])
    for number in _ATAN[2:]:
        series = scale(b, b.binary(Binary.MUL, series, square), 1.0, number)
    series = b.binary(Binary.ADD, b.binary(Binary.MUL, b.binary(Binary.MUL, series, square), part), part)
    start = select(b, far, clamp(b, size, math.pi / 2, math.pi / 2), clamp(b, size, math.pi / 4, math.pi / 4))
    return _signed(b, x, select(b, near, series, b.binary(Binary.ADD, start, series)))


def _signed(b: Builder, x: Operand, size: Operand) -> Operand:
    """`size` with the sign of `x`."""
    return select(b, against(b, Binary.LESS, x, 0), scale(b, size, -1.0), size)


def asin(b: Builder, x: Operand) -> Operand:
    """Arc sine: atan(x / sqrt((1 - x)(1 + x)))."""
    rest = b.binary(Binary.MUL, scale(b, x, -1.0, 1.0), scale(b, x, 1.0, 1.0))
    return atan(b, b.binary(Binary.DIV, x, b.unary(Unary.SQRT, rest)))


def acos(b: Builder, x: Operand) -> Operand:
    """Arc cosine: 2 atan(sqrt((1 - x) / (1 + x)))."""
    ratio = b.binary(Binary.DIV, scale(b, x, -1.0, 1.0), scale(b, x, 1.0, 1.0))
    return scale(b, atan(b, b.unary(Unary.SQRT, ratio)), 2.0)


def asinh(b: Builder, x: Operand) -> Operand:
    """Inverse hyperbolic sine: log(1 + y) of y = |x| + x^2 / (1 + sqrt(x^2 + 1)), with the sign of x."""
    size = b.unary(Unary.ABS, x)
    root = b.unary(Unary.SQRT, scale(b, b.binary(Binary.MUL, size, size), 1.0, 1.0))
    half = b.binary(Binary.DIV, size, scale(b, root, 1.0, 1.0))
    near = log1p(b, b.binary(Binary.ADD, size, b.binary(Binary.MUL, size, half)))
    return _signed(b, x, select(b, against(b, Binary.LESS, size, _FAR), near, _twice(b, size)))


_FAR = 1e9  # from here on log(x + sqrt(x^2 + 1)) is log(2 x), and the square is not too large before


def _twice(b: Builder, x: Operand) -> Operand:
    return scale(b, b.unary(Unary.LOG, x), 1.0, math.log(2))


def acosh(b: Builder, x: Operand) -> Operand:
    """Inverse hyperbolic cosine: log(1 + y) of y = d + sqrt(d (x + 1)), d = x - 1."""
    above = scale(b, x, 1.0, -1.0)
    root = b.unary(Unary.SQRT, b.binary(Binary.MUL, above, scale(b, x, 1.0, 1.0)))
    near = log1p(b, b.binary(Binary.ADD, above, root))
    return select(b, against(b, Binary.LESS, b.unary(Unary.ABS, x), _FAR), near, _twice(b, x))


def atanh(b: Builder, x: Operand) -> Operand:
    """Inverse hyperbolic tangent: log(1 + 2 |x| / (1 - |x|)) / 2, with the sign of x."""
    size = b.unary(Unary.ABS, x)
    ratio = b.binary(Binary.DIV, scale(b, size, 2.0), scale(b, size, -1.0, 1.0))
    return _signed(b, x, scale(b, log1p(b, ratio), 0.5))


def _activation(of: Callable[..., Operand], b: Builder, x: Operand, *args: Any, **kwargs: Any) -> Operand:
    return of(_Emitted(b), x, *args, **kwargs)


def _leaky_relu(b: Builder, x: Operand, slope: float = 0.01) -> Operand:
    """x, or `slope` x where x is not above 0."""
    return b.unary(Unary.LEAKY_RELU, x, float(slope), bounded=x.bounded and abs(slope) <= 1)


# By ATen name, whatever the overload: functions of one operand and of numbers. `power` is called by its own handler.
FUNCTIONS: dict[str, Callable[..., Operand | None]] = {
    **{
        fn.name.lower(): partial(lambda fn, b, x: unary(b, fn, x), fn)
        for fn in Unary
        if not fn.parameters and fn != Unary.COPY
    },
    **{name: partial(_activation, of) for name, of in ACTIVATIONS.items()},
    "acos": acos,
    "acosh": acosh,
    "asin": asin,
    "asinh": asinh,
    "atan": atan,
    "atanh": atanh,
    "ceil": ceil,
    "clamp": lambda b, x, min=None, max=None: clamp(b, x, min, max),
    "clamp_max": lambda b, x, high: clamp(b, x, None, high),
    "clamp_min": lambda b, x, low: clamp(b, x, low, None),
    "floor": floor,
    "leaky_relu": _leaky_relu,
    "isinf": lambda b, x: against(b, Binary.EQUAL, b.unary(Unary.ABS, x), math.inf),
    "isnan": lambda b, x: compare(b, Binary.NOT_EQUAL, x, x),
    "logical_not": lambda b, x: against(b, Binary.EQUAL, x, 0),
    "round": rounded,
    "sign": sign,
    "tan": lambda b, x: b.binary(Binary.DIV, b.unary(Unary.SIN, x), b.unary(Unary.COS, x)),
    "trunc": trunc,
}


def prelu(mover: Mover, x: Operand, slope: Source, shape: tuple[int, ...], time: int | None) -> Operand | None:
    """`x` where it is positive, else `slope` x, broadcast to `shape`, of which `time` is the time axis."""
    build = mover.builder
    if isinstance(slope, np.ndarray):
        if slope.size and bool((slope == slope.ravel()[0]).all()):
            return FUNCTIONS["leaky_relu"](build, x, float(slope.ravel()[0]))
        if bool(((slope > 0) & (slope <= 1)).all()):
            return combine(build, Binary.MAX, x, broadcast(mover, Binary.MUL, x, slope, shape, time))
    below = broadcast(mover, Binary.MUL, clamp(build, x, None, 0.0), slope, shape, time)
    return combine(build, Binary.ADD, clamp(build, x, 0.0, None), below)
