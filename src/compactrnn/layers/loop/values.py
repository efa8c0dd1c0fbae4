"""Intermediate representation of one time step: a graph of values.

A value is a (batch, width) array, or, the same in every row, a vector or a number. Operations are those of
native/loop/loop.h, in lower case, and these, which compute nothing:

- inputs: `projected`; `state`, `vector` and `matrix` number `key`; `past`, row `key[1]` of delay line `key[0]`, the
  newest first; `number` (its `key`); `grad` (of what, its `key`);
- `slice`, columns `key` to `key + width` of a value, and `cat`, values side by side.

`linear` is `x W^T` with the matrix `key = (number, transposed)`, or `addend + x W^T`. `quantized` is that with x and
W quantized, see `weights.fake_quant`: its `key` is the number of W, that of packed W, its type and the scale of x.
`spread` repeats a value of one column, `total` is the sum over the columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

INPUTS = frozenset(["projected", "state", "past", "vector", "number", "grad"])

# What each operation means, in torch.
MEANING: dict[str, Callable[..., Tensor]] = {
    "copy": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "mul_add": lambda a, b, c: a * b + c,
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": lambda a, b: (a > b).to(torch.promote_types(a.dtype, b.dtype)),
    "where": lambda a, b, c: torch.where(a > 0, b, c),
    "sigmoid_grad": lambda d, y: d * y * (1 - y),
    "tanh_grad": lambda d, y: d * (1 - y * y),
}


@dataclass(frozen=True, eq=False)
class Value:
    """The result of `op` on `args`, `width` columns wide (a number: 0)."""

    op: str
    args: tuple[Value, ...] = ()
    width: int = 0
    key: Hashable = None


class Graph:
    """Builds values with common-subexpression elimination and constant folding."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Value] = {}

    def value(self, op: str, *args: Value, width: int = 0, key: Hashable = None) -> Value:
        """Intern the value, without simplification."""
        identity = (op, *map(id, args), width, key)
        return self._made.setdefault(identity, Value(op, args, width, key))

    def number(self, x: float) -> Value:
        return self.value("number", key=float(x))

    def apply(self, op: str, *args: Value) -> Value:
        if all(a.op == "number" for a in args):
            return self.number(float(MEANING[op](*(torch.tensor(a.key, dtype=torch.float64) for a in args))))
        if len(args) == 2 and (simple := self._simpler(op, *args)):
            return simple
        return self.value(op, *args, width=max(a.width for a in args))

    def _simpler(self, op: str, a: Value, b: Value) -> Value | None:
        x, y = (v.key if v.op == "number" else math.nan for v in (a, b))
        if (op == "add" and x == 0) or (op == "mul" and x == 1):
            return b
        if (op in ("add", "sub") and y == 0) or (op in ("mul", "div") and y == 1):
            return a
        if op == "sub" and x == 0:
            return self.apply("neg", b)
        if op == "add" and b.op == "neg":
            return self.apply("sub", a, b.args[0])
        return None

    def linear(self, x: Value, matrix: int, transposed: bool, width: int) -> Value:
        """`x W^T`, or `x W`."""
        return self.value("linear", x, width=width, key=(matrix, transposed))

    def quantized(self, x: Value, matrix: int, memory: int, kind: str, scale: float, width: int) -> Value:
        """`x W^T` with x and W quantized."""
        return self.value("quantized", x, width=width, key=(matrix, memory, kind, scale))

    def spread(self, x: Value, width: int) -> Value:
        """A value of one column, in each of `width` columns."""
        return x if x.op == "number" or width == 1 else self.value("spread", x, width=width)

    def total(self, x: Value, width: int) -> Value:
        """The sum over the `width` columns of a value."""
        if x.op == "number":
            return self.number(x.key * width)  # pyright: ignore
        return x if width == 1 else self.value("total", x, width=1)

    def slice(self, x: Value, start: int, width: int) -> Value:
        """Columns of a value."""
        if width == 0:
            return self.number(0)
        if x.op == "number" or (start == 0 and width == x.width):
            return x
        if x.op == "slice":
            return self.slice(x.args[0], x.key + start, width)  # pyright: ignore
        if x.op == "cat":
            parts, first = [], 0
            for part in x.args:
                low, high = max(start - first, 0), min(start + width - first, part.width)
                if low < high:
                    parts.append((self.slice(part, low, high - low), high - low))
                first += part.width
            return self.cat(parts)
        return self.value("slice", x, width=width, key=start)

    def cat(self, parts: Iterable[tuple[Value, int]]) -> Value:
        """Values side by side, each with its width; neighbors cut from one value are put together again."""
        joined: list[tuple[Value, int]] = []
        for part, width in parts:
            if width == 0:
                continue
            before, wide = joined[-1] if joined else (part, 0)
            if before.op == "number" and before is part and joined:
                joined[-1] = (part, wide + width)
            elif joined and _meet(before, part):
                joined[-1] = (self.slice(before.args[0], before.key, wide + width), wide + width)  # pyright: ignore
            else:
                joined.append((part, width))
        if len(joined) == 1:
            return joined[0][0]
        parts_ = [self.value("copy", p, width=w) if p.op == "number" else p for p, w in joined]
        return self.value("cat", *parts_, width=sum(w for _, w in joined))


def _meet(left: Value, right: Value) -> bool:
    if left.op != "slice" or right.op != "slice" or left.args[0] is not right.args[0]:
        return False
    return left.key + left.width == right.key  # pyright: ignore


def ordered(roots: Iterable[Value], known: Callable[[Value], bool] = lambda value: False) -> list[Value]:
    """All values that `roots` depend on, in topological order; stops at `known` ones."""
    seen: dict[Value, None] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        value, done = stack.pop()
        if value in seen:
            continue
        if done or known(value) or not value.args:
            seen[value] = None
            continue
        stack.append((value, True))
        stack.extend((a, False) for a in reversed(value.args))
    return list(seen)


def evaluate(
    values: Sequence[Value], known: Mapping[Value, Tensor], like: Tensor, matrices: Sequence[Tensor] = ()
) -> list[Tensor]:
    """The values by torch, for one step or many: `known` has the inputs, (..., width); numbers become as `like`."""
    results = dict(known)
    for v in ordered(values, lambda v: v in results):
        if v in results:
            continue
        args = [results[a] for a in v.args]
        if v.op == "number":
            results[v] = like.new_tensor(v.key)
        elif v.op == "slice":
            results[v] = args[0].narrow(-1, v.key, v.width)  # pyright: ignore
        elif v.op == "cat":
            rows = torch.broadcast_shapes(*(a.shape[:-1] for a in args))
            results[v] = torch.cat([a.expand(*rows, p.width) for a, p in zip(args, v.args, strict=True)], -1)
        elif v.op == "linear":
            number, transposed = v.key  # pyright: ignore
            results[v] = args[0] @ (matrices[number] if transposed else matrices[number].mT)
        elif v.op == "quantized":
            number, memory, kind, scale = v.key  # pyright: ignore
            results[v] = torch.ops.compactrnn.quantized_linear(args[0], matrices[number], matrices[memory], kind, scale)
        elif v.op == "spread":
            results[v] = args[0].expand(*args[0].shape[:-1], v.width)
        elif v.op == "total":
            results[v] = args[0].sum(-1, keepdim=True)
        else:
            results[v] = MEANING[v.op](*args)
    return [results[v] for v in values]
