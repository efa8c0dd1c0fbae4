"""Element-wise operators."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...emit import pointwise as emitted
from ...emit.address import LazyView
from ...emit.builder import Builder, Operand
from ...emit.pointwise import FUNCTIONS, broadcast, combine, scale
from ...runtime.program import Binary, Unary
from ..folded import Node
from ..visitor import Visitor, fits, handles


def _softsign(b: Builder, x: Operand) -> Operand:
    return combine(b, Binary.DIV, x, scale(b, b.unary(Unary.ABS, x), 1.0, 1.0))


def _thresholded(b: Builder, x: Operand, alpha: float) -> Operand:
    above = emitted.against(b, Binary.LESS, scale(b, x, -1.0), -alpha)
    return emitted.select(b, above, x, emitted.clamp(b, x, 0.0, 0.0))


def _swish(b: Builder, x: Operand, alpha: float) -> Operand:
    return combine(b, Binary.MUL, x, b.unary(Unary.SIGMOID, scale(b, x, alpha)))


def _shrink(b: Builder, x: Operand, lambd: float, bias: float) -> Operand:
    below = emitted.against(b, Binary.LESS, x, -lambd)
    above = emitted.against(b, Binary.LESS, scale(b, x, -1.0), -lambd)
    zeros = emitted.clamp(b, x, 0.0, 0.0)
    return emitted.select(b, below, scale(b, x, 1.0, bias), emitted.select(b, above, scale(b, x, 1.0, -bias), zeros))


# By operator: of the builder, the value and the attributes; with the attributes that it has and their defaults.
_OF_ONE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    **{
        name.title(): (FUNCTIONS[name], {})
        for name in ("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp",
                     "floor", "log", "mish", "neg", "reciprocal", "relu", "round", "sigmoid", "sign", "sin", "sinh",
                     "softplus", "sqrt", "tan", "tanh")
    },
    "Celu": (lambda b, x, alpha: FUNCTIONS["celu"](b, x, alpha), {"alpha": 1.0}),
    "Elu": (lambda b, x, alpha: FUNCTIONS["elu"](b, x, alpha), {"alpha": 1.0}),
    **dict.fromkeys(
        ("BiasGelu", "Gelu"),
        (lambda b, x, approximate: FUNCTIONS["gelu"](b, x, approximate), {"approximate": "none"}),
    ),
    "FastGelu": (lambda b, x: FUNCTIONS["gelu"](b, x, "tanh"), {}),
    "HardSigmoid": (
        lambda b, x, alpha, beta: emitted.clamp(b, scale(b, x, alpha, beta), 0.0, 1.0),
        {"alpha": 0.2, "beta": 0.5},
    ),
    "HardSwish": (FUNCTIONS["hardswish"], {}),
    "IsNaN": (FUNCTIONS["isnan"], {}),
    "LeakyRelu": (lambda b, x, alpha: FUNCTIONS["leaky_relu"](b, x, alpha), {"alpha": 0.01}),
    "Not": (FUNCTIONS["logical_not"], {}),
    "QuickGelu": (_swish, {"alpha": 1.702}),
    "Selu": (
        lambda b, x, alpha, gamma: FUNCTIONS["elu"](b, x, alpha, gamma),
        {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    ),
    "Softsign": (_softsign, {}),
    "Shrink": (_shrink, {"lambd": 0.5, "bias": 0.0}),
    "Swish": (_swish, {"alpha": 1.0}),
    "ThresholdedRelu": (_thresholded, {"alpha": 1.0}),
}  # fmt: skip
_OF_TWO = {
    "Add": Binary.ADD,
    "Div": Binary.DIV,
    "Equal": Binary.EQUAL,
    "Less": Binary.LESS,
    "LessOrEqual": Binary.LESS_EQUAL,
    "Max": Binary.MAX,
    "Mean": Binary.ADD,
    "Min": Binary.MIN,
    "Mul": Binary.MUL,
    "Sub": Binary.SUB,
    "Sum": Binary.ADD,
}
_LOGIC = {"And": Binary.MIN, "Or": Binary.MAX, "Xor": Binary.NOT_EQUAL}


def _of_one(visitor: Visitor, node: Node, x: Any, bias: Any = None) -> Any:
    function, defaults = _OF_ONE[node.op]
    x = x if bias is None else _combined(visitor, Binary.ADD, *visitor.result(node), x, bias)
    return function(visitor.builder, x, **{name: node.get(name, default) for name, default in defaults.items()})


handles(*_OF_ONE, elementwise=True)(_of_one)


@handles(*_OF_TWO, *_LOGIC, elementwise=True)
def _of_two(visitor: Visitor, node: Node, *given: Any) -> Operand:
    """Of two values or more, numbered from the left."""
    build, fn = visitor.builder, {**_OF_TWO, **_LOGIC}[node.op]
    whole = visitor.type(node.inputs[0]).dtype.kind in "iu"
    shape, time = visitor.result(node)
    combined = functools.partial(_combined, visitor, fn, shape, time)
    first, *rest = given
    value = functools.reduce(combined, rest, first) if rest else visitor.spread(first, node)
    if node.op == "Mean":
        return scale(build, value, 1 / len(given))
    return emitted.trunc(build, value) if whole and node.op == "Div" else value


def _combined(visitor: Visitor, fn: Binary, shape: tuple[int, ...], time: int | None, x: Any, y: Any) -> Operand:
    """`f(x, y)`; with one constant number of one operation with it."""
    build, wide = visitor.builder, lambda v: visitor.mover.spread(v, shape, time)
    a, b = _number(x), _number(y)
    if b is not None and fn in (Binary.ADD, Binary.SUB):
        return scale(build, wide(x), 1.0, b if fn == Binary.ADD else -b)
    if a is not None and fn in (Binary.ADD, Binary.SUB):
        return scale(build, wide(y), 1.0 if fn == Binary.ADD else -1.0, a)
    if fn == Binary.MUL and (a is not None or b is not None):
        return scale(build, wide(y if b is None else x), a if b is None else b)  # pyright: ignore[reportArgumentType]
    if fn == Binary.DIV and b and math.frexp(b)[0] in (0.5, -0.5):  # a power of two divides exactly
        return scale(build, wide(x), 1 / b)
    if fn == Binary.DIV and a == 1:
        return build.unary(Unary.RECIPROCAL, wide(y))
    if fn in (Binary.MAX, Binary.MIN) and (a is not None or b is not None):
        limit, value = (b, x) if b is not None else (a, y)
        ends = (limit, None) if fn == Binary.MAX else (None, limit)
        if limit == limit:
            return emitted.clamp(build, wide(value), *ends)
    return broadcast(visitor.mover, fn, x, y, shape, time)


def _number(x: Any) -> float | None:
    """`x` if it is one constant number."""
    return float(x.reshape(-1)[0]) if isinstance(x, np.ndarray) and x.size == 1 else None


@handles("Greater", "GreaterOrEqual", elementwise=True)
def _greater(visitor: Visitor, node: Node, x: Any, y: Any) -> Operand:
    fn = Binary.LESS if node.op == "Greater" else Binary.LESS_EQUAL
    return broadcast(visitor.mover, fn, visitor.spread(y, node), x, *visitor.result(node))


@handles("Pow", elementwise=True)
def _pow(visitor: Visitor, node: Node, x: Any, exponent: Any) -> Operand | None:
    number = _number(exponent)
    return None if number is None else emitted.power(visitor.builder, visitor.spread(x, node), number)


@handles("Clip", elementwise=True)
def _clip(visitor: Visitor, node: Node, x: Operand, low: Any = None, high: Any = None) -> Operand | None:
    ends = []
    for given, name in ((low, "min"), (high, "max")):
        if given is not None and _number(given) is None:
            return None
        end = node.attributes.get(name) if given is None else _number(given)
        ends.append(float(end) if isinstance(end, float | int) else None)
    return emitted.clamp(visitor.builder, x, *ends)


@handles("PRelu", elementwise=True)
def _prelu(visitor: Visitor, node: Node, x: Operand, slope: Any) -> Operand | None:
    if _number(slope) is None and not fits(slope.shape, x.shape):
        return None
    return emitted.prelu(visitor.mover, x, slope, *visitor.result(node))


@handles("Mod")
def _mod(visitor: Visitor, node: Node, x: Any, y: Any) -> Operand | None:
    """With the sign of the divisor; of the dividend with `fmod`."""
    build, x, y = visitor.builder, visitor.spread(x, node), visitor.spread(y, node)
    if not node.get("fmod", 0):
        return emitted.rest(build, x, y)
    left = emitted.rest(build, build.unary(Unary.ABS, x), build.unary(Unary.ABS, y))
    return emitted.select(build, emitted.against(build, Binary.LESS, x, 0), scale(build, left, -1.0), left)


@handles("IsInf")
def _is_inf(visitor: Visitor, node: Node, x: Operand) -> Operand | None:
    if not (node.get("detect_negative", 1) and node.get("detect_positive", 1)):
        return None
    return FUNCTIONS["isinf"](visitor.builder, x)


@handles("Cast", "CastLike", lazy=True)
def _cast(visitor: Visitor, node: Node, x: Any, like: Any = None) -> Any:
    """Numbers are float32 in a program; to whole numbers they are truncated."""
    before, after = visitor.type(node.inputs[0]).dtype, visitor.type(node.outputs[0]).dtype
    if after.kind == "b" and before.kind != "b":
        return emitted.against(visitor.builder, Binary.NOT_EQUAL, visitor.materialize(x), 0)
    if before.kind == "f" and after.kind in "iu" and not visitor.is_token(x):
        return emitted.trunc(visitor.builder, visitor.materialize(x))
    plain = after.kind == "f" or visitor.is_token(x) or (before.kind in "iub" and after.itemsize >= before.itemsize)
    return x if plain and isinstance(x, Operand | LazyView) else None
