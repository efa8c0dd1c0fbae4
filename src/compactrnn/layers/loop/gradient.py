"""Reverse-mode differentiation of one time step, as values of the same graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from .values import Graph, Value, ordered


@dataclass
class Gradient:
    """Gradients of the step's inputs, from `grads` of its output and its new states, and from the step's own values.

    That of matrix m is the sum over rows and time of `outer(left, right)` for each (m, left, right) in `matrices`; that
    of vector n is the sum of `vectors[n]`. Where `scales` has one for (m, right), right is quantized with it.
    """

    projected: Value
    states: tuple[Value, ...]
    vectors: dict[int, Value] = field(default_factory=dict)
    matrices: list[tuple[int, Value, Value]] = field(default_factory=list)
    scales: dict[tuple[int, Value], float] = field(default_factory=dict)


def differentiate(graph: Graph, outputs: list[tuple[Value, Value]], projected: Value, states: list[Value]) -> Gradient:
    """Propagate gradients back from `outputs`, pairs of a value and its gradient."""
    pieces: dict[Value, list[tuple[int, Value]]] = {}
    matrices: list[tuple[int, Value, Value]] = []
    scales: dict[tuple[int, Value], float] = {}
    for value, grad in outputs:
        pieces.setdefault(value, []).append((0, grad))
    order = ordered(v for v, _ in outputs)
    for value in reversed(order):
        if value not in pieces or not value.args:
            continue
        grad = _assemble(graph, value.width, pieces[value])
        if value.op == "slice":
            pieces.setdefault(value.args[0], []).append((value.key, grad))  # pyright: ignore
        elif value.op == "cat":
            start = 0
            for part in value.args:
                pieces.setdefault(part, []).append((0, graph.slice(grad, start, part.width)))
                start += part.width
        elif value.op == "linear":
            (x,), (matrix, transposed) = value.args, value.key  # pyright: ignore
            matrices.append((matrix, x, grad) if transposed else (matrix, grad, x))
            pieces.setdefault(x, []).append((0, graph.linear(grad, matrix, not transposed, x.width)))
        elif value.op == "quantized":  # rounding passes gradients on
            (x,), (matrix, _, _, scale) = value.args, value.key  # pyright: ignore
            matrices.append((matrix, grad, x))
            scales[matrix, x] = scale
            pieces.setdefault(x, []).append((0, graph.linear(grad, matrix, True, x.width)))
        else:
            for argument, share in zip(value.args, RULES[value.op](graph, value, grad), strict=True):
                if share is not None and argument.op != "number":
                    pieces.setdefault(argument, []).append((0, share))

    def total(value: Value) -> Value:
        return _assemble(graph, value.width, pieces.get(value, []))

    vectors = {v.key: total(v) for v in order if v.op == "vector" and v in pieces}
    return Gradient(total(projected), tuple(map(total, states)), vectors, matrices, scales)  # pyright: ignore


def _assemble(graph: Graph, width: int, pieces: list[tuple[int, Value]]) -> Value:
    """The sum of values placed at column offsets within `width`; 0 elsewhere."""
    edges = sorted({0, width, *(s for s, _ in pieces), *(s + _width(v, s, width) for s, v in pieces)})
    parts = []
    for start, end in pairwise(edges):
        total = graph.number(0)
        for first, value in pieces:
            if first <= start and end <= first + _width(value, first, width):
                total = graph.apply("add", total, graph.slice(value, start - first, end - start))
        parts.append((total, end - start))
    return graph.cat(parts)


def _width(value: Value, start: int, width: int) -> int:
    return value.width or width - start


Rule = Callable[[Graph, Value, Value], tuple[Value | None, ...]]


def _product(g: Graph, v: Value, d: Value) -> tuple[Value, Value]:
    a, b = v.args
    return g.apply("mul", d, b), g.apply("mul", d, a)


def _quotient(g: Graph, v: Value, d: Value) -> tuple[Value, Value]:
    share = g.apply("div", d, v.args[1])
    return share, g.apply("neg", g.apply("mul", share, v))


def _absolute(g: Graph, v: Value, d: Value) -> tuple[Value]:
    (a,), zero = v.args, g.number(0)
    other = g.apply("where", g.apply("neg", a), g.apply("neg", d), zero)
    return (g.apply("where", a, d, other),)


def _larger(g: Graph, v: Value, d: Value) -> tuple[Value, Value]:
    """The gradient goes to the larger operand, half to each where they are equal."""
    a, b = v.args if v.op == "maximum" else reversed(v.args)
    above, below = g.apply("greater", a, b), g.apply("greater", b, a)
    share = g.apply("mul", g.apply("sub", above, below), g.number(0.5))
    first = g.apply("mul", d, g.apply("add", share, g.number(0.5)))
    second = g.apply("sub", d, first)
    return first, second


def _bell(g: Graph, x: Value) -> Value:
    """The slope of erf, 2 / sqrt(pi) exp(-x^2)."""
    fallen = g.apply("exp", g.apply("neg", g.apply("mul", x, x)))
    return g.apply("mul", fallen, g.number(2 / math.sqrt(math.pi)))


RULES: dict[str, Rule] = {
    "copy": lambda g, v, d: (d,),
    "add": lambda g, v, d: (d, d),
    "sub": lambda g, v, d: (d, g.apply("neg", d)),
    "mul": _product,
    "div": _quotient,
    "neg": lambda g, v, d: (g.apply("neg", d),),
    "abs": _absolute,
    "sqrt": lambda g, v, d: (g.apply("div", g.apply("mul", d, g.number(0.5)), v),),
    "exp": lambda g, v, d: (g.apply("mul", d, v),),
    "log": lambda g, v, d: (g.apply("div", d, v.args[0]),),
    "erf": lambda g, v, d: (g.apply("mul", d, _bell(g, v.args[0])),),
    "sigmoid": lambda g, v, d: (g.apply("sigmoid_grad", d, v),),
    "tanh": lambda g, v, d: (g.apply("tanh_grad", d, v),),
    "relu": lambda g, v, d: (g.apply("where", v, d, g.number(0)),),
    "maximum": _larger,
    "minimum": _larger,
    "greater": lambda g, v, d: (None, None),
    "spread": lambda g, v, d: (g.total(d, v.width),),
    "total": lambda g, v, d: (g.spread(d, v.args[0].width),),
    "where": lambda g, v, d: (
        None,
        g.apply("where", v.args[0], d, g.number(0)),
        g.apply("where", v.args[0], g.number(0), d),
    ),
}
