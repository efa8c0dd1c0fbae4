"""Activations composed of a few element-wise operations, once for training and for packing.

Each works on any `Arithmetic`. What a function does not take at some place must still be finite there: its gradient
would otherwise be infinity times zero. Of a NaN all give NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Arithmetic(Protocol[T]):
    """Element-wise operations on values of one kind."""

    def unary(self, name: str, x: T) -> T:
        """abs, erf, exp, log, reciprocal, sigmoid, sqrt or tanh."""
        ...

    def affine(self, x: T, factor: float, shift: float = 0.0) -> T:
        """`factor x + shift`."""
        ...

    def above(self, x: T) -> T:
        """max(x, 0), of slope 0 at 0."""
        ...

    def below(self, x: T) -> T:
        """min(x, 0), of slope 1 at 0."""
        ...

    def clamp(self, x: T, low: float | None, high: float | None) -> T:
        """`x` limited to [low, high]; None is no limit."""
        ...

    def add(self, x: T, y: T) -> T: ...

    def sub(self, x: T, y: T) -> T: ...

    def mul(self, x: T, y: T) -> T: ...


def _times(o: Arithmetic[T], x: T, factor: float) -> T:
    return x if factor == 1 else o.affine(x, float(factor))


def elu(o: Arithmetic[T], x: T, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> T:
    """scale (max(x, 0) + alpha (exp(input_scale min(x, 0)) - 1))."""
    exponential = o.unary("exp", _times(o, o.below(x), input_scale))
    return o.add(_times(o, o.above(x), scale), o.affine(exponential, alpha * scale, -alpha * scale))


def leaky_relu(o: Arithmetic[T], x: T, negative_slope: float = 0.01) -> T:
    """max(x, 0) + negative_slope min(x, 0)."""
    return o.add(o.above(x), o.affine(o.below(x), float(negative_slope)))


def softplus(o: Arithmetic[T], x: T, beta: float = 1.0, threshold: float = 20.0) -> T:
    """log(1 + exp(beta x)) / beta = (max(y, 0) + log(1 + exp(-|y|))) / beta of y = beta x, whatever the threshold."""
    y = _times(o, x, beta)
    tail = o.unary("log", o.affine(o.unary("exp", o.affine(o.unary("abs", y), -1.0)), 1.0, 1.0))
    return _times(o, o.add(o.above(y), tail), 1 / beta)


def gelu(o: Arithmetic[T], x: T, approximate: str = "none") -> T:
    """x Phi(x), exact or by tanh."""
    if approximate == "tanh":
        cubic = o.mul(o.mul(x, x), x)
        inner = o.affine(o.add(x, o.affine(cubic, 0.044715)), math.sqrt(2 / math.pi))
        return o.mul(x, o.affine(o.unary("tanh", inner), 0.5, 0.5))
    return o.mul(x, o.affine(o.unary("erf", o.affine(x, math.sqrt(0.5))), 0.5, 0.5))


def hardsigmoid(o: Arithmetic[T], x: T) -> T:
    """x / 6 + 1/2, limited to [0, 1]."""
    return o.clamp(o.affine(x, 1 / 6, 0.5), 0.0, 1.0)


def power(o: Arithmetic[T], x: T, exponent: float) -> T | None:
    """x^exponent for whole exponents from -64 to 64 but 0, and for 1/2 and -1/2; else None."""
    if exponent in (0.5, -0.5):
        root = o.unary("sqrt", x)
        return root if exponent > 0 else o.unary("reciprocal", root)
    if exponent == 0 or not abs(exponent) <= 64 or exponent != int(exponent):
        return None
    if exponent < 0:
        return o.unary("reciprocal", _whole_power(o, x, int(-exponent)))
    return _whole_power(o, x, int(exponent))


def _whole_power(o: Arithmetic[T], x: T, exponent: int) -> T:
    if exponent == 1:
        return x
    half = x if exponent <= 3 else _whole_power(o, x, exponent // 2)
    square = o.mul(half, half)
    return o.mul(square, x) if exponent % 2 else square


def _exponentials(o: Arithmetic[T], x: T) -> tuple[T, T]:
    return o.unary("exp", x), o.unary("exp", o.affine(x, -1.0))


# By ATen name, whatever the overload.
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "celu": lambda o, x, alpha=1.0: elu(o, x, alpha, 1.0, 1 / alpha),
    "cosh": lambda o, x: o.affine(o.add(*_exponentials(o, x)), 0.5),
    "elu": elu,
    "erfc": lambda o, x: o.affine(o.unary("erf", x), -1.0, 1.0),
    "exp2": lambda o, x: o.unary("exp", o.affine(x, math.log(2))),
    "expm1": lambda o, x: o.affine(o.unary("exp", x), 1.0, -1.0),
    "gelu": gelu,
    "hardsigmoid": hardsigmoid,
    "hardswish": lambda o, x: o.mul(x, hardsigmoid(o, x)),
    "hardtanh": lambda o, x, min_val=-1.0, max_val=1.0: o.clamp(x, min_val, max_val),
    "leaky_relu": leaky_relu,
    "log10": lambda o, x: o.affine(o.unary("log", x), 1 / math.log(10)),
    "log1p": lambda o, x: o.unary("log", o.affine(x, 1.0, 1.0)),
    "log2": lambda o, x: o.affine(o.unary("log", x), 1 / math.log(2)),
    "log_sigmoid": lambda o, x: o.affine(softplus(o, o.affine(x, -1.0)), -1.0),
    "mish": lambda o, x: o.mul(x, o.unary("tanh", softplus(o, x))),
    "neg": lambda o, x: o.affine(x, -1.0),
    "relu": lambda o, x: o.above(x),
    "relu6": lambda o, x: o.clamp(x, 0.0, 6.0),
    "rsqrt": lambda o, x: o.unary("reciprocal", o.unary("sqrt", x)),
    "selu": lambda o, x: elu(o, x, 1.6732632423543772, 1.0507009873554805),
    "silu": lambda o, x: o.mul(x, o.unary("sigmoid", x)),
    "sinh": lambda o, x: o.affine(o.sub(*_exponentials(o, x)), 0.5),
    "softplus": softplus,
    "square": lambda o, x: o.mul(x, x),
}
