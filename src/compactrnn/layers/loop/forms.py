"""Torch's operations on (batch, n) arrays, as values.

A form takes the reader of a traced graph, the node, the width of its result and the node's arguments. It raises a
`TypeError` for arguments that it has no value for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.fx import Node

from ..._activations import ACTIVATIONS, power
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

    def quantized(self, x: Any, dense: Any, memory: Any, kind: str, scale: float, width: int) -> Value:
        """`x W^T` of quantized numbers."""
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


class _Values:
    """`compactrnn._activations.Arithmetic` of values."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def unary(self, name: str, x: Value) -> Value:
        return _reciprocal(self.graph, x) if name == "reciprocal" else self.graph.apply(name, x)

    def affine(self, x: Value, factor: float, shift: float = 0.0) -> Value:
        if factor == -1:
            return self.sub(self.graph.number(shift), x)
        return self.add(self.mul(x, self.graph.number(factor)), self.graph.number(shift))

    def above(self, x: Value) -> Value:
        return self.graph.apply("relu", x)

    def below(self, x: Value) -> Value:
        return self.graph.apply("where", x, self.graph.number(0), x)

    def clamp(self, x: Value, low: float | None, high: float | None) -> Value:
        return _clamp(self.graph, x, low, high)

    def add(self, x: Value, y: Value) -> Value:
        return self.graph.apply("add", x, y)

    def sub(self, x: Value, y: Value) -> Value:
        return self.graph.apply("sub", x, y)

    def mul(self, x: Value, y: Value) -> Value:
        return self.graph.apply("mul", x, y)


def _activation(of: Callable[..., Value]) -> Form:
    return _composed(lambda g, x, *args, **kwargs: of(_Values(g), x, *args, **kwargs))


def _reciprocal(g: Graph, x: Value) -> Value:
    return g.apply("div", g.number(1), x)


def _power(g: Graph, x: Value, exponent: Any) -> Value:
    made = power(_Values(g), x, exponent) if isinstance(exponent, int | float) else None
    if made is None:
        raise TypeError(f"the exponent {exponent}")
    return made


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


def _quantized(
    r: StepReader, node: Node, width: int, x: Any, dense: Any, memory: Any, kind: str, scale: float
) -> Value:
    return r.quantized(x, dense, memory, kind, scale, width)


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


def _total(mean: bool) -> Form:
    def form(
        r: StepReader, node: Node, width: int, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None
    ) -> Value:
        if list(dim if isinstance(dim, list | tuple) else [dim]) not in ([1], [-1]) or dtype is not None:
            raise TypeError("another axis than that of the units, or another type")
        wide = x.meta["val"].shape[-1]
        total = r.graph.total(r.operand(x, wide), wide)
        return r.graph.apply("mul", total, r.graph.number(1 / wide)) if mean else total

    return form


def _layer_norm(
    r: StepReader,
    node: Node,
    width: int,
    x: Any,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Value:
    g, value = r.graph, r.operand(x, width)
    share = g.number(1 / width)
    mean = g.apply("mul", g.total(value, width), share)
    value = g.apply("sub", value, g.spread(mean, width))
    variance = g.apply("mul", g.total(g.apply("mul", value, value), width), share)
    root = g.apply("sqrt", g.apply("add", variance, g.number(eps)))
    value = g.apply("div", value, g.spread(root, width))
    value = value if weight is None else g.apply("mul", value, r.operand(weight, width))
    return value if bias is None else g.apply("add", value, r.operand(bias, width))


def _filled(number: float | None) -> Form:
    def form(r: StepReader, node: Node, width: int, x: Any, *args: Any, **kwargs: Any) -> Value:
        return r.graph.number(args[-1] if number is None else number)

    return form


_UNARY = ("neg", "abs", "sqrt", "exp", "log", "erf", "sigmoid", "tanh")
FORMS: dict[str, Form] = {
    **{name: _activation(of) for name, of in ACTIVATIONS.items()},
    **{name: _plain(name, 1) for name in _UNARY},
    **{name: _plain(name, 2) for name in ("mul", "div", "maximum", "minimum")},
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "rsub": _composed(lambda g, a, b, alpha=1: g.apply("sub", _as_value(g, b), g.apply("mul", a, g.number(alpha)))),
    "multiply": _plain("mul", 2),
    "true_divide": _plain("div", 2),
    "reciprocal": _composed(_reciprocal),
    "pow": _composed(_power),
    "lerp": _composed(_lerp),
    "clamp": _composed(_clamp),
    "clip": _composed(_clamp),
    "clamp_min": _composed(lambda g, x, low: _clamp(g, x, low)),
    "clamp_max": _composed(lambda g, x, high: _clamp(g, x, None, high)),
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
    "quantized_linear": _quantized,
    "sum": _total(False),
    "mean": _total(True),
    "layer_norm": _layer_norm,
    "slice": _cut,
    "narrow": _narrow,
    "cat": _joined,
    "concat": _joined,
    "zeros_like": _filled(0.0),
    "ones_like": _filled(1.0),
    "full_like": _filled(None),
    **dict.fromkeys(("alias", "clone", "contiguous", "to", "_to_copy", "view_as", "expand_as"), _same),
}
