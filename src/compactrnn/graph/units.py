"""Which unit does each number come from, and who reads it?

The graph is run with an integer label per element: the unit that the element carries (1, 2, ...), or one of

- `CONSTANT`: made of parameters and constants only;
- `DATA`: made of inputs or of weighted sums, no single unit;
- `MIXED`: made of several units, or by an operation that is not known.

Data movement runs on the labels themselves. A unit whose label ever becomes `MIXED`, or reaches the model's output,
*escapes*: its readers cannot all be named. Nothing is guessed: an unknown operation makes its operands escape.

What scales or shifts a unit on the way to its readers, such as the vectors of a batch norm, *follows* it: it has an
entry for the unit that goes when the unit goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only

from .trace import Leaf, Trace, operation

CONSTANT, DATA, MIXED = 0, -1, -2

# Operations by their ATen name, whatever the overload.
MOVES = frozenset(
    """view _unsafe_view reshape permute transpose t numpy_T mT adjoint movedim swapaxes swapdims expand expand_as
    view_as broadcast_to squeeze unsqueeze slice select narrow cat concat stack hstack vstack column_stack flip roll
    rot90 split split_with_sizes chunk unbind index_select index gather clone contiguous detach detach_ alias repeat
    tile repeat_interleave flatten unflatten lift_fresh_copy dropout diagonal""".split()
)
SAME = frozenset(
    """relu relu6 sigmoid tanh neg abs exp expm1 log log1p log_sigmoid sqrt rsqrt square reciprocal pow gelu silu mish
    elu celu selu leaky_relu prelu softplus hardtanh hardsigmoid hardswish clamp clamp_min clamp_max erf sin cos sign
    floor round _to_copy to type_as""".split()
)
PRODUCTS = frozenset(["mul", "div"])
SUMS = frozenset(["add", "sub", "rsub", "maximum", "minimum", "lerp"])
ENTRYWISE = SAME | PRODUCTS | SUMS
REDUCTIONS = frozenset(["sum", "mean", "amax", "amin", "cumsum"])
SOFTMAXES = frozenset(["softmax", "_softmax", "log_softmax", "_log_softmax"])
WEIGHTED = frozenset(["linear", "convolution", "conv1d"])
FRESH = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())
PADS = frozenset(["pad", "constant_pad_nd"])
INDEXED = frozenset(["index", "index_select", "gather"])
BATCH_NORMS = frozenset(["_native_batch_norm_legit_no_training"])


@dataclass
class Reader:
    """Entry `columns[i]` along `axis` of parameter `name` multiplies the unit labelled `labels[i]` (0: no unit)."""

    name: str
    axis: int
    labels: Tensor


@dataclass
class Follower:
    """Entry i along the last axis of parameter or buffer `name` scales or shifts the unit labelled `labels[i]`."""

    name: str
    axis: int
    labels: Tensor


@dataclass
class Consumer:
    """Column j of the input of recurrent layer `leaf` carries the unit labelled `labels[j]`."""

    leaf: Leaf
    labels: Tensor


@dataclass
class Units:
    """What the graph tells: labels per (leaf key, layer, unit set), their readers, and the labels that escape.

    A unit in `shifted` is heard by its readers even while it is zero. A tensor in `pinned` has a use of another kind
    beside those that are listed.
    """

    ranges: dict[tuple[int, int, str], range] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    shifted: set[int] = field(default_factory=set)
    escaped: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)

    def escapes(self, labels: Tensor, reason: str) -> None:
        """Note that no complete list of readers exists for the units in `labels`."""
        for label in labels[labels > 0].unique().tolist():
            self.escaped.add(label)
            self.reasons.setdefault(label, reason)

    def shifts(self, labels: Tensor) -> None:
        """Note that the units in `labels`, when zero, do not reach their readers as zero."""
        self.shifted.update(labels[labels > 0].unique().tolist())


def find_units(trace: Trace, example_inputs: tuple[Tensor, ...]) -> Units:
    """Label every unit of every recurrent layer of `trace` and follow the labels to all readers."""
    units = Units()
    first = 1
    for leaf in trace.leaves.values():
        for i, row in enumerate(leaf.cells):
            for unit_set in row[0].active_units():
                count = row[0].unit_count(unit_set)
                units.ranges[leaf.key, i, unit_set.name] = range(first, first + count)
                first += count
    values = trace.run(example_inputs)
    inputs = dict(zip(trace.inputs, example_inputs, strict=True))
    labels = {n: torch.full(t.shape, CONSTANT, dtype=torch.long) for n, t in trace.constants.items()}
    labels |= {n: torch.full(t.shape, DATA, dtype=torch.long) for n, t in inputs.items()}
    labeller = _Labeller(trace, units, {**trace.constants, **inputs, **values})
    with torch.no_grad():
        results = trace.interpret(labeller.visit, labels)
    labeller.pin_other_uses()
    _mark_outputs(trace, units, results)
    return units


class _Labeller:
    def __init__(self, trace: Trace, units: Units, values: dict[str, Any]):
        self.trace, self.units, self.values = trace, units, values
        self.stored = {**trace.parameters, **trace.buffers}
        self.followed: dict[torch.fx.Node, set[torch.fx.Node]] = {}  # by which of its users

    def visit(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Any:
        """The labels of the node's result from the labels of its operands."""
        shaped = self.values[node.name]
        if node.target is torch.ops.compactrnn.recurrent.default:
            return self._recurrent(args)
        name = operation(node)
        if name == "getitem":
            return args[0][args[1]]
        operands = _tensors((args, kwargs))
        result = None
        if not operands or name in FRESH:
            return _filled(shaped, CONSTANT)
        if name in WEIGHTED:
            result = self._weighted(node, args, shaped, name != "linear")
        elif name == "embedding" and not _carries(args[1]):
            self._pin(node.args[0])
            return _filled(shaped, DATA)
        elif name in ("matmul", "bmm", "mm", "mv"):
            result = self._matmul(args[0], args[1], shaped)
        elif name in MOVES:
            return self._move(node, args, kwargs)
        elif name in PADS and constant_pad(args):
            return torch.constant_pad_nd(args[0], args[1], CONSTANT)
        elif name in PRODUCTS or name in SUMS:
            return self._elementwise(operands, shaped, node, additive=name in SUMS)
        elif name in BATCH_NORMS:
            result = self._batch_norm(node, args, shaped)
        elif name in SAME:
            if _carries(args[0]) and not self._keeps_zero(node):
                self.units.shifts(args[0])
            return args[0].expand(shaped.shape).clone()
        elif name == "masked_fill" and not _carries(args[1]):
            if self.values_of(node)[2] != 0:
                self.units.shifts(args[0])
            return args[0].expand(shaped.shape).clone()
        elif name == "where" and not _carries(args[0]):
            return self._elementwise(operands[1:], shaped, node, additive=True)
        elif name in REDUCTIONS or name in SOFTMAXES:
            if name in SOFTMAXES:
                self.units.shifts(args[0])
            result = self._reduce(args, kwargs, shaped)
        return self._unknown(node, operands, shaped) if result is None else result

    def _unknown(self, node: torch.fx.Node, operands: list[Tensor], shaped: Any) -> Any:
        carried = torch.cat([o.flatten() for o in operands])
        for argument in node.all_input_nodes:
            self._pin(argument)
        if _carries(carried):
            where = f"{self.trace.module_of(node)}: {operation(node)}"
            self.units.escapes(carried, where)
            return _filled(shaped, MIXED)
        return _filled(shaped, DATA if (carried == DATA).any() else CONSTANT)

    def _pin(self, argument: Any) -> None:
        name = getattr(argument, "name", None)
        if name in self.trace.parameters:
            self.units.pinned.add(self.trace.parameters[name])

    def _recurrent(self, args: tuple) -> list[Tensor]:
        key, x, states = args
        leaf = self.trace.leaves[key]
        columns = _columns(x)
        if columns is None:
            self.units.escapes(x, f"{leaf.name}: its input mixes units")
            columns = torch.full((x.shape[-1],), MIXED)
        self.units.consumers.append(Consumer(leaf, columns))
        for state in states:
            self.units.escapes(state, f"{leaf.name}: read as an initial state")

        def own(layer: int, unit_set: str) -> Tensor:
            return torch.tensor(self.units.ranges[key, layer, unit_set])

        steps, batch = x.shape[:2]
        after = [own(i, leaf.cells[i][d].states[s].units).expand(batch, -1).clone() for i, d, s in leaf.slots()]
        last = torch.cat([own(len(leaf.cells) - 1, u.name) for u in leaf.cells[-1][0].output_units()])
        return [last.repeat(leaf.directions).expand(steps, batch, -1).clone(), *after]

    def _weighted(self, node: torch.fx.Node, args: tuple, shaped: Tensor, convolution: bool) -> Tensor | None:
        """A weighted sum of columns: note which column of which parameter reads which unit."""
        x, weight = args[0], self.trace.parameters.get(getattr(node.args[1], "name", ""))
        if not _carries(x) and not _carries(args[1]):
            self._pin(node.args[1])
            return _filled(shaped, DATA)
        if weight is None:
            return None
        grouped = convolution and self.values_of(node)[0].shape[1] != self.values_of(node)[1].shape[1]
        columns = _columns(x.transpose(1, -1) if convolution else x)
        if columns is None or grouped or (columns == MIXED).any():
            return None
        self.units.readers.append(Reader(weight, 1, columns))
        return _filled(shaped, DATA)

    def values_of(self, node: torch.fx.Node) -> tuple:
        """The true values of a node's arguments."""
        return map_arg(node.args, lambda n: self.values[n.name])  # pyright: ignore

    def _matmul(self, a: Tensor, b: Tensor, shaped: Tensor) -> Tensor | None:
        """A sum over time or over heads, with weights that carry no unit, keeps each column's label."""
        plain_a, plain_b = not _carries(a), not _carries(b)
        if plain_a and plain_b:
            return _filled(shaped, DATA)
        if plain_a and b.dim() >= 2:
            kept = _uniform(b, (b.dim() - 2,), True)
        elif plain_b and a.dim() >= 2:
            kept = _uniform(a, (a.dim() - 1,), True)
        else:
            return None
        return None if kept is None else kept.expand(shaped.shape).clone()

    def _move(self, node: torch.fx.Node, args: tuple, kwargs: dict) -> Any:
        if operation(node) in INDEXED:  # indices are taken as they are, not as labels; labels are on the CPU
            indices = tree_map_only(Tensor, lambda index: index.cpu(), self.values_of(node)[1:])
            args = (args[0], *indices)
        return node.target(*args, **kwargs)  # pyright: ignore

    def _elementwise(self, operands: list[Tensor], shaped: Tensor, node: torch.fx.Node, additive: bool) -> Tensor:
        result = operands[0].expand(shaped.shape).clone()
        for other in operands[1:]:
            other = other.expand(shaped.shape)
            unit = torch.maximum(result, other)
            clash = (result > 0) & (other > 0) & (result != other)
            clash |= (result == MIXED) | (other == MIXED)
            if additive:
                clash |= (unit > 0) & (torch.minimum(result, other) == DATA)
            where = f"{self.trace.module_of(node)}: {operation(node)}"
            self.units.escapes(torch.stack([result[clash], other[clash]]), where)
            none = torch.minimum(result, other)
            result = torch.where(unit > 0, unit, none)
            result[clash] = MIXED
        if additive or (operation(node) == "div" and any(_carries(o) for o in operands[1:])):
            self.units.shifts(result)
        self._follow_vectors(node, node.all_input_nodes, result)
        return result

    def _batch_norm(self, node: torch.fx.Node, args: tuple, shaped: Any) -> Any:
        """With running statistics: each channel, axis 1, is scaled and shifted by its entry of every vector."""
        x, vectors = args[0], [a for a in node.args[1:5] if isinstance(a, torch.fx.Node)]
        columns = _columns(x.transpose(1, -1))
        if columns is None or any((a != CONSTANT).any() for a in _tensors(args[1:5])):
            return None
        self.units.shifts(x)
        self._follow_vectors(node, vectors, columns)
        return [x.clone(), *_filled(shaped[1:], CONSTANT)]

    def _follow_vectors(self, user: torch.fx.Node, operands: list[torch.fx.Node], labels: Tensor) -> None:
        """What is stored with one entry per column, and meets the columns `labels` in `user`, follows them."""
        columns = _columns(labels) if _carries(labels) else None
        if columns is None:
            return
        for node in operands:
            if self.values[node.name].shape[-1:] != columns.shape:
                continue
            if name := self.stored.get(node.name):
                self.units.followers.append(Follower(name, self.values[node.name].dim() - 1, columns))
            elif node.op == "call_function" and operation(node) in ENTRYWISE:
                self._follow_vectors(node, node.all_input_nodes, columns)
            else:
                continue
            self.followed.setdefault(node, set()).add(user)

    def pin_other_uses(self) -> None:
        """Pin what follows units at one place and is used at another, where the units are not."""
        for node, users in self.followed.items():
            if set(node.users) - users:
                self._pin_below(node)

    def _pin_below(self, node: torch.fx.Node) -> None:
        if name := self.stored.get(node.name):
            self.units.pinned.add(name)
        for argument in node.all_input_nodes:
            self._pin_below(argument)

    def _keeps_zero(self, node: torch.fx.Node) -> bool:
        first, *rest = self.values_of(node)
        kwargs = map_arg(node.kwargs, lambda n: self.values[n.name])
        return not node.target(torch.zeros_like(first), *rest, **kwargs).any()  # pyright: ignore

    def _reduce(self, args: tuple, kwargs: dict, shaped: Tensor) -> Tensor | None:
        x = args[0]
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = [dims] if isinstance(dims, int) else dims if isinstance(dims, list | tuple) and dims else range(x.dim())
        kept = _uniform(x, tuple(dims), True)
        if kept is None:
            return None
        return kept.expand(x.shape).clone() if shaped.shape == x.shape else kept.reshape(shaped.shape)


def constant_pad(args: tuple) -> bool:
    """Whether a padding operation pads with one number (and does not reflect or repeat what it pads)."""
    return len(args) < 3 or not isinstance(args[2], str) or args[2] == "constant"


def _carries(x: Tensor) -> bool:
    """Whether a unit's label, or `MIXED`, is among the labels."""
    return bool(((x > 0) | (x == MIXED)).any())


def _uniform(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor | None:
    """The label along `dims` where all agree (constants and data agree with each other), else None."""
    low, high = x.amin(dims, keepdim=keepdim), x.amax(dims, keepdim=keepdim)
    same = (low == high) | ((low == DATA) & (high <= CONSTANT))
    return low if bool(same.all()) else None


def _columns(x: Tensor) -> Tensor | None:
    """One label per entry of the last axis, if all other positions agree."""
    return _uniform(x.reshape(-1, x.shape[-1]), (0,), False)


def _filled(like: Any, value: int) -> Any:
    if isinstance(like, Tensor):
        return torch.full(like.shape, value, dtype=torch.long)
    if isinstance(like, list | tuple):
        return [_filled(item, value) for item in like]
    return like


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _mark_outputs(trace: Trace, units: Units, results: dict[str, Any]) -> None:
    """Units that the caller sees escape; but whole states handed back beside another output just get smaller."""
    outputs = [o for o in trace.outputs if isinstance(o, torch.fx.Node)]
    for output, is_state in zip(outputs, trace.state_outputs(), strict=True):
        if not is_state:
            units.escapes(results[output.name], "the model's output")
