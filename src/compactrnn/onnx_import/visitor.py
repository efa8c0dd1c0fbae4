"""Traversal of a folded graph, with a handler for each operator."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from .._errors import UnsupportedModelError
from ..emit.address import EVERY_TWO, LazyView, Source, why_unclear
from ..emit.attention import CAN, Scores
from ..emit.builder import Builder, Operand
from ..emit.convolution import MOST_ROWS
from ..emit.factor import entries_or_dense
from ..emit.movement import Mover
from ..emit.plan import SHIFT
from ..emit.positions import Table, longest_table
from ..emit.products import linear
from ..emit.step_count import counted
from .evaluate import evaluate, is_known
from .folded import Folded, Node, Typed
from .model_file import FileError, ModelFile, NodeError, blamed, refuse, where

Taken = Operand | LazyView | Scores | np.ndarray  # what a value is while a program is built: a constant as float64
Handler = Callable[..., Any]

_MADE_UP = re.compile(r"(^|::\w*?)_?\d+$")  # what exporters call weights that have no name: 173, onnx::GRU_382

_OF_NUMBERS = ("Add", "Sub", "Mul", "Div", "Max", "Min")  # may have the number of steps as one of their inputs
_FAR = 1000  # steps at which a number is compared with what it is taken for

HANDLERS: dict[str, Handler] = {}
SCORES_HANDLERS: dict[str, Handler] = {}
LAZY: set[str] = set()  # those whose handlers get moved entries before they are in place
ELEMENTWISE: set[str] = set()  # those whose handlers do the same to every entry


def handles(*names: str, lazy: bool = False, elementwise: bool = False) -> Callable[[Handler], Handler]:
    """Register a function `(visitor, node, *inputs) -> value, or a list of values` for operators of these names.

    Inputs are `Operand`s, arrays, or None; `lazy` handlers get `LazyView`s, too. None as the result is a refusal. An
    `elementwise` operator does the same to every entry, and broadcasts its inputs: it may get vectors of all entries in
    another order.
    """

    def register(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, function))
        LAZY.update(names if lazy else ())
        ELEMENTWISE.update(names if elementwise else ())
        return function

    return register


def handles_scores(*names: str) -> Callable[[Handler], Handler]:
    """As `handles`, for functions that get `Scores` among their inputs."""

    def register(function: Handler) -> Handler:
        SCORES_HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def fits(shape: Sequence[int], wide: Sequence[int]) -> bool:
    """Whether an array of `shape` can be broadcast to `wide`."""
    return len(shape) <= len(wide) and all(n in (1, m) for n, m in zip(shape[::-1], wide[::-1], strict=False))


@lru_cache(1)
def operators() -> dict[str, Handler]:
    """All handlers by the names of their operators."""
    from . import operators as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return HANDLERS


class Visitor:
    """Lowers a graph folded for sequences of some number of steps, and `longer` for one step more.

    An axis that has grown is time. Where both are the same the graph is one step, and no axis is time. `initial` are
    the states of the stream as a sequence reads them, which only recurrent layers may, as what they start from.
    `tokens` are inputs of whole numbers, whatever type the file gives them. `steps` is for how many steps the graph is,
    each of which may be several entries of the time axis. `longest` gives the graph for a very long sequence, or None,
    `at` a constant by its name for some number of steps, or None.
    """

    def __init__(
        self,
        builder: Builder,
        file: ModelFile,
        folded: Folded,
        longer: Folded,
        initial: Sequence[Operand] = (),
        tokens: Sequence[Operand | LazyView] = (),
        steps: int | None = None,
        longest: Callable[[], Folded | None] = lambda: None,
        at: Callable[[str, int], np.ndarray | None] = lambda name, steps: None,
    ):
        self.builder = builder
        self.mover = Mover(builder, steps)
        self.file = file
        self.folded = folded
        self.longer = longer
        self.initial = {id(state) for state in initial}
        self.tokens = {token.ref.buffer for token in tokens if isinstance(token, Operand)}
        self._longest = longest
        self._at = cache(at)
        self._constants: dict[str, np.ndarray] = {}
        self._steps: int | None = None  # entries of time of what an operator gives, where it has more
        self._width: int | None = None  # of the vectors that an elementwise operator gets

    def lower(self, inputs: dict[str, Taken]) -> list[Taken]:
        """Operations for all nodes; returns what the outputs are."""
        if [n.outputs for n in self.folded.nodes] != [n.outputs for n in self.longer.nodes]:
            if loop := next((n for n in self.file.graph.node if n.op_type == "Loop"), None):
                why = self.folded.unlike.get(loop.output[0], "")
                raise refuse(
                    loop,
                    f"is not taken: how often it runs depends on the number of steps{why and f', and {why}'}; what"
                    " would help: a Scan, or a file for one number of steps, in which it runs a fixed number of times",
                )
            raise FileError(f"{self.file.name}: which operators run depends on the number of steps", 1)
        taken: dict[str, Taken] = dict(inputs)
        for node in self.folded.nodes:
            self.builder.where = where(node.proto)
            given = [self._given(name, taken) for name in node.inputs]
            try:
                results = self._lowered(node, given)
            except NodeError as error:
                names = [n for n in (*node.inputs, *node.outputs) if n]
                error.every_two = any(self.grown(n) == EVERY_TWO for n in names)
                raise
            for name, result in zip(node.outputs, results, strict=False):
                if name:
                    taken[name] = result
        return [self._given(name, taken) for name in self.folded.outputs]  # pyright: ignore[reportReturnType]

    def _given(self, name: str, taken: dict[str, Taken]) -> Taken | None:
        if not name:
            return None
        if name not in taken and isinstance(self.folded.values[name], Typed):
            raise UnsupportedModelError(f"{name!r}, which the model reads or gives, is no value that can be computed")
        return taken[name] if name in taken else self.constant(name)

    def constant(self, name: str) -> np.ndarray:
        """A constant as movement reads it: of the same name the same array."""
        if name not in self._constants:
            value = self.folded.values[name]
            assert isinstance(value, np.ndarray)
            if value.dtype.kind not in "fiub" and value.dtype.itemsize > 2:
                raise UnsupportedModelError(f"{name!r}: expected numbers, got {value.dtype}")
            self._constants[name] = np.ascontiguousarray(value, np.float64).reshape(value.shape)
            if value.shape != self.longer.values[name].shape:
                self.mover.grows(self._constants[name], partial(self._table, name))
        return self._constants[name]

    def _lowered(self, node: Node, given: list[Taken | None]) -> list[Taken]:
        handler = operators().get(node.op) if is_known(node.proto) else None
        if handler is None:
            raise refuse(
                node.proto,
                "is not taken: the importer has no such operator; docs/support.md lists those that it has",
            )
        with blamed(node.proto):
            if any(isinstance(x, Scores) for x in given):
                return [self._with_scores(node, given)]
            if node.op in _OF_NUMBERS:
                given = self._counted(node, given)
            order = self._order(node, given) if node.op in ELEMENTWISE else None
            if (cut := self._without_added(node, given)) is not None:
                result = self._but_added(node, handler, cut)
            elif order is None:
                result = handler(self, node, *(x if node.op in LAZY else self.materialize(x) for x in given))
            else:
                result = self._in_order(node, handler, given, order)
        if result is None:
            shapes = ", ".join(str(tuple(x.shape)) for x in given if x is not None)
            raise refuse(node.proto, f"is not taken with these inputs (of shape {shapes}) and attributes")
        return result if isinstance(result, list) else [result]

    def _without_added(self, node: Node, given: list[Taken | None]) -> list[Taken | None] | None:
        """`given` without the steps that they have after the last; None where there are none, or others read them."""
        steps = self.mover.steps
        if node.op not in {*ELEMENTWISE, "BatchNormalization"} or steps is None:
            return None
        if not isinstance(time := self.grown(node.outputs[0]), int):
            return None
        size, steps = self.type(node.outputs[0]).shape[time], steps * self.rate(node.outputs[0])
        cut = list(given)
        for i, (name, x) in enumerate(zip(node.inputs, given, strict=True)):
            axis = self.grown(name) if name else None
            if axis is None or x is None:
                continue
            if isinstance(axis, str) or isinstance(x, np.ndarray | Scores) or not steps < x.shape[axis] == size:
                return None
            cut[i] = self.mover.move([x], lambda moved, a=axis: np.take(moved[0], range(steps), a), axis)
        return cut if size > steps else None

    def _but_added(self, node: Node, handler: Handler, cut: list[Taken | None]) -> Any:
        """What a node makes of `cut`, and after that of steps of which nothing is known."""
        time, name = self.grown(node.outputs[0]), node.outputs[0]
        assert isinstance(time, int)
        whole, self._steps = self.type(name).shape[time], (self.mover.steps or 0) * self.rate(name)
        try:
            result = handler(self, node, *map(self.materialize, cut))
        finally:
            added, self._steps = whole - self._steps, None
        return None if result is None else self.mover.beyond(result, added)

    def _with_scores(self, node: Node, given: list[Taken | None]) -> Taken:
        """What a node makes of the scores of every two steps."""
        handler = SCORES_HANDLERS.get(node.op)
        result = handler and handler(self, node, *(x if isinstance(x, Scores) else self.materialize(x) for x in given))
        if result is None:
            raise refuse(node.proto, f"is not taken here; {CAN}")
        return result

    def longest(self, name: str) -> np.ndarray | None:
        """A constant as it is for a very long sequence, as float64."""
        folded = self._longest()
        value = folded and folded.values.get(name)
        return value.astype(np.float64) if isinstance(value, np.ndarray) else None

    def _table(self, name: str) -> Table | None:
        """A constant that is as long as the sequence, for the longest; None where rows depend on the length."""
        value, time, steps = self.folded.values[name], self.grown(name), self.mover.steps
        if not isinstance(value, np.ndarray) or not isinstance(time, int) or self.rate(name) != 1 or steps is None:
            return None
        return longest_table(value, time, steps, partial(self._at, name))

    def _counted(self, node: Node, given: list[Taken | None]) -> list[Taken | None]:
        """What an operator gets, with numbers that follow from the number of steps as such."""
        names = node.inputs
        return [
            found if isinstance(x, np.ndarray) and x.size == 1 and (found := self._count(name)) is not None else x
            for name, x in zip(names, given, strict=True)
        ]

    def _count(self, name: str) -> Operand | None:
        """A constant a T + b of the number of steps T, or its reciprocal or root; None for others."""
        steps, values = self.mover.steps, [g.values[name] for g in (self.folded, self.longer)]
        if steps is None or any(not isinstance(v, np.ndarray) or v.size != 1 for v in values):
            return None
        one, two = (float(v.ravel()[0]) for v in values)  # pyright: ignore[reportAttributeAccessIssue]
        if one == two or (far := self._at(name, _FAR)) is None or far.size != 1:
            return None
        y = counted(self.mover, {steps: one, steps + 1: two, _FAR: float(far.ravel()[0])})
        return None if y is None else replace(y, shape=self.type(name).shape)

    def _order(self, node: Node, given: list[Taken | None]) -> np.ndarray | None:
        """Where the entries of the result lie in an input that is a whole value in another order; None without one.

        The operator then keeps the order in which the entries already are, and nothing needs to be moved.
        """
        shape = self.type(node.outputs[0]).shape
        if not all(x is None or fits(x.shape, shape) for x in given):
            return None
        for x in given:
            if not isinstance(x, LazyView) or x.time is not None or x.value is not None or x.shape != shape:
                continue
            place = x.address.ravel() % SHIFT
            whole = x.operands[0] if len(np.unique(x.address // SHIFT)) == 1 else None
            if not isinstance(whole, Operand) or whole.time is not None:  # of a sequence it is a single step
                continue
            if whole.width == place.size > 1 and len(np.unique(place)) == place.size:
                return place
        return None

    def _in_order(self, node: Node, handler: Handler, given: list[Taken | None], place: np.ndarray) -> LazyView | None:
        """The result of an elementwise operator on vectors, of which entry `place[i]` is entry i of the result."""
        shape, order = self.type(node.outputs[0]).shape, np.argsort(place)

        def vector(x: Any) -> Any:
            if x is None or (isinstance(x, np.ndarray) and x.size == 1):
                return x
            if isinstance(x, np.ndarray):
                return np.broadcast_to(x, shape).ravel()[order]
            if x.shape == () or x.address.size == 1 if isinstance(x, LazyView) else x.width == 1:
                return self.materialize(x)
            return self.materialize(self.mover.move([x], lambda a: np.broadcast_to(a[0], shape).ravel()[order], None))

        self._width = len(place)
        try:
            value = handler(self, node, *(vector(x) for x in given))
        finally:
            self._width = None
        return value and self.mover.move([value], lambda a: a[0].ravel()[place].reshape(shape), None)

    def materialize(self, x: Any) -> Any:
        """`x`, in place if it is moved entries."""
        x = self.rows(x)
        if isinstance(x, LazyView):
            for operand in x.operands:
                self._check(operand)
            return self.mover.materialize(x)
        self._check(x)
        return x

    def rows(self, x: Any) -> Any:
        """`x`, which must be no scores."""
        if isinstance(x, Scores):
            raise UnsupportedModelError(f"{self.builder.where}: gives the scores of every two steps; {CAN}")
        return x

    def _check(self, x: Any) -> None:
        if id(x) in self.initial:
            raise UnsupportedModelError(
                f"{self.builder.where}: reads a state of the sequence's beginning; in a model with a time axis only"
                " recurrent layers can"
            )

    def is_token(self, x: Any) -> bool:
        """Whether it is made of tokens alone, in any order."""
        parts = x.operands if isinstance(x, LazyView) else [x]
        return all(isinstance(p, Operand) and p.ref.buffer in self.tokens for p in parts)

    def type(self, name: str) -> Typed:
        """Type and shape of a value."""
        return self.folded.type_of(name)

    def grown(self, name: str) -> int | str | None:
        """The axis that is time; None if there is none, a text where that cannot be told."""
        small, large = self.type(name).shape, self.longer.values[name].shape
        axes = [d for d, (n, m) in enumerate(zip(small, large, strict=False)) if n != m]
        if len(small) == len(large) and not axes:
            return None
        clear = len(small) == len(large) and len(axes) == 1 and large[axes[0]] > small[axes[0]]
        if len(small) == len(large) and len(axes) == 2 and all(large[d] - small[d] == 1 for d in axes):
            return EVERY_TWO
        return axes[0] if clear else "unclear"

    def rate(self, name: str) -> int:
        """How many entries of the time axis a step has; 1 where there is none."""
        time = self.grown(name)
        return self.longer.values[name].shape[time] - self.type(name).shape[time] if isinstance(time, int) else 1

    def timed(self, x: Any, name: str) -> Any:
        """The value called `name` with the time axis that it has however many steps were added to it."""
        return replace(x, time=self.grown(name)) if isinstance(x, LazyView) else x

    def result(self, node: Node, number: int = 0) -> tuple[tuple[int, ...], int | None]:
        """Shape and time axis of an output.

        Raises:
            UnsupportedModelError: time is folded into another axis.
        """
        if self._width is not None:
            return (self._width,), None
        name = node.outputs[number]
        time, shape = self.grown(name), self.type(name).shape
        if isinstance(time, str):
            raise refuse(node.proto, why_unclear(time))
        if time is not None and self._steps is not None:
            shape = (*shape[:time], self._steps, *shape[time + 1 :])
        if time is not None:
            self.mover.rates[shape[time]] = self.rate(name)
        return shape, time

    def spread(self, x: Source, node: Node) -> Operand:
        """`x` broadcast to the shape of the node's first result."""
        return self.mover.spread(x, *self.result(node))

    def shaped(self, x: Operand, node: Node, number: int = 0) -> Operand:
        """`x` as the output of this number, of whose entries it has all in order."""
        shape, time = self.result(node, number)
        return replace(x, shape=shape, time=time, rate=self.rate(node.outputs[number]))

    def move(self, node: Node, given: Sequence[Any], data: Sequence[int]) -> list[LazyView]:
        """The results of a node that only moves entries of its inputs of the numbers `data`."""
        places = [i for i in data if i < len(given) and given[i] is not None]
        fixed = [None if x is None else self._fixed(node, i, x, i in places) for i, x in enumerate(given)]
        known: list[np.ndarray] = []

        def run(arrays: list[np.ndarray], number: int) -> np.ndarray:
            if not known:
                filled = list(fixed)
                for place, array in zip(places, arrays, strict=True):
                    filled[place] = np.ascontiguousarray(array).reshape(array.shape)
                known.extend(evaluate(self.file, node.proto, filled))
            return known[number].astype(np.int64)

        operands = [given[i] for i in places]
        return [
            self.mover.move(
                operands,
                lambda x, n=n: run(x, n),
                self.grown(name) if name else None,
                rate=self.rate(name) if name else 1,
            )
            for n, name in enumerate(node.outputs)
        ]

    def _fixed(self, node: Node, number: int, x: Any, moved: bool) -> np.ndarray | None:
        if moved:
            return None
        value = self.folded.values[node.inputs[number]]
        if not isinstance(value, np.ndarray):
            raise refuse(node.proto, f"reads {node.inputs[number]!r}, which depends on data, for where entries go")
        return value

    def linear(self, node: Node, x: Operand, weight: np.ndarray, bias: np.ndarray | None, name: str) -> Operand:
        """`bias` + W x for every vector along the last axis, of which there may be a few thousand a step."""
        rows = x.width // max(weight.shape[1], 1)
        if rows > MOST_ROWS:
            raise refuse(node.proto, f"multiplies {rows} vectors within each step; at most {MOST_ROWS} are taken")
        bias = None if bias is None else np.array(bias, np.float32)
        return linear(self.builder, x, [entries_or_dense(weight.astype(np.float32))], bias, name)

    def weight_name(self, node: Node, number: int) -> str:
        """What a weight is called: as in the file, if it or its bias has a name there, else after the node."""
        name = node.inputs[number] if number < len(node.inputs) else ""
        if name not in self.file.stored or _MADE_UP.search(name):
            named = [n.removesuffix(".bias") for n in node.inputs if n in self.file.stored and n.endswith(".bias")]
            return named[0] if named else node.proto.name or node.outputs[0]
        return name.removesuffix(".weight")
