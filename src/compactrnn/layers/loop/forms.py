"""Torch's operations on (batch, n) arrays, as values.

A form takes the reader of a traced graph, the node, the width of its result and the node's arguments. It raises a
`TypeError` for arguments that it has no value for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.fx import Node

from .values import Graph, Value


class StepReader(Protocol):
    """What forms need of `trace.py`."""

    graph: Graph
    values: dict[Node, Any]

    def operand(self, argument: Any, width: int) -> Value:
        """An argument of an element-wise operation that is `width` wide."""
        ...

    def product(self, x: Any, matrix: Any, transposed: bool, width: int) -> Value:
        """`x W^T` (transposed: `x W`)."""
        ...


Form = Callable[..., Value]


def _plain(op: str, count: int) -> Form:
    def form(r: StepReader, node: Node, width: int, *args: Any) -> Value:
        if len(args) != count:
            raise TypeError(f"{len(args)} arguments")
        return r.graph.apply(op, *(r.operand(a, width) for a in args))

    return form


def _composed(build: Callable[..., Value]) -> Form:
    """A form from its operands (tensors as values) and other arguments (as they are)."""

    def form(r: StepReader, node: Node, width: int, *args: Any, **kwargs: Any) -> Value:
        given = [r.operand(a, width) if isinstance(a, Node) else a for a in args]
        named = {k: r.operand(a, width) if isinstance(a, Node) else a for k, a in kwargs.items()}
        return build(r.graph, *given, **named)

    return form


def _as_value(g: Graph, x: Any) -> Value:
    return x if isinstance(x, Value) else g.number(x)


def _scaled(op: str, swap: bool = False) -> Form:
    def build(g: Graph, a: Any, b: Any, alpha: float = 1) -> Value:
        a, b = (
            _as_value(g, a),
            g.apply("mul", _as_value(g, b if not swap else a), g.number(alpha)) if alpha != 1 else _as_value(g, b),
        )
        return g.apply(op, b, a) if swap else g.apply(op, a, b)

    return _composed(build)


def _clamp(g: Graph, x: Value, min: Any = None, max: Any = None) -> Value:
    for bound, swapped in ((min, False), (max, True)):
        if bound is not None:
            limit = _as_value(g, bound)
            beyond = g.apply("greater", x, limit) if swapped else g.apply("greater", limit, x)
            x = g.apply("where", beyond, limit, x)
    return x


def _lerp(g: Graph, start: Value, end: Value, weight: Any) -> Value:
    return g.apply("add", start, g.apply("mul", _as_value(g, weight), g.apply("sub", end, start)))


def _elu(g: Graph, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    # the branch not taken must stay finite, or its gradient is infinity times zero
    low = g.apply("minimum", x, g.number(0))
    below = g.apply("sub", g.apply("exp", g.apply("mul", low, g.number(input_scale))), g.number(1))
    y = g.apply("where", x, x, g.apply("mul", below, g.number(alpha)))
    return g.apply("mul", y, g.number(scale))


def _leaky(g: Graph, x: Value, negative_slope: float = 0.01) -> Value:
    return g.apply("where", x, x, g.apply("mul", x, g.number(negative_slope)))


def _softplus(g: Graph, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    # log(1 + e^x) = max(x, 0) - log(sigmoid(|x|))
    x = g.apply("mul", x, g.number(beta))
    tail = g.apply("log", g.apply("sigmoid", g.apply("abs", x)))
    return g.apply("div", g.apply("sub", g.apply("relu", x), tail), g.number(beta))


def _gelu(g: Graph, x: Value, approximate: str = "none") -> Value:
    half = g.apply("mul", x, g.number(0.5))
    if approximate == "tanh":
        cubic = g.apply("mul", _power(g, x, 3), g.number(0.044715))
        phi = g.apply("tanh", g.apply("mul", g.apply("add", x, cubic), g.number(math.sqrt(2 / math.pi))))
    else:
        phi = g.apply("erf", g.apply("mul", x, g.number(math.sqrt(0.5))))
    return g.apply("mul", half, g.apply("add", phi, g.number(1)))


def _hardsigmoid(g: Graph, x: Value) -> Value:
    return g.apply("div", _clamp(g, g.apply("add", x, g.number(3)), 0.0, 6.0), g.number(6))


def _power(g: Graph, x: Value, exponent: Any) -> Value:
    known = {1: lambda: x, 2: lambda: g.apply("mul", x, x), 0.5: lambda: g.apply("sqrt", x)}
    known |= {4: lambda: _power(g, _power(g, x, 2), 2), -0.5: lambda: _power(g, _power(g, x, 0.5), -1)}
    known |= {3: lambda: g.apply("mul", x, g.apply("mul", x, x)), -1: lambda: g.apply("div", g.number(1), x)}
    if exponent not in known:
        raise TypeError(f"the exponent {exponent}")
    return known[exponent]()


def _chosen(g: Graph, condition: Value, a: Any, b: Any) -> Value:
    return g.apply("where", condition, _as_value(g, a), _as_value(g, b))


def _greater(swap: bool, negate: bool) -> Form:
    def build(g: Graph, a: Any, b: Any) -> Value:
        a, b = _as_value(g, a), _as_value(g, b)
        above = g.apply("greater", b, a) if swap else g.apply("greater", a, b)
        return g.apply("sub", g.number(1), above) if negate else above

    return _composed(build)


def _same(r: StepReader, node: Node, width: int, x: Any, *rest: Any, **kwargs: Any) -> Value:
    if x.meta["val"].dtype not in (node.meta["val"].dtype, torch.bool):
        raise TypeError("a change of the type of numbers")
    return r.operand(x, width)


def _repeated(r: StepReader, node: Node, width: int, x: Any, *sizes: Any, **kwargs: Any) -> Value:
    return r.operand(x, width)


def _dropout(r: StepReader, node: Node, width: int, x: Any, p: float, train: bool) -> Value:
    if train and p:
        raise TypeError("random numbers")
    return r.operand(x, width)


def _linear(r: StepReader, node: Node, width: int, x: Any, weight: Any, bias: Any = None) -> Value:
    made = r.product(x, weight, False, width)
    return made if bias is None else r.graph.apply("add", made, r.operand(bias, width))


def _addmm(r: StepReader, node: Node, width: int, bias: Any, x: Any, weight: Any) -> Value:
    return r.graph.apply("add", r.product(x, weight, True, width), r.operand(bias, width))


def _cut(
    r: StepReader, node: Node, width: int, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    source = r.values[x]
    if dim in (0, -2):
        return source  # the batch as a whole: its size has been checked
    first = start or 0
    if step != 1:
        raise TypeError("every second column")
    return r.graph.slice(source, first + source.width if first < 0 else first, width)


def _narrow(r: StepReader, node: Node, width: int, x: Any, dim: int, start: int, length: int) -> Value:
    return _cut(r, node, width, x, dim, start)


def _joined(r: StepReader, node: Node, width: int, tensors: Any, dim: int = 0) -> Value:
    if dim not in (1, -1):
        raise TypeError("along the batch")
    sizes = [t.meta["val"].shape[-1] for t in tensors]
    return r.graph.cat((r.operand(t, n), n) for t, n in zip(tensors, sizes, strict=True))


def _filled(number: float | None) -> Form:
    def form(r: StepReader, node: Node, width: int, x: Any, *args: Any, **kwargs: Any) -> Value:
        return r.graph.number(args[-1] if number is None else number)

    return form


_UNARY = ("neg", "abs", "sqrt", "exp", "log", "erf", "sigmoid", "tanh", "relu")
FORMS: dict[str, Form] = {
    **{name: _plain(name, 1) for name in _UNARY},
    **{name: _plain(name, 2) for name in ("mul", "div", "maximum", "minimum")},
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "rsub": _composed(lambda g, a, b, alpha=1: g.apply("sub", _as_value(g, b), g.apply("mul", a, g.number(alpha)))),
    "multiply": _plain("mul", 2),
    "true_divide": _plain("div", 2),
    "square": _composed(lambda g, x: g.apply("mul", x, x)),
    "reciprocal": _composed(lambda g, x: g.apply("div", g.number(1), x)),
    "rsqrt": _composed(lambda g, x: g.apply("div", g.number(1), g.apply("sqrt", x))),
    "pow": _composed(_power),
    "lerp": _composed(_lerp),
    "clamp": _composed(_clamp),
    "clip": _composed(_clamp),
    "clamp_min": _composed(lambda g, x, low: _clamp(g, x, low)),
    "clamp_max": _composed(lambda g, x, high: _clamp(g, x, None, high)),
    "hardtanh": _composed(lambda g, x, low=-1.0, high=1.0: _clamp(g, x, low, high)),
    "relu6": _composed(lambda g, x: _clamp(g, x, 0.0, 6.0)),
    "elu": _composed(_elu),
    "leaky_relu": _composed(_leaky),
    "softplus": _composed(_softplus),
    "celu": _composed(lambda g, x, alpha=1.0: _elu(g, x, alpha, 1, 1 / alpha)),
    "selu": _composed(lambda g, x: _elu(g, x, 1.6732632423543772, 1.0507009873554805)),
    "log_sigmoid": _composed(lambda g, x: g.apply("neg", _softplus(g, g.apply("neg", x)))),
    "mish": _composed(lambda g, x: g.apply("mul", x, g.apply("tanh", _softplus(g, x)))),
    "silu": _composed(lambda g, x: g.apply("mul", x, g.apply("sigmoid", x))),
    "gelu": _composed(_gelu),
    "hardsigmoid": _composed(_hardsigmoid),
    "hardswish": _composed(lambda g, x: g.apply("mul", x, _hardsigmoid(g, x))),
    "addcmul": _composed(
        lambda g, a, b, c, value=1: g.apply("add", a, g.apply("mul", g.apply("mul", b, c), g.number(value)))
    ),
    "where": _composed(_chosen),
    "gt": _greater(False, False),
    "lt": _greater(True, False),
    "le": _greater(False, True),
    "ge": _greater(True, True),
    "dropout": _dropout,
    "expand": _repeated,
    "linear": _linear,
    "mm": lambda r, node, width, x, weight: r.product(x, weight, True, width),
    "matmul": lambda r, node, width, x, weight: r.product(x, weight, True, width),
    "addmm": _addmm,
    "slice": _cut,
    "narrow": _narrow,
    "cat": _joined,
    "concat": _joined,
    "zeros_like": _filled(0.0),
    "ones_like": _filled(1.0),
    "full_like": _filled(None),
    **dict.fromkeys(("alias", "clone", "contiguous", "to", "_to_copy", "view_as", "expand_as"), _same),
}
