"""From a traced step to a graph of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ...cells.base import AbstractCell
from ..node_names import operation
from .forms import FORMS
from .values import Graph, Value

BATCH = 3


class NotTraceable(Exception):
    """Why a step stays with the plain loop."""


@dataclass
class Line:
    """A delay line: its rows, the newest first, and the value that a step pushes before them."""

    rows: list[Value]
    pushed: Value

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self.rows[0].width


@dataclass
class Step:
    """What one step computes: outputs, `widths` columns wide, and the states after it.

    `lines` are the states, by number, that are delay lines; as values they are their rows side by side.
    `prepare(cell)` gives, with gradients, the vectors and matrices that do not change over a sequence. Weights named in
    `dense` are multiplied by their dense matrices, as the graph has no values for their own products. `exact`: every
    operation is to be rounded as the engine rounds it, which fuses none.
    """

    graph: Graph
    projected: Value
    states: list[Value]
    outputs: list[Value]
    widths: list[int]
    after: list[Value]
    vectors: list[Value]
    prepare: Callable[[AbstractCell], tuple[list[Tensor], list[Tensor]]]
    lines: dict[int, Line]
    dense: tuple[str, ...] = ()
    exact: bool = False


class GraphReader:
    """Turns torch's graph into values: what no state and no input feeds is left to torch, once per sequence."""

    def __init__(
        self, traced: GraphModule, names: list[str], delays: list[tuple[str, int]], dense: tuple[str, ...], what: str
    ):
        self.traced, self.names, self.dense, self.what, self.batch = traced, names, dense, what, BATCH
        self.graph = Graph()
        holders = [n for n in traced.graph.nodes if n.op == "placeholder"]
        self.parts, rest = holders[: len(names)], holders[len(names) :]
        self.values: dict[Node, Any] = {}
        self.projected = self._input(rest[0], "projected", None)
        self.delays = delays
        self.rows: dict[int, list[Value]] = {}
        self.states = [self._state(i, node) for i, node in enumerate(rest[1 : 1 + len(delays)])]
        self.vectors: dict[tuple[Node, int], Value] = {}
        self.matrices: dict[Node, int] = {}

    def _input(self, node: Node, op: str, key: Any) -> Value:
        made = self.values[node] = self.graph.value(op, width=node.meta["val"].shape[-1], key=key)
        return made

    def _state(self, number: int, node: Node) -> Value:
        _, delay = self.delays[number]
        if not delay:
            return self._input(node, "state", number)
        width = node.meta["val"].shape[-1] // delay
        rows = self.rows[number] = [self.graph.value("past", width=width, key=(number, i)) for i in range(delay)]
        made = self.values[node] = self.graph.cat((row, width) for row in rows)
        return made

    def _line(self, number: int, after: Value) -> Line:
        """The line of state `number`, of which `after` must be the next state."""
        rows, parts = self.rows[number], _flat(after)
        pushed = parts[: len(parts) - len(rows) + 1]
        whole = len(rows) == 1 or parts[len(pushed) :] == rows[:-1]
        if not whole or (after.op != "number" and sum(p.width for p in pushed) != rows[0].width):
            name = self.delays[number][0]
            raise NotTraceable(f"{self.what}: the delay line {name!r} is not updated by push({name}, x)")
        return Line(rows, after if after.op == "number" else self.graph.cat((p, p.width) for p in pushed))

    def read(self) -> Step:
        (end,) = (n for n in self.traced.graph.nodes if n.op == "output")
        steady = dict.fromkeys(self.parts)
        for node in self.traced.graph.nodes:
            if node.op == "get_attr":
                raise NotTraceable(
                    f"{self.what}: a tensor that is neither a parameter nor a buffer; register_buffer in __init__"
                )
            if node.op != "call_function":
                continue
            if not any(n in self.values for n in node.all_input_nodes):
                self._check_steady(node)
                steady[node] = None
            elif node.users:
                self.values[node] = self._value(node)
        results = [self._result(n) for n in end.args[0]]  # pyright: ignore
        sizes = [s.width for s in self.states]
        if [r.width or n for r, n in zip(results[1:], sizes, strict=True)] != sizes:
            raise NotTraceable(f"{self.what}: states change their sizes")
        return Step(
            self.graph,
            self.projected,
            self.states,
            results[:1],
            [end.args[0][0].meta["val"].shape[-1]],  # pyright: ignore
            results[1:],
            list(self.vectors.values()),
            self._preparation(list(steady)),
            {i: self._line(i, results[1 + i]) for i in self.rows},
            self.dense,
        )

    def _check_steady(self, node: Node) -> None:
        if node.target is torch._C._set_grad_enabled:
            raise NotTraceable(f"{self.what}: switches gradients off or on")
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotTraceable(f"{self.what}: {operation(node)} draws random numbers")

    def _result(self, node: Any) -> Value:
        return self.operand(node, node.meta["val"].shape[-1])

    def _preparation(self, steady: list[Node]) -> Callable[[AbstractCell], tuple[list[Tensor], list[Tensor]]]:
        wanted = [*(n for n, _ in self.vectors), *self.matrices]
        needed: set[Node] = set()
        for node in reversed(steady):
            if node in wanted or any(u in needed for u in node.users):
                needed.add(node)
        calls = [n for n in steady if n in needed and n.op == "call_function"]
        inputs = {n: name for n, name in zip(self.parts, self.names, strict=True) if n in needed}
        vectors, matrices = list(self.vectors), list(self.matrices)

        def prepare(cell: AbstractCell) -> tuple[list[Tensor], list[Tensor]]:
            def part(name: str) -> Tensor:
                path, _, last = name.removeprefix("cell.").rpartition(".")
                owner: Any = cell.get_submodule(path)
                return owner.dense() if path in self.dense else getattr(owner, last)

            known: dict[Node, Any] = {node: part(name) for node, name in inputs.items()}
            for node in calls:
                known[node] = node.target(  # pyright: ignore
                    *map_arg(node.args, lambda n: known[n]), **map_arg(node.kwargs, lambda n: known[n])
                )
            return [
                known[n].expand(*known[n].shape[:-1], w).reshape(w) if known[n].dim() else known[n].expand(w)
                for n, w in vectors
            ], [known[n] for n in matrices]

        return prepare

    def operand(self, argument: Any, width: int) -> Value:
        """An argument of an element-wise operation that is `width` wide."""
        if isinstance(argument, bool | int | float):
            return self.graph.number(float(argument))
        if not isinstance(argument, Node):
            raise NotTraceable(f"{self.what}: an operand of type {type(argument).__name__}")
        if argument in self.values:
            found = self.values[argument]
            if not isinstance(found, Value):
                raise NotTraceable(f"{self.what}: several tensors where one is wanted")
            if found.width == 1:
                return self.graph.spread(found, width)
            if found.op != "number" and found.width != width:
                raise NotTraceable(f"{self.what}: arrays of {found.width} and of {width} columns are combined")
            return found
        value = argument.meta["val"]
        if not isinstance(value, Tensor):
            raise NotTraceable(f"{self.what}: a number out of a tensor (item(), float()); leave it a tensor")
        if value.numel() not in (1, width) or value.shape[-1:] not in ((), (1,), (width,)):
            raise NotTraceable(f"{self.what}: {_shape(value)} is combined with (batch, {width})")
        if not value.dtype.is_floating_point:
            raise NotTraceable(f"{self.what}: {value.dtype} is combined with (batch, {width})")
        return self.vectors.setdefault(
            (argument, width), self.graph.value("vector", width=width, key=len(self.vectors))
        )

    def _value(self, node: Node) -> Any:
        name = operation(node)
        if name in ("chunk", "split", "split_with_sizes", "unbind"):
            return self._pieces(node)
        if name == "getitem":
            return self.values[node.args[0]][node.args[1]]  # pyright: ignore
        shape = node.meta["val"].shape if isinstance(node.meta.get("val"), Tensor) else ()
        if len(shape) != 2 or shape[0] != self.batch:
            raise NotTraceable(f"{self.what}: {name} makes {_shape(node.meta.get('val'))}, not (batch, n)")
        width = shape[1]
        if name in FORMS:
            takes = FORMS[name]
            rest = {k: v for k, v in node.kwargs.items() if v is not None}
            try:
                return takes(self, node, width, *node.args, **rest)
            except TypeError as error:
                raise NotTraceable(f"{self.what}: {name}: {error}") from error
        raise NotTraceable(f"{self.what}: no native form of {name}")

    def _pieces(self, node: Node) -> list[Value]:
        source = self.values[node.args[0]]  # pyright: ignore
        pieces, start = [], 0
        for part in node.meta["val"]:
            if part.dim() != 2 or part.shape[0] != self.batch:
                raise NotTraceable(f"{self.what}: {operation(node)} of the batch")
            pieces.append(self.graph.slice(source, start, part.shape[-1]))
            start += part.shape[-1]
        return pieces

    def matrix(self, node: Any) -> int:
        """The number of a matrix that does not change over time."""
        if node in self.values or node.meta["val"].dim() != 2:
            raise NotTraceable(f"{self.what}: a product of two values that change from step to step")
        return self.matrices.setdefault(node, len(self.matrices))

    def product(self, x: Any, matrix: Any, transposed: bool, width: int) -> Value:
        """`x W^T` (transposed: `x W`)."""
        if x not in self.values or self.values[x].op == "number":
            raise NotTraceable(f"{self.what}: a product with no value of the step on the left")
        return self.graph.linear(self.values[x], self.matrix(matrix), transposed, width)

    def quantized(self, x: Any, dense: Any, memory: Any, kind: str, scale: float, width: int) -> Value:
        """`x W^T` of quantized numbers."""
        if x not in self.values or self.values[x].op == "number":
            raise NotTraceable(f"{self.what}: a product with no value of the step on the left")
        return self.graph.quantized(self.values[x], self.matrix(dense), self.matrix(memory), kind, scale, width)


def _flat(value: Value) -> list[Value]:
    """What a value is put together of."""
    return [part for a in value.args for part in _flat(a)] if value.op == "cat" else [value]


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
