"""Functions that act entry by entry."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..runtime.program import Binary, Unary
from .builder import Builder, Value
from .visitor import Visitor, handles

FLOAT_MAX = 3.4028234663852886e38


def scale(b: Builder, x: Value, factor: float, shift: float = 0.0) -> Value:
    """`factor x + shift`."""
    return b.unary(Unary.AFFINE, x, factor, shift, bounded=x.bounded and abs(factor) + abs(shift) <= 1)


def clamp(b: Builder, x: Value, low: float | None, high: float | None) -> Value:
    """`x` limited to [low, high]."""
    low, high = -FLOAT_MAX if low is None else float(low), FLOAT_MAX if high is None else float(high)
    return b.unary(Unary.CLAMP, x, low, high, bounded=x.bounded or (low >= -1 and high <= 1))


def softplus(b: Builder, x: Value) -> Value:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    tail = scale(b, b.unary(Unary.EXP, scale(b, b.unary(Unary.ABS, x), -1.0)), 1.0, 1.0)
    return b.binary(Binary.ADD, clamp(b, x, 0, None), b.unary(Unary.LOG, tail))


def sigmoid(b: Builder, x: Value) -> Value:
    """1 / (1 + exp(-x))."""
    return b.unary(Unary.SIGMOID, x, bounded=True)


def tanh(b: Builder, x: Value) -> Value:
    """tanh(x)."""
    return b.unary(Unary.TANH, x, bounded=True)


def gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    """x Phi(x), exact or by tanh."""
    if approximate == "tanh":
        cubic = b.binary(Binary.MUL, b.binary(Binary.MUL, x, x), x)
        inner = scale(b, b.binary(Binary.ADD, x, scale(b, cubic, 0.044715)), math.sqrt(2 / math.pi))
        phi = scale(b, tanh(b, inner), 0.5, 0.5)
    else:
        phi = scale(b, b.unary(Unary.ERF, scale(b, x, math.sqrt(0.5))), 0.5, 0.5)
    return b.binary(Binary.MUL, x, phi)


def elu(b: Builder, x: Value, alpha: float = 1.0, outer: float = 1.0, inner: float = 1.0) -> Value:
    """outer * (max(x, 0) + alpha (exp(inner * min(x, 0)) - 1))."""
    negative = b.unary(Unary.EXP, scale(b, clamp(b, x, None, 0), float(inner)))
    negative = scale(b, negative, alpha * outer, -alpha * outer)
    return b.binary(Binary.ADD, scale(b, clamp(b, x, 0, None), float(outer)), negative)


def leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Value:
    """max(x, 0) + slope min(x, 0)."""
    return b.binary(Binary.ADD, clamp(b, x, 0, None), scale(b, clamp(b, x, None, 0), float(slope)))


def power(b: Builder, x: Value, exponent: float) -> Value | None:
    """x^exponent for a few exponents."""
    if exponent == 1:
        return x
    if exponent in (2, 3, 4):
        square = b.binary(Binary.MUL, x, x)
        return square if exponent == 2 else b.binary(Binary.MUL, square, x if exponent == 3 else square)
    if exponent in (0.5, -0.5):
        root = b.unary(Unary.SQRT, x)
        return root if exponent > 0 else b.unary(Unary.RECIPROCAL, root)
    return b.unary(Unary.RECIPROCAL, x) if exponent == -1 else None


FUNCTIONS = {
    "relu": lambda b, x: clamp(b, x, 0, None),
    "relu6": lambda b, x: clamp(b, x, 0, 6),
    "hardtanh": lambda b, x, low=-1.0, high=1.0: clamp(b, x, low, high),
    "clamp": lambda b, x, min=None, max=None: clamp(b, x, min, max),
    "clamp_min": lambda b, x, low: clamp(b, x, low, None),
    "clamp_max": lambda b, x, high: clamp(b, x, None, high),
    "sigmoid": sigmoid,
    "tanh": tanh,
    "neg": lambda b, x: scale(b, x, -1.0),
    "abs": lambda b, x: b.unary(Unary.ABS, x, bounded=x.bounded),
    "exp": lambda b, x: b.unary(Unary.EXP, x),
    "expm1": lambda b, x: scale(b, b.unary(Unary.EXP, x), 1.0, -1.0),
    "log": lambda b, x: b.unary(Unary.LOG, x),
    "log1p": lambda b, x: b.unary(Unary.LOG, scale(b, x, 1.0, 1.0)),
    "sqrt": lambda b, x: b.unary(Unary.SQRT, x),
    "rsqrt": lambda b, x: b.unary(Unary.RECIPROCAL, b.unary(Unary.SQRT, x)),
    "reciprocal": lambda b, x: b.unary(Unary.RECIPROCAL, x),
    "erf": lambda b, x: b.unary(Unary.ERF, x, bounded=True),
    "square": lambda b, x: b.binary(Binary.MUL, x, x),
    "pow": power,
    "silu": lambda b, x: b.binary(Binary.MUL, x, sigmoid(b, x)),
    "mish": lambda b, x: b.binary(Binary.MUL, x, tanh(b, softplus(b, x))),
    "gelu": gelu,
    "elu": elu,
    "celu": lambda b, x, alpha=1.0: elu(b, x, alpha, 1.0, 1 / alpha),
    "selu": lambda b, x: elu(b, x, 1.6732632423543772, 1.0507009873554805),
    "leaky_relu": leaky_relu,
    "softplus": lambda b, x, beta=1, threshold=20: scale(b, softplus(b, scale(b, x, float(beta))), 1 / beta),
    "log_sigmoid": lambda b, x: scale(b, softplus(b, scale(b, x, -1.0)), -1.0),
    "hardsigmoid": lambda b, x: clamp(b, scale(b, x, 1 / 6, 0.5), 0, 1),
    "hardswish": lambda b, x: b.binary(Binary.MUL, x, clamp(b, scale(b, x, 1 / 6, 0.5), 0, 1)),
}


def _handler(name: str):
    def lower(visitor: Visitor, node: torch.fx.Node, x: Any, *args: Any, **kwargs: Any) -> Value | None:
        numbers = all(isinstance(v, int | float | str) or v is None for v in (*args, *kwargs.values()))
        return FUNCTIONS[name](visitor.builder, x, *args, **kwargs) if isinstance(x, Value) and numbers else None

    return lower


for _name in FUNCTIONS:
    handles(_name)(_handler(_name))


@handles("to", "_to_copy", "type_as")
def _cast(visitor: Visitor, node: torch.fx.Node, x: Value, *args: Any, **kwargs: Any) -> Value | None:
    return x if visitor.values[node.name].is_floating_point() else None


@handles("_assert_tensor_metadata")
def _assert(visitor: Visitor, node: torch.fx.Node, x: Value, *args: Any, **kwargs: Any) -> Value:
    """What torch.export notes before a cast; nobody reads it."""
    return x


def _number(x: Any) -> float | None:
    """`x` if it is one constant number."""
    if isinstance(x, Tensor) and x.numel() == 1:
        return float(x)
    return float(x) if isinstance(x, int | float) else None


@handles("add", "sub", "rsub")
def _sum(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, *, alpha: float = 1, **kwargs: Any) -> Value:
    """`a + alpha b` and its kin."""
    build, name = visitor.builder, node.target._schema.name  # pyright: ignore
    if name.endswith("rsub"):
        a, b = b, a
    sign = -alpha if "sub" in name else alpha
    if (number := _number(b)) is not None:
        return scale(build, visitor.spread(a, node), 1.0, sign * number)
    if (number := _number(a)) is not None:
        return scale(build, visitor.spread(b, node), float(sign), number)
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    if abs(sign) != 1:
        b, sign = scale(build, b, float(sign)), 1
    return _binary(build, Binary.ADD if sign > 0 else Binary.SUB, a, b)


@handles("mul", "div", "maximum", "minimum")
def _product(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, **kwargs: Any) -> Value | None:
    """`a b`, `a / b`, max and min."""
    if kwargs.get("rounding_mode"):
        return None
    name = node.target._schema.name.split("::")[1]  # pyright: ignore
    fn = {"mul": Binary.MUL, "div": Binary.DIV, "maximum": Binary.MAX, "minimum": Binary.MIN}[name]
    for x, y, first in ((b, a, False), (a, b, True)):
        if (number := _number(x)) is not None and fn in (Binary.MUL, Binary.DIV) and (number or fn is Binary.MUL):
            value = visitor.spread(y, node)
            if fn is Binary.DIV and first:
                return scale(visitor.builder, visitor.builder.unary(Unary.RECIPROCAL, value), number)
            return scale(visitor.builder, value, number if fn is Binary.MUL else 1 / number)
    return _binary(visitor.builder, fn, visitor.spread(a, node), visitor.spread(b, node))


@handles("lerp")
def _lerp(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, weight: Any) -> Value:
    """a + weight (b - a)."""
    build = visitor.builder
    a, b, w = (visitor.spread(v, node) for v in (a, b, weight))
    return _binary(build, Binary.ADD, a, _binary(build, Binary.MUL, w, _binary(build, Binary.SUB, b, a)))


@handles("addcmul")
def _addcmul(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, c: Any, *, value: float = 1) -> Value:
    """a + value b c."""
    build = visitor.builder
    a, b, c = (visitor.spread(v, node) for v in (a, b, c))
    return _binary(build, Binary.ADD, a, scale(build, _binary(build, Binary.MUL, b, c), float(value)))


@handles("gt", "lt", "ge", "le")
def _compared(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any) -> Value:
    """1 where it holds, 0 where not: the difference, made so large that it is beyond 1 unless it is zero."""
    name, build = node.target._schema.name.split("::")[1], visitor.builder  # pyright: ignore
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    if name in ("lt", "ge"):
        a, b = b, a
    apart = scale(build, scale(build, _binary(build, Binary.SUB, a, b), FLOAT_MAX), FLOAT_MAX)
    above = clamp(build, apart, 0, 1)
    return above if name in ("gt", "lt") else scale(build, above, -1.0, 1.0)


@handles("where")
def _where(visitor: Visitor, node: torch.fx.Node, condition: Value, a: Any, b: Any) -> Value:
    """`condition a + (1 - condition) b`: what is not chosen must be finite."""
    build = visitor.builder
    condition, a, b = (visitor.spread(v, node) for v in (condition, a, b))
    chosen = _binary(build, Binary.MUL, condition, a)
    return _binary(build, Binary.ADD, chosen, _binary(build, Binary.MUL, scale(build, condition, -1.0, 1.0), b))


def _binary(b: Builder, fn: Binary, x: Value, y: Value) -> Value:
    """The result takes its shape from the operand that changes with time."""
    value = b.binary(fn, x, y)
    return (
        value if x.time is not None or y.time is None else Value(value.ref, y.shape, y.time, value.kind, value.segment)
    )
