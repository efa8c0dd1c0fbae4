"""Functions that act entry by entry."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..emit.builder import Builder, Operand
from ..runtime.program import Binary, Code, Unary
from .visitor import Visitor, handles


def scale(b: Builder, x: Operand, factor: float, shift: float = 0.0) -> Operand:
    """`factor x + shift`."""
    return b.unary(Unary.SCALE_SHIFT, x, factor, shift, bounded=x.bounded and abs(factor) + abs(shift) <= 1)


def clamp(b: Builder, x: Operand, low: float | None, high: float | None) -> Operand:
    """`x` limited to [low, high]."""
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return b.unary(Unary.CLAMP, x, low, high, bounded=x.bounded or (low >= -1 and high <= 1))


def softplus(b: Builder, x: Operand) -> Operand:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    tail = scale(b, b.unary(Unary.EXP, scale(b, b.unary(Unary.ABS, x), -1.0)), 1.0, 1.0)
    return b.binary(Binary.ADD, clamp(b, x, 0, None), b.unary(Unary.LOG, tail))


def sigmoid(b: Builder, x: Operand) -> Operand:
    """1 / (1 + exp(-x))."""
    return b.unary(Unary.SIGMOID, x, bounded=True)


def tanh(b: Builder, x: Operand) -> Operand:
    """tanh(x)."""
    return b.unary(Unary.TANH, x, bounded=True)


def gelu(b: Builder, x: Operand, approximate: str = "none") -> Operand:
    """x Phi(x), exact or by tanh."""
    if approximate == "tanh":
        cubic = b.binary(Binary.MUL, b.binary(Binary.MUL, x, x), x)
        inner = scale(b, b.binary(Binary.ADD, x, scale(b, cubic, 0.044715)), math.sqrt(2 / math.pi))
        phi = scale(b, tanh(b, inner), 0.5, 0.5)
    else:
        phi = scale(b, b.unary(Unary.ERF, scale(b, x, math.sqrt(0.5))), 0.5, 0.5)
    return b.binary(Binary.MUL, x, phi)


def elu(b: Builder, x: Operand, alpha: float = 1.0, outer: float = 1.0, inner: float = 1.0) -> Operand:
    """outer * (max(x, 0) + alpha (exp(inner * min(x, 0)) - 1))."""
    negative = b.unary(Unary.EXP, scale(b, clamp(b, x, None, 0), float(inner)))
    negative = scale(b, negative, alpha * outer, -alpha * outer)
    return b.binary(Binary.ADD, scale(b, clamp(b, x, 0, None), float(outer)), negative)


def leaky_relu(b: Builder, x: Operand, slope: float = 0.01) -> Operand:
    """max(x, 0) + slope min(x, 0)."""
    return b.binary(Binary.ADD, clamp(b, x, 0, None), scale(b, clamp(b, x, None, 0), float(slope)))


def power(b: Builder, x: Operand, exponent: float) -> Operand | None:
    """x^exponent; of a negative x only for whole exponents, else NaN."""
    if exponent == 0:
        return b.binary(Binary.MAX, b.binary(Binary.EQUAL, x, x), b.binary(Binary.NOT_EQUAL, x, x))
    if exponent in (0.5, -0.5):
        root = b.unary(Unary.SQRT, x)
        return root if exponent > 0 else b.unary(Unary.RECIPROCAL, root)
    if exponent != int(exponent):
        return b.unary(Unary.EXP, scale(b, b.unary(Unary.LOG, x), float(exponent)))
    if exponent < 0:
        above = power(b, x, -exponent)
        return above and b.unary(Unary.RECIPROCAL, above)
    if exponent > 64:
        return None
    half = x if exponent <= 3 else power(b, x, exponent // 2)
    if half is None or exponent == 1:
        return half
    square = b.binary(Binary.MUL, half, half)
    return b.binary(Binary.MUL, square, x) if exponent % 2 else square


def both_powers(b: Builder, x: Operand) -> tuple[Operand, Operand]:
    """exp(x) and exp(-x)."""
    return b.unary(Unary.EXP, x), b.unary(Unary.EXP, scale(b, x, -1.0))


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
    """To the nearest whole number, of two the even one: float32 keeps no fraction beyond 2^23."""
    if decimals:
        return scale(b, rounded(b, scale(b, x, 10.0**decimals)), 10.0**-decimals)
    size = b.unary(Unary.ABS, x)
    near = scale(b, scale(b, size, 1.0, 2.0**23), 1.0, -(2.0**23))
    near = select(b, against(b, Binary.LESS, x, 0), scale(b, near, -1.0), near)
    return select(b, against(b, Binary.LESS, size, 2.0**23), near, x)


def floor(b: Builder, x: Operand) -> Operand:
    """The largest whole number that is not larger."""
    near = rounded(b, x)
    return select(b, compare(b, Binary.LESS, x, near), scale(b, near, 1.0, -1.0), near)


def ceil(b: Builder, x: Operand) -> Operand:
    """The smallest whole number that is not smaller."""
    return scale(b, floor(b, scale(b, x, -1.0)), -1.0)


def trunc(b: Builder, x: Operand) -> Operand:
    """Without its fraction."""
    return select(b, against(b, Binary.LESS, x, 0), ceil(b, x), floor(b, x))


def rest(b: Builder, x: Operand, y: Operand) -> Operand:
    """x - y floor(x / y), and y more where rounding has made that fall below."""
    whole = floor(b, combine(b, Binary.DIV, x, y))
    left = combine(b, Binary.SUB, x, combine(b, Binary.MUL, whole, y))
    below = against(b, Binary.LESS, combine(b, Binary.MUL, left, y), 0)
    return select(b, below, combine(b, Binary.ADD, left, y), left)


def floor_divide(b: Builder, x: Operand, y: Operand) -> Operand:
    """The quotient rounded down; of an infinite x NaN, as in torch."""
    return rounded(b, combine(b, Binary.DIV, combine(b, Binary.SUB, x, rest(b, x, y)), y))


def sign(b: Builder, x: Operand) -> Operand:
    """1, 0 or -1; of a NaN 0."""
    return b.binary(Binary.SUB, against(b, Binary.LESS, scale(b, x, -1.0), 0), against(b, Binary.LESS, x, 0))


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
    "round": rounded,
    "floor": floor,
    "ceil": ceil,
    "trunc": trunc,
    "sign": sign,
    "exp2": lambda b, x: b.unary(Unary.EXP, scale(b, x, math.log(2))),
    "log2": lambda b, x: scale(b, b.unary(Unary.LOG, x), 1 / math.log(2)),
    "log10": lambda b, x: scale(b, b.unary(Unary.LOG, x), 1 / math.log(10)),
    "erfc": lambda b, x: scale(b, b.unary(Unary.ERF, x), -1.0, 1.0),
    "sinh": lambda b, x: scale(b, b.binary(Binary.SUB, *both_powers(b, x)), 0.5),
    "cosh": lambda b, x: scale(b, b.binary(Binary.ADD, *both_powers(b, x)), 0.5),
    "isnan": lambda b, x: compare(b, Binary.NOT_EQUAL, x, x),
    "isinf": lambda b, x: against(b, Binary.EQUAL, b.unary(Unary.ABS, x), math.inf),
    "logical_not": lambda b, x: against(b, Binary.EQUAL, x, 0),
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
    def lower(visitor: Visitor, node: torch.fx.Node, x: Any, *args: Any, **kwargs: Any) -> Operand | None:
        args, kwargs = pytree.tree_map_only(Tensor, lambda v: v if number(v) is None else number(v), (args, kwargs))
        numbers = all(isinstance(v, int | float | str) or v is None for v in (*args, *kwargs.values()))
        if not isinstance(x, Operand) or not numbers:
            return None
        return FUNCTIONS[name](visitor.builder, x, *args, **kwargs)

    return lower


for _name in FUNCTIONS:
    handles(_name)(_handler(_name))


def number(x: Any) -> float | None:
    """`x` if it is one constant number."""
    if isinstance(x, Tensor) and x.numel() == 1:
        return float(x)
    return float(x) if isinstance(x, int | float) else None


@handles("add", "sub", "rsub")
def _sum(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, *, alpha: float = 1, **kwargs: Any) -> Operand:
    """`a + alpha b` and the like; of truth values, whether any is true."""
    build, name = visitor.builder, node.target._schema.name  # pyright: ignore
    if name.endswith("rsub"):
        a, b = b, a
    if visitor.values[node.name].dtype == torch.bool:
        return combine(build, Binary.MAX, visitor.spread(a, node), visitor.spread(b, node))
    sign = -alpha if "sub" in name else alpha
    if (n := number(b)) is not None:
        return scale(build, visitor.spread(a, node), 1.0, sign * n)
    if (n := number(a)) is not None:
        return scale(build, visitor.spread(b, node), float(sign), n)
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    if abs(sign) != 1:
        b, sign = scale(build, b, float(sign)), 1
    return combine(build, Binary.ADD if sign > 0 else Binary.SUB, a, b)


@handles("mul", "div", "maximum", "minimum")
def _product(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, **kwargs: Any) -> Operand | None:
    """`a b`, `a / b`, max and min."""
    build, rounding = visitor.builder, kwargs.get("rounding_mode")
    name = node.target._schema.name.split("::")[1]  # pyright: ignore
    for x, other in ((a, b), (b, a)) if name == "mul" else ():
        if (n := number(other)) is not None:
            return scale(build, visitor.spread(x, node), n)
    if name == "div" and rounding is None:
        above, below = number(a), number(b)
        if below is not None and below and math.frexp(below)[0] in (0.5, -0.5):  # a power of two divides exactly
            return scale(build, visitor.spread(a, node), 1 / below)
        if above == 1:
            return build.unary(Unary.RECIPROCAL, visitor.spread(b, node))
    fn = {"mul": Binary.MUL, "div": Binary.DIV, "maximum": Binary.MAX, "minimum": Binary.MIN}[name]
    a, b = visitor.spread(a, node), visitor.spread(b, node)
    if rounding == "floor":
        return floor_divide(build, a, b)
    return trunc(build, combine(build, fn, a, b)) if rounding else combine(build, fn, a, b)


@handles("lerp")
def _lerp(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, weight: Any) -> Operand:
    """a + weight (b - a)."""
    build = visitor.builder
    a, b, w = (visitor.spread(v, node) for v in (a, b, weight))
    return combine(build, Binary.ADD, a, combine(build, Binary.MUL, w, combine(build, Binary.SUB, b, a)))


@handles("addcmul")
def _addcmul(visitor: Visitor, node: torch.fx.Node, a: Any, b: Any, c: Any, *, value: float = 1) -> Operand:
    """a + value b c."""
    build = visitor.builder
    a, b, c = (visitor.spread(v, node) for v in (a, b, c))
    return combine(build, Binary.ADD, a, scale(build, combine(build, Binary.MUL, b, c), float(value)))


def combine(b: Builder, fn: Binary, x: Operand, y: Operand) -> Operand:
    """The result takes its shape from the operand that changes with time."""
    value = b.binary(fn, x, y)
    return value if x.time is not None or y.time is None else replace(value, shape=y.shape, time=y.time)
