"""Traversal of an exported graph, with a handler for each ATen operation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..emit.address import EVERY_TWO, LazyView, why_unclear
from ..emit.attention import CAN, Scores
from ..emit.builder import Builder, Operand
from ..emit.lengths import FEWEST, MOST
from ..emit.movement import Mover
from ..emit.pointwise import FUNCTIONS
from ..emit.positions import Table, longest_table
from ..emit.step_count import counted
from ..graph.aten import FRESH, INDEXED, MOVES, PADS, constant_pad
from ..graph.trace import FOURIER, Trace, operation
from .masks import Mask

_OF_NUMBERS = ("add", "sub", "rsub", "mul", "div", "maximum", "minimum")  # may have the number of steps as one
_EACH_STEP = {
    *FUNCTIONS,
    *("add", "sub", "rsub", "mul", "div", "pow", "maximum", "minimum", "prelu", "where"),
    *("amax", "amin", "sum", "mean", "linear", "layer_norm", "_native_batch_norm_legit_no_training"),
}  # where what they make is as long as what they get, a step of it is made of that step
WRITES = frozenset(["slice_scatter", "select_scatter", "unfold"])  # move entries too, over others or several times
_CHOSEN = (
    "computed positions choose rows of a constant table alone; for the last step before padding let forward take the"
    " lengths, forward(x, lengths), and pack with lengths=['lengths']"
)
_INSTEAD = {
    "index": _CHOSEN,
    "gather": _CHOSEN,
    "view_as_complex": "complex numbers are not taken: rotary positions are, as x * cos + rotated(x) * sin",
    "_embedding_bag": "bags are taken as rows of as many tokens each, without offsets and max_norm",
}
_INNER = {"recurrent", "_assert_tensor_metadata", "_native_batch_norm_legit_no_training", "convolution", "_to_copy"}

HANDLERS: dict[str, Callable] = {}
LAZY_HANDLERS: dict[str, Callable] = {}
SCORES_HANDLERS: dict[str, Callable] = {}
MASK_HANDLERS: dict[str, Callable] = {}


def handles(*names: str) -> Callable:
    """Register a function `(visitor, node, *args, **kwargs) -> Operand` for operations of these ATen names."""

    def register(function: Callable) -> Callable:
        HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def handles_lazily(*names: str) -> Callable:
    """As `handles`, for functions that get moved entries before they are in place; None leaves it to the others."""

    def register(function: Callable) -> Callable:
        LAZY_HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def handles_scores(*names: str) -> Callable:
    """As `handles`, for functions that get `Scores` among their arguments."""

    def register(function: Callable) -> Callable:
        SCORES_HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def handles_masks(*names: str) -> Callable:
    """As `handles`, for functions whose result has a number for every two steps and is no score, or that get such."""

    def register(function: Callable) -> Callable:
        MASK_HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def known_operations() -> frozenset[str]:
    """Names of all operations with a handler."""
    return frozenset({"getitem", *HANDLERS, *LAZY_HANDLERS, *MOVES, *WRITES, *PADS, *FRESH})


def catalog() -> str:
    """The supported operations as text, for messages."""
    named = {n.strip("_") for n in {*HANDLERS, *LAZY_HANDLERS} - _INNER}
    return f"recurrent layers, {', '.join(sorted(named))}, moving data, and what torch.export breaks down into these"


def number(x: Any) -> float | None:
    """`x` if it is one constant number."""
    if isinstance(x, Tensor) and x.numel() == 1:
        return float(x)
    return float(x) if isinstance(x, int | float) else None


class Visitor:
    """Lowers a graph whose nodes have `values`, and `longer` for one step more: an axis that has grown is time.

    `steps` is for how many steps the values are; without it an axis has grown by one where it is time, and with it by
    as many entries as a step has.

    Without `longer` the graph is one step, and no axis is time. `exports` are the graphs of the steps of cells, by what
    makes two of them equal. `rename` gives the names of weights. `at` gives the value of a node that depends on no data
    for a sequence of so many steps, None where it has none.
    """

    def __init__(
        self,
        builder: Builder,
        trace: Trace,
        values: dict[str, Any],
        longer: dict[str, Any] | None = None,
        exports: dict[Hashable, Trace] | None = None,
        rename: Callable[[str], str] = str,
        steps: int | None = None,
        at: Callable[[torch.fx.Node, int], Tensor | None] = lambda node, steps: None,
    ):
        self.builder = builder
        self.exports = {} if exports is None else exports
        self.rename = rename
        self._at = at
        self.mover = Mover(builder, steps)
        self._arrays: dict[int, tuple[Tensor, np.ndarray]] = {}  # constants, by the tensor's identity
        self.trace = trace
        self.values = values
        self.done: set[str] = set()  # nodes that are part of the operation before them
        self.one_step = longer is None
        self.longer = values if longer is None else longer
        self.steps = steps
        self.axes = {name: _grown(value, (longer or values)[name]) for name, value in values.items()}
        self.rates = {name: _rate(value, (longer or values)[name]) for name, value in values.items()}

    def lower(self, inputs: Sequence[Operand | LazyView]) -> list[Any]:
        """Operations for all nodes; returns what the outputs are: values, constant tensors or other constants."""
        initial: dict[str, Any] = {**self.trace.constants, **dict(zip(self.trace.inputs, inputs, strict=True))}
        data = set(self.trace.inputs)
        for node in self.trace.nodes:  # the frames before a transform would be refused for another reason
            if any(source.name in data for source in node.all_input_nodes):
                data.add(node.name)
                if operation(node).startswith("_fft_"):
                    raise UnsupportedModelError(f"{self.trace.module_of(node)}: {FOURIER}")
        results = self.trace.interpret(self._visit, initial)
        return [self.materialize(results[o.name]) if isinstance(o, torch.fx.Node) else o for o in self.trace.outputs]

    def where(self, node: torch.fx.Node) -> str:
        """Module and operation, for messages."""
        return f"{self.trace.module_of(node)}: {operation(node)}"

    def weight_name(self, node: torch.fx.Node, weight: Any) -> str:
        """What the model calls the weights that `node` multiplies with: "encoder.fc"; "" where it has no name.

        `weight` is the node's argument. A module that uses another's parameter gives its own name.
        """
        module = self.trace.module_of(node)
        while isinstance(weight, torch.fx.Node) and weight.op == "call_function" and operation(weight) in MOVES:
            weight = weight.args[0]
        stored = {**self.trace.parameters, **self.trace.buffers}.get(getattr(weight, "name", ""), "")
        path = "" if module == "the model" else module
        stored = stored.removesuffix(".weight")
        name = stored if stored and (not path or stored == path or stored.startswith(path + ".")) else path
        return self.rename(name) if name else ""

    def _visit(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Any:
        name = operation(node)
        self.builder.where = self.where(node)
        if not node.users:
            return None
        if name == "getitem":
            return args[0][args[1]]
        if name in FRESH or not any(
            isinstance(v, Operand | LazyView | Scores | Mask) for v in pytree.tree_leaves((args, kwargs))
        ):
            return self._known(node)
        if not isinstance(self.values[node.name], Tensor | list | tuple):
            return self.values[node.name]  # a size
        if any(isinstance(v, Scores) for v in pytree.tree_leaves((args, kwargs))):
            return self._with_scores(node, args, kwargs)
        if any(isinstance(v, Mask) for v in pytree.tree_leaves((args, kwargs))):
            return self._with_masks(node, args, kwargs)
        if self.axes[node.name] == EVERY_TWO and name in MASK_HANDLERS:
            if (mask := MASK_HANDLERS[name](self, node, *args, **kwargs)) is not None:
                return mask
        if name in MOVES | WRITES and self._only_moves(name, args, kwargs):
            return self._move(node, args, kwargs)
        if name in PADS:
            if constant_pad(args):
                return self._pad(node, args[0], args[1], args[-1] if len(args) > 2 else None)
            return self._move(node, args, kwargs)
        if name in LAZY_HANDLERS:
            result = LAZY_HANDLERS[name](self, node, *args, **kwargs)
            if result is not None:
                return result
        if name in HANDLERS:
            if name in _OF_NUMBERS:
                args = tuple(self._counted(source, x) for source, x in zip(node.args, args, strict=True))
            result = self._handled(node, args, dict(kwargs))
            if result is not None:
                return result
        if name in _INSTEAD:
            raise UnsupportedModelError(f"{self.where(node)} cannot be lowered: {_INSTEAD[name]}")
        why = self._why(node, args)
        raise UnsupportedModelError(f"{self.where(node)} cannot be lowered{why}; what can: {catalog()}")

    def _handled(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Any:
        """What a handler makes of values in place; of steps after the last it makes what is not known."""
        handler, values = HANDLERS[operation(node)], self.values[node.name]
        cut = self._without_added(node, args)
        args, kwargs = pytree.tree_map(self.materialize, (args if cut is None else cut, kwargs))
        if cut is None:
            return handler(self, node, *args, **kwargs)
        first, *others = pytree.tree_leaves(values)
        axis, steps = pytree.tree_leaves(self.axes[node.name])[0], next(x.shape[x.time] for x in args if _timed(x))
        first = first.narrow(axis, 0, steps)
        self.values[node.name] = [first, *others] if isinstance(values, list | tuple) else first
        result = handler(self, node, *args, **kwargs)
        added = pytree.tree_leaves(values)[0].shape[axis] - steps
        self.values[node.name] = values
        return None if result is None else pytree.tree_map(lambda y: self.mover.beyond(y, added), result)

    def _without_added(self, node: torch.fx.Node, args: tuple) -> tuple | None:
        """`args` without the steps that they have after the last; None where there are none, or others read them."""
        axis, size = self.axes[node.name], pytree.tree_leaves(self.values[node.name])[0].shape
        axis = axis[0] if isinstance(axis, list) else axis
        if operation(node) not in _EACH_STEP or self.steps is None or not isinstance(axis, int):
            return None
        steps = self.steps * pytree.tree_leaves(self.rates[node.name])[0]
        cut = list(args)
        for i, (source, x) in enumerate(zip(node.args, args, strict=True)):
            time = self.axes[source.name] if isinstance(source, torch.fx.Node) else None
            if time is None:
                continue
            if isinstance(time, str) or isinstance(x, Tensor) or not steps < x.shape[time] == size[axis]:
                return None
            cut[i] = self.mover.move([x], lambda moved, a=time: np.take(moved[0], range(steps), a), time)
        return tuple(cut) if size[axis] > steps else None

    def _with_scores(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Any:
        """What a node makes of the scores of every two steps."""
        name, result = operation(node), None
        if name in MOVES and self._only_moves(name, args, kwargs):
            result = self._move_scores(node, args, kwargs)
        elif name in SCORES_HANDLERS:
            args, kwargs = pytree.tree_map(self.materialize_rows, (args, dict(kwargs)))
            result = SCORES_HANDLERS[name](self, node, *args, **kwargs)
        if result is None:
            raise UnsupportedModelError(f"{self.where(node)} cannot be lowered; {CAN}")
        return result

    def _with_masks(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Any:
        """What a node makes of masks of every two steps."""
        name, result = operation(node), None
        if name in MOVES and self._only_moves(name, args, kwargs):
            result = self._move_scores(node, args, kwargs)
        elif name in MASK_HANDLERS:
            result = MASK_HANDLERS[name](self, node, *args, **kwargs)
        if result is None:
            raise UnsupportedModelError(f"{self.where(node)}: {why_unclear(EVERY_TWO)}")
        return result

    def _move_scores(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Scores | Mask | None:
        """Scores or masks moved by the operation itself; None where it moves others, too."""
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        places = [i for i, v in enumerate(leaves) if isinstance(v, Operand | LazyView | Scores | Mask | Tensor)]
        if len(places) != 1 or not isinstance(self.values[node.name], Tensor):
            return None

        def run(entries: np.ndarray) -> np.ndarray:
            filled = [*leaves[: places[0]], torch.from_numpy(entries).double(), *leaves[places[0] + 1 :]]
            a, k = pytree.tree_unflatten(filled, spec)
            return node.target(*a, **{n: v for n, v in k.items() if n != "memory_format"}).long().numpy()  # pyright: ignore

        return leaves[places[0]].moved(run)

    def _counted(self, source: Any, x: Any) -> Any:
        """`x`, or if it is a number that follows from the number of steps, that as such; `source` is what gives it."""
        if self.steps is None or not isinstance(source, torch.fx.Node) or (one := number(x)) is None:
            return x
        two = number(self.longer[source.name])
        if two is None or one == two or (far := number(self._at(source, MOST))) is None:
            return x
        y = counted(self.mover, {self.steps: one, self.steps + 1: two, MOST: far})
        return x if y is None else replace(y, shape=tuple(x.shape) if isinstance(x, Tensor) else ())

    def _why(self, node: torch.fx.Node, args: tuple) -> str:
        """The reason, if known."""
        if operation(node) not in known_operations():
            return ""
        shapes = [f"{tuple(v.shape)}" for v in pytree.tree_leaves(args) if isinstance(v, Operand | LazyView | Tensor)]
        return f" with these arguments (of shape {', '.join(shapes)})"

    def _known(self, node: torch.fx.Node) -> Any:
        """Whether a value is independent of the input (it may depend on the sequence length)."""
        value = self.values[node.name]
        if isinstance(value, Tensor) and self.axes[node.name] is not None:
            self.mover.grows(self.source(value), partial(self._table, node))
        return value

    def longest(self, node: Any) -> Tensor | None:
        """The mask that a node gives for as many steps as it has one for, `MOST` or a part of that.

        A longer sequence than a stored mask is made for is refused.
        """
        for steps in (MOST >> n for n in range(MOST.bit_length())):
            if steps > FEWEST and (value := self._at(node, steps)) is not None:
                if value.shape[-1] < steps:
                    self.builder.at_most(value.shape[-1])
                return value
        return None

    def _table(self, node: torch.fx.Node) -> Table | None:
        """A constant that is as long as the sequence, for the longest; None where rows depend on the length."""
        value, time = self.values[node.name], self.axes[node.name]
        if not isinstance(time, int) or self.rates[node.name] != 1 or self.steps is None:
            return None

        def at(steps: int) -> np.ndarray | None:
            found = self._at(node, steps)
            return None if found is None else found.detach().double().numpy()

        return longest_table(self.source(value), time, self.steps, at)

    def source(self, x: Any) -> Any:
        """`x` as movement reads it: of the same constant the same array."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self._arrays:
            self._arrays[id(x)] = x, x.detach().double().numpy()
        return self._arrays[id(x)][1]

    def materialize(self, x: Any) -> Any:
        """`x`, materialized if it is a lazy view."""
        if isinstance(x, Scores):
            raise UnsupportedModelError(f"{self.builder.where}: gives the scores of every two steps; {CAN}")
        if isinstance(x, Mask):
            raise UnsupportedModelError(f"{self.builder.where}: {why_unclear(EVERY_TWO)}")
        return self.materialize_rows(x)

    def materialize_rows(self, x: Any) -> Any:
        """As `materialize`, but for scores."""
        return self.mover.materialize(x) if isinstance(x, LazyView) else x

    @staticmethod
    def _only_moves(name: str, args: tuple, kwargs: dict) -> bool:
        """Whether an operation of a name that moves entries does so here: by fixed indices, and not by their bits."""
        leaves = pytree.tree_leaves((args[1:], kwargs))
        if name in INDEXED and any(isinstance(v, Operand | LazyView) for v in leaves):
            return False
        return name != "view" or not any(isinstance(v, torch.dtype) for v in leaves)

    def _move(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Any:
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        fixed = {i for i, v in enumerate(leaves) if isinstance(v, Tensor)} if operation(node) in INDEXED else set()
        places = [i for i, v in enumerate(leaves) if isinstance(v, Operand | LazyView | Tensor) and i not in fixed]

        def run(arrays: list[np.ndarray], pick: int | None = None) -> np.ndarray:
            filled = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                tensor = torch.from_numpy(np.ascontiguousarray(array)).view(array.shape)
                filled[place] = tensor.double()  # exact to 2^53, and more operations know it than int64
            a, k = pytree.tree_unflatten(filled, spec)
            result = node.target(*a, **{n: v for n, v in k.items() if n != "memory_format"})  # pyright: ignore
            return (result if pick is None else result[pick]).long().numpy()

        operands, axes, rates = [self.source(leaves[i]) for i in places], self.axes[node.name], self.rates[node.name]
        if isinstance(axes, list):
            parts = enumerate(zip(axes, rates, strict=True))
            return [self.mover.move(operands, lambda x, i=i: run(x, i), axis, rate=n) for i, (axis, n) in parts]
        return self.mover.move(operands, run, axes, rate=rates)

    def _pad(self, node: torch.fx.Node, x: Any, pads: list[int], value: Any) -> LazyView:
        """Pads as torch gives them: of the last axis first."""
        number = float(value if isinstance(value, float | int) else 0)
        pairs = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
        pairs = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs
        axis = self.axes[node.args[0].name]  # pyright: ignore
        moved = self.mover.pad(self.source(x), pairs, number, axis if isinstance(axis, int) else None)
        return replace(moved, time=self.axes[node.name], rate=self.rates[node.name])

    def time_of(self, node: Any) -> int | str | None:
        """The time axis of a node's value, None without one, a text where it cannot be determined."""
        return self.axes[node.name]

    def time_axis(self, node: torch.fx.Node) -> int | None:
        """The time axis of the node's result; raises if it cannot be determined."""
        axis = self.axes[node.name]
        if isinstance(axis, str):
            raise UnsupportedModelError(f"{self.where(node)}: {why_unclear(axis)}")
        if axis is not None:
            self.mover.rates[self.values[node.name].shape[axis]] = self.rates[node.name]
        return axis

    def spread(self, x: Any, node: torch.fx.Node) -> Operand:
        """`x`, a value or constant, broadcast to the shape of the node's result."""
        shape = tuple(self.values[node.name].shape)
        same = isinstance(x, Operand) and x.shape == shape
        return self.mover.spread(self.source(x), shape, None if same else self.time_axis(node))

    def shaped(self, x: Operand, node: torch.fx.Node) -> Operand:
        """`x` in the shape of the node's result."""
        return replace(x, shape=tuple(self.values[node.name].shape))


def array(x: Tensor) -> np.ndarray:
    """A parameter as float32."""
    return x.detach().float().cpu().numpy()


def _timed(x: Any) -> bool:
    return isinstance(x, Operand) and x.time is not None


def _grown(small: Any, large: Any) -> Any:
    """The axis that grew by one; None if none did; a text otherwise. A list for several results."""
    if isinstance(small, list | tuple):
        return [_grown(a, b) for a, b in zip(small, large, strict=True)]
    if not isinstance(small, Tensor):
        return None
    grown = [d for d in range(small.dim()) if small.shape[d] != large.shape[d]]
    if not grown:
        return None
    if len(grown) == 2 and all(large.shape[d] - small.shape[d] == 1 for d in grown):
        return EVERY_TWO
    return grown[0] if len(grown) == 1 and large.shape[grown[0]] > small.shape[grown[0]] else "unclear"


def _rate(small: Any, large: Any) -> Any:
    """By how many entries the time axis grew; 1 where there is none. A list for several results."""
    if isinstance(small, list | tuple):
        return [_rate(a, b) for a, b in zip(small, large, strict=True)]
    axis = _grown(small, large)
    return large.shape[axis] - small.shape[axis] if isinstance(axis, int) else 1
