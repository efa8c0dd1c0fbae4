"""Label propagation: the labels of each operation's result from those of its operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only

from .aten import (
    BATCH_NORMS,
    ENTRYWISE,
    FRESH,
    INDEXED,
    MOVES,
    ORDERS,
    PADS,
    PRODUCTS,
    REDUCTIONS,
    SAME,
    SOFTMAXES,
    SUMS,
    VIEWS,
    WEIGHTED,
    argument,
    constant_pad,
    is_random,
    operation,
    pooled_axes,
)
from .labels import CONSTANT, DATA, ZERO, LayerInput, Scaling, Units, carries, columns, uniform
from .leaf import RECURRENT
from .rows import CONVOLUTIONS, ROWS, Rows
from .table import COLUMNS, Table
from .trace import Trace

# what `y[:, t] = x` becomes in a graph
_WRITES = frozenset(["select_scatter", "slice_scatter", "copy"])


class Labeler:
    """Propagates labels through one graph; adds what it finds to `units`."""

    def __init__(
        self,
        trace: Trace,
        units: Units,
        values: dict[str, Any],
        example_inputs: tuple[Tensor, ...],
        sources: Sequence[Table | Rows] = (),
    ):
        self.trace, self.units = trace, units
        self.tables = [source for source in sources if isinstance(source, Table)]
        self.rows = [source for source in sources if isinstance(source, Rows)]
        own = [units.labels[rows.key, 0, ROWS] for rows in self.rows] if not trace.leaves else []
        self.joined = torch.tensor([label for labels in own for label in labels])  # tied where they meet
        self.inputs = dict(zip(trace.inputs, example_inputs, strict=True))
        self.values = {**trace.constants, **self.inputs, **values}
        self.stored = {**trace.parameters, **trace.buffers}
        self.scaled_by: dict[Node, set[Node]] = {}  # by which of its users
        self.scaled_with: dict[Node, list[Tensor]] = {}  # with which labels it has been looked through
        self.fixed_below: set[Node] = set()
        self.ties: list[tuple[int, int]] = []

    @torch.no_grad()
    def run(self) -> list[tuple[int, int]]:
        """Propagate all labels; returns pairs of labels of which one unit starts from the state of the other."""
        labels = {n: torch.full(t.shape, CONSTANT, dtype=torch.long) for n, t in self.trace.constants.items()}
        labels |= {n: torch.full(t.shape, DATA, dtype=torch.long) for n, t in self.inputs.items()}
        labels |= {n: own for n in self.trace.constants if (own := self._vector(n)) is not None}
        results = self.trace.interpret(self._visit, labels)
        for node, users in self.scaled_by.items():
            if set(node.users) - users:
                self._fix_width_below(node)
        outputs = [o for o in self.trace.outputs if isinstance(o, Node)]
        for output, is_state in zip(outputs, self.trace.state_outputs(), strict=True):
            if not is_state:  # whole states that come beside another output just get smaller
                self.units.mark_untracked(results[output.name], "the model's output")
        return self.ties

    def _visit(self, node: Node, args: tuple, kwargs: dict) -> Any:
        """The labels of the node's result from the labels of its operands."""
        shaped = self.values[node.name]
        if node.target in RECURRENT:
            return self._recurrent(node, args)
        name = operation(node)
        if name == "getitem":
            return args[0][args[1]]
        operands = _tensors((args, kwargs))
        if is_random(node):
            return _filled(shaped, DATA)
        if not operands or name in FRESH:
            is_zero = isinstance(shaped, Tensor) and "empty" not in name and not shaped.any()
            return _filled(shaped, ZERO if is_zero else CONSTANT)
        if name in MOVES:
            return self._move(node, args, kwargs)
        if name in _WRITES:
            return node.target(*args, **kwargs)  # pyright: ignore
        if name in PRODUCTS or name in SUMS:
            return self._elementwise(operands, shaped, node, additive=name in SUMS)
        if name in SAME and isinstance(args[0], Tensor) and not any(carries(o) for o in operands[1:]):
            return self._same(node, args[0].expand(shaped.shape))
        if name == "native_dropout":
            return [args[0].clone(), *_filled(shaped[1:], DATA)]
        if name == "masked_fill" and not carries(args[1]):
            zeros = not torch.as_tensor(self.values_of(node)[2]).any()
            return self._elementwise([args[0], torch.tensor(ZERO if zeros else CONSTANT)], shaped, node, additive=True)
        if name == "where" and len(args) == 3 and not carries(args[0]):
            chosen = [a if isinstance(a, Tensor) else torch.tensor(CONSTANT if a else ZERO) for a in args[1:]]
            return self._elementwise(chosen, shaped, node, additive=True)
        result = None
        if name in WEIGHTED or name in CONVOLUTIONS:
            result = self._weighted(node, args, shaped, name != "linear")
        elif name == "embedding" and not carries(args[1]):
            return self._lookup(node, shaped)
        elif name in ("matmul", "bmm", "mm", "mv"):
            result = self._matmul(args[0], args[1], shaped)
        elif name in PADS and constant_pad(args):
            value = argument(node, "value") or 0
            return torch.constant_pad_nd(args[0], args[1], CONSTANT if value else ZERO)
        elif name in BATCH_NORMS:
            result = self._batch_norm(node, args, shaped)
        elif name in REDUCTIONS or name in SOFTMAXES or name in ORDERS or pooled_axes(name):
            result = self._reduce(node, args[0], shaped)
        return self._unknown(node, operands, shaped) if result is None else result

    def _unknown(self, node: Node, operands: list[Tensor], shaped: Any) -> Any:
        """An unknown operation: its result is data, and the units among its operands are untracked."""
        carried = torch.cat([o.flatten() for o in operands])
        for a in node.all_input_nodes:
            self._fix_width(a)
        self.units.mark_untracked(carried, self._where(node))
        return _filled(shaped, DATA if carries(carried) or (carried == DATA).any() else CONSTANT)

    def _where(self, node: Node) -> str:
        return f"{self.trace.module_of(node)}: {operation(node)}"

    def _fix_width(self, node: Any) -> None:
        name = getattr(node, "name", None)
        if name in self.trace.parameters:
            self.units.fixed_width.add(self.trace.parameters[name])

    def _recurrent(self, node: Node, args: tuple) -> list[Tensor]:
        key, x, states, *_ = args
        leaf = self.trace.leaves[key]
        read = columns(x)
        if read is None:
            self.units.mark_untracked(x, f"{leaf.name}: its input mixes units")
            read = torch.full((x.shape[-1],), DATA)
        known = (i for i in self.units.layer_inputs if i.leaf is leaf)
        if not any(torch.equal(i.labels, read) for i in known):  # a loop has the same ones in every step
            self.units.layer_inputs.append(LayerInput(leaf, read))

        def own(layer: int, unit_set: str) -> Tensor:
            return torch.tensor(self.units.labels[key, layer, unit_set])

        slots = []
        for (i, d, s), width in zip(leaf.slots(), leaf.widths()[1:], strict=True):
            units = leaf.cells[i][d].states[s].units
            labels = torch.full((width,), DATA) if units is None else own(i, units)
            slots.append(labels.repeat(width // len(labels)))
        for state, labels in zip(states, slots, strict=False):
            self._start(state, labels, f"{leaf.name}: read as an initial state")
        batch = self.values[node.name][1].shape[0]
        last = torch.cat([own(len(leaf.cells) - 1, u.name) for u in leaf.cells[-1][0].output_units()])
        return [
            last.repeat(leaf.directions).expand(*x.shape[:-1], -1).clone(),
            *(s.expand(batch, -1).clone() for s in slots),
        ]

    def _start(self, state: Tensor, own: Tensor, reason: str) -> None:
        """Units start from `state`: from zero, from units that are tied to them, or from what is not known."""
        start = columns(state)
        if start is None:
            self.units.mark_untracked(state, reason)
            start = torch.full_like(own, DATA)
        if carries(start[own <= 0]):
            self.units.mark_untracked(start[own <= 0], reason)
        start, own = start[own > 0], own[own > 0]
        self.units.nonzero_start.update(own[start < 0].tolist())
        self.units.initial_states_of_ties.update(own[start > 0].tolist())
        self.ties += [(a, b) for a, b in zip(start.tolist(), own.tolist(), strict=True) if a > 0 and a != b]

    def _lookup(self, node: Node, shaped: Tensor) -> Tensor:
        """Rows of an embedding table: its columns are units, or data."""
        own = self._columns_of(node.args[0])
        if own is None:
            self._fix_width(node.args[0])
            return _filled(shaped, DATA)
        self.units.note(self.units.makers, self.trace.parameters[node.args[0].name], 1, own)  # pyright: ignore
        return own.expand(shaped.shape).clone()

    def _columns_of(self, node: Any) -> Tensor | None:
        """The labels of a table's columns, if the node is one."""
        for table in self.tables:
            if isinstance(node, Node) and self.trace.is_parameter(node, table.parameter):
                return torch.tensor(self.units.labels[table.key, 0, COLUMNS])
        return None

    def _vector(self, name: str) -> Tensor | None:
        """The labels of a learned vector that is units."""
        shape = self.trace.constants[name].shape
        for rows in self.rows:
            if not rows.weight and self.trace.parameters.get(name) == rows.vector:
                own = torch.tensor(self.units.labels[rows.key, 0, ROWS])
                self.units.note(self.units.makers, rows.vector, len(shape) - 1, own)
                return own.expand(shape).clone()
        return None

    def _made(self, node: Node, shaped: Tensor) -> Tensor:
        """The labels of what a matrix gives: units, if its rows are, else data."""
        matrix = self.trace.parameters.get(getattr(node.args[1], "name", ""))
        for rows in self.rows:
            if rows.weight == matrix and matrix:
                own = torch.tensor(self.units.labels[rows.key, 0, ROWS])
                self.units.note(self.units.makers, rows.weight, 0, own)
                if rows.vector:
                    self.units.note(self.units.makers, rows.vector, 0, own)
                if operation(node) in CONVOLUTIONS:
                    own = own.view(-1, *[1] * (self.values_of(node)[1].dim() - 2))
                return own.expand(shaped.shape).clone()
        return _filled(shaped, DATA)

    def _weighted(self, node: Node, args: tuple, shaped: Tensor, convolution: bool) -> Tensor | None:
        """A weighted sum of columns: note which column of which parameter reads which unit."""
        x, weight = args[0], self.trace.parameters.get(getattr(node.args[1], "name", ""))
        if not carries(x) and not carries(args[1]):
            zeros = self._read(node, x, convolution) if weight and (x == ZERO).any() else None
            if weight is None or zeros is None:
                self._fix_width(node.args[1])
            else:  # as in the first step of a loop: fewer zeros may be as good
                self.units.note(self.units.uses, weight, 1, zeros)
            return self._made(node, shaped)
        if weight is None:
            return None
        read = self._read(node, x, convolution)
        if read is None:
            return None
        if (own := self._columns_of(node.args[1])) is not None:  # one parameter: its columns go for both or for none
            self.units.mark_untracked(own[read <= 0], f"{self._where(node)} reads what is no unit with the same weight")
            self.ties += [(a, b) for a, b in zip(read.tolist(), own.tolist(), strict=True) if a > 0 and a != b]
        self.units.note(self.units.uses, weight, 1, read)
        return self._made(node, shaped)

    def _read(self, node: Node, x: Tensor, convolution: bool) -> Tensor | None:
        """The label of what each column of a matrix reads, if every column reads one."""
        read = columns(x.transpose(1, -1) if convolution else x)
        return read if read is not None and len(read) == self.values_of(node)[1].shape[1] else None

    def values_of(self, node: Node) -> tuple:
        """The true values of a node's arguments."""
        return map_arg(node.args, lambda n: self.values[n.name])  # pyright: ignore

    def _matmul(self, a: Tensor, b: Tensor, shaped: Tensor) -> Tensor | None:
        """A sum over time or over heads, with weights that carry no unit, keeps each column's label."""
        plain_a, plain_b = not carries(a), not carries(b)
        if plain_a and plain_b:
            return _filled(shaped, DATA)
        if plain_a and b.dim() >= 2:
            kept = uniform(b, (b.dim() - 2,))
        elif plain_b and a.dim() >= 2:
            kept = uniform(a, (a.dim() - 1,))
        else:
            return None
        return None if kept is None else kept.expand(shaped.shape).clone()

    def _move(self, node: Node, args: tuple, kwargs: dict) -> Any:
        if operation(node) in INDEXED:  # indices are taken as they are, not as labels; labels are on the CPU
            for index in _tensors(args[1:]):
                self.units.mark_untracked(index, self._where(node))
            args = (args[0], *tree_map_only(Tensor, lambda index: index.cpu(), self.values_of(node)[1:]))
        if operation(node) in VIEWS:  # labels lie in memory in another order than the values, which can be viewed so
            args = (args[0].contiguous(), *args[1:])
        return node.target(*args, **kwargs)  # pyright: ignore

    def _same(self, node: Node, x: Tensor) -> Tensor:
        """An element-wise function of one operand: the unit stays, but zero may not be preserved."""
        x = x.clone()
        if (x >= 0).any() and not self._keeps_zero(node):
            self.units.mark_not_zero_preserving(x)
            x[x == ZERO] = CONSTANT
        return x

    def _elementwise(self, operands: list[Tensor], shaped: Tensor, node: Node, additive: bool) -> Tensor:
        result = operands[0].expand(shaped.shape).clone()
        numbers = [a for a in node.args[:2] if isinstance(a, int | float)]
        if additive and any(numbers) and operation(node) in SUMS:
            operands = [*operands, torch.tensor(CONSTANT)]
        for other in operands[1:]:
            other = other.expand(shaped.shape)
            unit, low = torch.maximum(result, other), torch.minimum(result, other)
            clash = (result > 0) & (other > 0) & (result != other)
            meet = clash & torch.isin(result, self.joined) & torch.isin(other, self.joined)
            self.ties += list(zip(result[meet].tolist(), other[meet].tolist(), strict=True)) if meet.any() else []
            clash &= ~meet
            if additive:
                clash |= (unit > 0) & (low == DATA)
                self.units.mark_not_zero_preserving(unit[low == CONSTANT])
            self.units.mark_untracked(torch.stack([result[clash], other[clash]]), self._where(node))
            nothing = torch.full_like(low, ZERO) if operation(node) == "mul" else low
            result = torch.where(unit > 0, unit, torch.where(unit == ZERO, nothing, low))
            result[clash] = DATA
        if operation(node) == "div" and any(carries(o) for o in operands[1:]):
            self.units.mark_not_zero_preserving(result)
        self._note_scalings(node, node.all_input_nodes, result)
        return result

    def _batch_norm(self, node: Node, args: tuple, shaped: Any) -> Any:
        """Each channel, axis 1, is scaled and shifted by its entry of every vector."""
        x, vectors = args[0], [a for a in node.args[1:5] if isinstance(a, Node)]
        channels = columns(x.transpose(1, -1))
        if channels is None or any((a != CONSTANT).any() for a in _tensors(args[1:5])):
            return None
        self.units.mark_not_zero_preserving(x)
        self._note_scalings(node, vectors, channels)
        return [x.clone(), *_filled(shaped[1:], DATA)]

    def _note_scalings(self, user: Node, operands: list[Node], labels: Tensor) -> None:
        """Note stored tensors with an entry per column that scale or shift the columns `labels` in `user`."""
        met = columns(labels) if carries(labels) else None
        if met is None:
            return
        for node in operands:
            if self.values[node.name].shape[-1:] != met.shape:
                continue
            if name := self.stored.get(node.name):
                self._note_scaling(Scaling(name, self.values[node.name].dim() - 1, met))
            elif node.op == "call_function" and operation(node) in ENTRYWISE:
                known = self.scaled_with.setdefault(node, [])
                if not any(torch.equal(met, labels) for labels in known):  # in a loop one path leads to many others
                    known.append(met)
                    self._note_scalings(node, node.all_input_nodes, met)
            else:
                continue
            self.scaled_by.setdefault(node, set()).add(user)

    def _note_scaling(self, found: Scaling) -> None:
        known = (s for s in self.units.scalings if (s.name, s.axis) == (found.name, found.axis))
        if not any(torch.equal(s.labels, found.labels) for s in known):
            self.units.scalings.append(found)

    def _fix_width_below(self, node: Node) -> None:
        """Keep the width of a stored tensor that scales units in one place and is used elsewhere too."""
        if name := self.stored.get(node.name):
            self.units.fixed_width.add(name)
        elif operation(node) in ENTRYWISE and node not in self.fixed_below:
            self.fixed_below.add(node)
            for below in node.all_input_nodes:
                self._fix_width_below(below)

    def _keeps_zero(self, node: Node) -> bool:
        first, *rest = self.values_of(node)
        kwargs = map_arg(node.kwargs, lambda n: self.values[n.name])
        return not node.target(torch.zeros_like(first), *rest, **kwargs).any()  # pyright: ignore

    def _reduce(self, node: Node, x: Tensor, shaped: Any) -> Any:
        """A reduction along axes on which all elements carry the same unit keeps the unit."""
        name = operation(node)
        values = shaped if isinstance(shaped, Tensor) else shaped[0]
        if pooled := pooled_axes(name):
            dims = tuple(range(x.dim() - pooled, x.dim()))
        else:
            dims = argument(node, "dim", ())
            dims = (dims,) if isinstance(dims, int) else tuple(dims or range(x.dim()))
        kept = uniform(x, dims)
        if kept is None:
            return None
        if name in SOFTMAXES or name in ("logsumexp", "logcumsumexp"):
            self._shift(kept)
        result = kept.expand(values.shape) if values.dim() == x.dim() else kept.reshape(values.shape)
        if isinstance(shaped, Tensor):
            return result.clone()
        if carries(x) and any(operation(u) == "getitem" and u.args[1] != 0 for u in node.users):
            self.units.mark_untracked(x, self._where(node))  # the places of the largest say something of the unit
        return [result.clone(), *_filled(shaped[1:], DATA)]

    def _shift(self, labels: Tensor) -> None:
        self.units.mark_not_zero_preserving(labels)
        labels[labels == ZERO] = CONSTANT


def _filled(like: Any, value: int) -> Any:
    if isinstance(like, Tensor):
        return torch.full(like.shape, value, dtype=torch.long)
    if isinstance(like, list | tuple):
        return [_filled(item, value) for item in like]
    return like


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]
