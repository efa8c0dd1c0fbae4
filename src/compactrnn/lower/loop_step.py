"""The step of a model whose Python code loops over time, as `for t in range(x.shape[1]): h = self.cell(x[:, t], h)`.

The graphs of one step and of two are compared, from what the model returns backwards. Where the second step reads what
the first has computed, and the graph of one step a constant, there is a state, and the constant is what it starts from.
All else must be the same. What a state is made of, which after a single step nothing may read, is compared in the
graphs of two steps and of three. Whether that is the model is not concluded from the graphs: the step, repeated, must
give what the model gives of a longer sequence.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..graph.arguments import positional
from ..graph.aten import FRESH, argument
from ..graph.copy import copy_module
from ..graph.example import Example
from ..graph.leaf import Leaf
from ..graph.trace import Trace, find_leaves, operation, trace_leaves
from .calls import input_names
from .decompose import Pooling, decompositions
from .lowering import Lowered, in_float
from .one_step import lower_one_step
from .outputs import Port, port_name, unique, with_plain_outputs
from .probe import Axes, output_axes
from .stateless import check_stateless
from .weights import product_names, with_products

_SHAPES = {"view", "_unsafe_view", "reshape", "expand", "repeat"}
_OVER = {"select_scatter", "slice_scatter", "copy"}  # write their second argument over a part of the first
_STEPS = 7  # of a sequence that shows whether the model repeats the step
_COUNTED = 64  # steps that code may count and then do something else, which a sequence of twice as many shows
_RECURRENT = torch.ops.compactrnn.recurrent.default
_READINGS = ((1, 0), (0, 1), (0, None))  # axes of time and batch


def lower_loop(model: nn.Module, example_inputs: Any, time: int | None = None) -> Lowered | None:
    """The program of a model whose Python code repeats a step; None where no step is found.

    Raises:
        UnsupportedModelError: the step cannot be lowered; names module and operation.
    """
    model, inputs = positional(copy_module(model).cpu().float().eval(), example_inputs)
    inputs = in_float(inputs)
    model = with_plain_outputs(model, inputs)
    for at, batch in _READINGS:
        fits = all(x.dim() > max(at, batch or 0) and x.shape[at] == inputs[0].shape[at] for x in inputs)
        if fits and (time is None or time % inputs[0].dim() == at):
            axes = Axes((at,) * len(inputs), (batch,) * len(inputs))
            for repeated in _repeated(model, inputs, axes):
                if (lowered := _of_sequences(repeated, model, inputs, axes)) is not None:
                    return lowered
    return None


def _repeated(model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> Iterator[_Repeated]:
    """What the model may repeat along these axes.

    What is made of a state is part of the step. Where the same is made of two that start from the same, so that graphs
    do not tell them apart, it is a state itself.
    """
    single = axes.with_batch(inputs, 1)
    try:
        copy_module(model)(*axes.with_steps(single, 2))
    except Exception:  # whatever a model raises of which this is no axis of time
        return
    with contextlib.suppress(UnsupportedModelError):
        one, two = (_trace(model, axes.with_steps(single, steps)) for steps in (1, 2))
        if len(one.nodes) < len(two.nodes):
            _cut_out(one, two)
            graphs = one, two, _trace(model, axes.with_steps(single, 3))
            for further, apart in itertools.product((True, False), (False, True)):
                found = _Repeated([replace(graph, nodes=[*graph.nodes]) for graph in graphs], further, apart)
                if found.found and found.states:
                    yield found


def _trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> Trace:
    with_leaves, leaves = find_leaves(with_products(model), loops=True)
    with Pooling():
        found = trace_leaves(with_leaves.eval(), leaves, Example(inputs, {}), None, decompositions())
    for node in found.nodes:  # a layer stacks its states, of which its next call takes each again
        args: Any = node.args
        if operation(node) == "select" and operation(args[0]) == "stack" and args[1] == argument(args[0], "dim"):
            node.replace_all_uses_with(args[0].args[0][args[2]])
    return found


def _cut_out(one: Trace, two: Trace) -> None:
    """Make the slice `x[:, 0:1]` of two steps the same slice where there is but one, of which it is all."""
    known: dict[Any, int] = {}
    keys = [_keys(graph, known) for graph in (one, two)]
    slices = {keys[1][str(n.args[0])]: n for n in two.nodes if operation(n) == "slice" and n.args[2:] == (0, 1)}
    for node in one.nodes:
        if operation(node) == "alias" and (first := slices.get(keys[0][str(node.args[0])])):
            node.target, node.args = first.target, (node.args[0], *first.args[1:])


class _Repeated:
    """The graph `one` of a single step as that of any.

    Attributes:
        found: whether it is.
        states: the names of the nodes that they start from, "" for zeros, by the node that gives their new value.
        reads: these nodes by what reads the state before: the name of a node, and the place among its arguments.
    """

    def __init__(self, graphs: Sequence[Trace], further: bool, apart: bool):
        known: dict[Any, int] = {}
        self.one = graphs[0]
        self.states: dict[Node, str] = {}
        self.reads: dict[tuple[str, tuple], Node] = {}
        pairs = [_Pair(a, b, known, further, apart) for a, b in itertools.pairwise(graphs)]
        self.found = all(pair.same(pair.a.outputs, pair.b.outputs) for pair in pairs)
        before = -1
        while self.found and len(self.reads) > before:  # what a state is made of may read others
            before = len(self.reads)
            for pair in pairs:
                self._add(pair, pairs[0])

    def _add(self, pair: _Pair, first: _Pair) -> None:
        """What is read in the graphs of more steps, in the terms of that of one."""
        for (reader, place), (state, start) in pair.reads.items():
            reading = first.name_of(pair.keys[0][reader]) if reader else ""
            if reading is None or (pair is not first and not reader):
                continue  # of a later step, or not needed
            here, begin = (first.made(pair.keys[0], node) if node else "" for node in (state, start))
            if here is None or begin is None or self.states.setdefault(first.nodes[here], begin) != begin:
                self.found = False
                return
            self.reads[reading, place] = first.nodes[here]


class _Pair:
    """The graphs `a` and `b`, of which `b` has a step more, and what its last step `reads` of the one before.

    `keys` are numbers of the nodes of both, the same for those that compute the same. `nodes` are those of `a` by name.
    """

    def __init__(self, a: Trace, b: Trace, known: dict[Any, int], further: bool, apart: bool):
        self.a, self.b = a, b
        self._further = further  # whether constants that are made of what a state starts from are looked into
        self.keys = _keys(a, known, apart), _keys(b, known, apart)
        self.reads: dict[tuple[str, tuple], tuple[Node, Node | None]] = {}
        self.nodes = {n.name: n for node in a.nodes for n in (*node.all_input_nodes, node)}
        self._names = {key: name for name, key in reversed(self.keys[0].items())}
        self._data = set(a.inputs)
        for node in a.nodes:
            self._follow(node)
        self._compared: set[tuple[Node, Node]] = set()

    def _follow(self, node: Node) -> None:
        """Note whether a node depends on the inputs."""
        read = any(source.name in self._data for source in node.all_input_nodes)
        self._data |= {node.name} if read and operation(node) not in FRESH else set()

    def name_of(self, key: int) -> str | None:
        """The first of `a` that has this number."""
        return self._names.get(key)

    def made(self, keys: dict[str, int], node: Node) -> str | None:
        """What computes the same in `a`, where nothing may have read it so far; None for what is of later steps.

        `keys` are those of the node's graph.
        """
        key = keys[node.name]
        if key in self._names or node.op != "call_function":
            return self._names.get(key)
        sources = {source: self.made(keys, source) for source in node.all_input_nodes}
        if operation(node) in ("select", "slice") or not all(name in self.nodes for name in sources.values()):
            return None
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: self.nodes[str(sources[source])])
        made = self.a.nodes[0].graph.call_function(node.target, args, kwargs)  # pyright: ignore
        self.a.nodes.append(made)
        self.nodes[made.name], self._names[key], self.keys[0][made.name] = made, made.name, key
        self._follow(made)
        return made.name

    def same(self, a: Any, b: Any, reader: str = "", place: tuple = ()) -> bool:
        """Whether `b`, in the last step, is what `a` is in the last but one."""
        if isinstance(b, Node):
            key = self.keys[1][b.name]
            if isinstance(a, Node) and self.keys[0][a.name] == key:
                return True
            if a is None or (isinstance(a, Node) and a.name not in self._data):
                if a is not None and self._further and self._tried(a, b):
                    return True
                state = self.made(self.keys[1], b)
                if state in self._data and state in self.nodes:
                    self.reads[reader, place] = self.nodes[state], a
                    return True
            return isinstance(a, Node) and self._same_operation(a, b)
        if isinstance(b, list | tuple):
            if not isinstance(a, list | tuple) or len(a) > len(b):
                return False
            if len(a) < len(b) and a:  # of all steps, such as `torch.stack` gets
                return self.same(a[-1], b[-1], reader, (*place, len(a) - 1))
            pairs = enumerate(zip([*a, *[None] * (len(b) - len(a))], b, strict=True))  # a cell that was given no states
            return all(self.same(x, y, reader, (*place, i)) for i, (x, y) in pairs)
        return a == b or (type(a) is int and type(b) is int)

    def _tried(self, a: Node, b: Node) -> bool:
        """As `_same_operation`, but nothing is noted where it is not."""
        reads, compared = dict(self.reads), set(self._compared)
        if self._same_operation(a, b):
            return True
        self.reads, self._compared = reads, compared
        return False

    def _same_operation(self, a: Node, b: Node) -> bool:
        if (a, b) in self._compared:
            return True
        self._compared.add((a, b))
        if a.target != b.target or a.op != "call_function" or b.op != "call_function":
            return False
        if operation(a) in _OVER:  # of a result that has all steps
            return self.same(a.args[1], b.args[1], a.name, (0, 1))
        return self.same([a.args, list(a.kwargs.values())], [b.args, list(b.kwargs.values())], a.name)


def _keys(trace: Trace, known: dict[Any, int], apart: bool = False) -> dict[str, int]:
    """A number for every node, the same for those that compute the same in any graph of the same `known`.

    `apart`: those of one graph that compute the same have numbers of their own, in their order, as where two states
    start from the same zeros and are masked before they are read.
    """
    stored, found, seen = {**trace.parameters, **trace.buffers}, {}, Counter[Any]()

    def number(key: Any) -> int:
        return known.setdefault(key, len(known))

    for name, value in trace.constants.items():
        found[name] = number(stored.get(name) or (value.shape, value.numpy().tobytes()))
    found |= {name: number(("input", i)) for i, name in enumerate(trace.inputs)}
    for node in trace.nodes:
        leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        if node.target is _RECURRENT:
            leaves[0] = trace.leaves[leaves[0]].name
        sizes = operation(node) in _SHAPES
        parts = [found[x.name] if isinstance(x, Node) else (repr(x), type(x)) for x in leaves]
        parts = [p for x, p in zip(leaves, parts, strict=True) if not (sizes and type(x) is int)]
        key = (str(node.target), tuple(parts), None if sizes else str(spec))
        found[node.name] = number((key, seen[key] if apart else 0))
        seen[key] += 1
    return found


class _Step(nn.Module):
    """One step of the model: `forward(*inputs, *states)` gives what the model returns, then the new states."""

    def __init__(self, repeated: _Repeated):
        super().__init__()
        source = repeated.one.model
        self._modules.update(source._modules)
        self._parameters.update(source._parameters)
        self._buffers.update(source._buffers)
        self._graph = _Shared(repeated)

    def forward(self, *given: Tensor) -> tuple[Any, ...]:
        repeated = self._graph.repeated
        trace, reads = repeated.one, repeated.reads
        count = len(trace.inputs)
        state = dict(zip(repeated.states, given[count:], strict=True))
        values: dict[str, Any] = dict(zip(trace.inputs, given[:count], strict=True))
        for name, value in trace.constants.items():
            stored = trace.parameters.get(name) or trace.buffers.get(name)
            values[name] = value if stored is None else _attribute(self, stored)

        def filled(x: Any, reader: str, place: tuple = ()) -> Any:
            if (reader, place) in reads:
                return state[reads[reader, place]]
            if isinstance(x, Node):
                return values[x.name]
            if isinstance(x, list | tuple):
                more = sum((reader, (*place, i)) in reads for i in range(len(x), len(x) + 8))
                return type(x)([filled(y, reader, (*place, i)) for i, y in enumerate([*x, *[None] * more])])
            return x

        for node in trace.nodes:
            args, named = filled([node.args, list(node.kwargs.values())], node.name)
            if node.target is _RECURRENT:
                leaf = trace.leaves[args[0]]
                values[node.name] = _call(leaf, self.get_submodule(leaf.name), args[1], args[2])
            else:
                values[node.name] = node.target(*args, **dict(zip(node.kwargs, named, strict=True)))  # pyright: ignore
        return *filled(list(trace.outputs), ""), *(values[node.name] for node in repeated.states)


class _Shared:
    """What copies of a module share."""

    def __init__(self, repeated: _Repeated):
        self.repeated = repeated

    def __deepcopy__(self, memo: dict) -> _Shared:
        return self


def _attribute(module: nn.Module, name: str) -> Tensor:
    path, _, own = name.rpartition(".")
    return getattr(module.get_submodule(path), own)


def _call(leaf: Leaf, module: nn.Module, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """A cell of torch, or a layer, as the operation that stands for it."""
    if leaf.is_step:
        after = module(x[0], tuple(states) if len(states) > 1 else states[0] if states else None)
        after = list(after) if isinstance(after, tuple) else [after]
        return [after[0][None], *after]
    turned = (1, 0) if module.batch_first else (0, 1)
    y, after = module(x.movedim((0, 1), turned), leaf.joined(states, True) if states else None)
    return [y.movedim((0, 1), turned), *leaf.split(after, True)]


def _of_sequences(repeated: _Repeated, model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> Lowered | None:
    """The lowered step, as the model of whole sequences that it is; None where the model does not repeat it."""
    check_stateless(model, inputs)
    single = axes.with_batch(inputs, 1)
    one, step = axes.with_steps(single, 1), _Step(repeated)
    values = repeated.one.run(one)
    start = [
        values[before] if before else torch.zeros_like(values[after.name]) for after, before in repeated.states.items()
    ]
    ports = _ports(model, single, axes)
    if not _repeats(step, start, model, axes.with_steps(single, _STEPS), axes, ports):
        return None
    places = list(range(len(one), len(one) + len(start)))
    given = {f"given_{i}": value for i, value in zip(places, start, strict=True)}
    lowered = lower_one_step(step, (*one, *start), places, given)
    program, called = lowered.program, dict(zip(given, _names(repeated), strict=True))
    rename = product_names(model)
    for i, segment in enumerate(program.segments):
        ops = tuple(replace(op, name=rename(op.name)) for op in segment.ops)
        program.segments[i] = replace(segment, ops=ops)
    program.states = [replace(s, name=called.get(s.name, s.name)) for s in program.states]
    program.inputs = [
        replace(port, name=name, shape=tuple(x.shape[1:]))
        for port, name, x in zip(program.inputs, input_names(model, len(one)), axes.sequence(one, 0), strict=True)
    ]
    results = [values[o.name] if isinstance(o, Node) else o for o in repeated.one.outputs]
    program.outputs = [
        replace(output, name=port.name, shape=_row_shape(results[port.place], port), final=port.time is None)
        for output, port in zip(program.outputs, ports, strict=True)
    ]
    return Lowered(program, model, inputs, axes, lowered.trace, ports, [], _COUNTED)


@torch.no_grad()
def _repeats(
    step: nn.Module,
    states: list[Tensor],
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    axes: Axes,
    ports: list[Port],
) -> bool:
    """Whether the step, repeated, gives what the model gives of numbers that are another at every step."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(x + torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for x in inputs)
    rows = []
    with contextlib.suppress(RuntimeError, ValueError, IndexError, TypeError):  # of what is no step
        for t in range(_STEPS):
            now = (x.narrow(time or 0, t, 1) for x, time in zip(inputs, axes.times, strict=True))
            leaves = list(step(*now, *states))
            rows.append(leaves)
            states = leaves[len(leaves) - len(states) :]
    wanted = pytree.tree_leaves(model(*inputs))
    if len(rows) < _STEPS:
        return False
    for port in ports:
        ys, y = [row[port.place] for row in rows], wanted[port.place]
        found = ys[-1] if port.time is None else torch.cat(ys, port.time)
        if found.shape != y.shape or not torch.allclose(found, y, 1e-3, 1e-3 * float(y.abs().max())):
            return False
    return True


def _names(repeated: _Repeated) -> list[str]:
    """What the states are called: after their cell or layer, where they are those of one."""
    found: list[str] = []
    for node in repeated.states:
        name = "state"
        if operation(node) == "getitem" and node.args[0].target is _RECURRENT:  # pyright: ignore
            call, index = node.args
            leaf = repeated.one.leaves[call.args[0]]  # pyright: ignore
            layer, direction, place = leaf.slots()[max(index - 1, 0)]  # pyright: ignore
            state = leaf.cells[layer][direction].outer_states()[place].name
            name = f"{leaf.name}.{state}" if leaf.is_step else leaf.state_name(layer, direction, state)
        found.append(unique(name, found))
    return found


@torch.no_grad()
def _ports(model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> list[Port]:
    """What the engine gives of what the model returns: all tensors."""
    single = axes.with_batch(inputs, 1)
    leaves, _ = pytree.tree_flatten_with_path(model(*single))
    found = iter(output_axes(model, single, axes))
    ports: list[Port] = []
    for place, (path, leaf) in enumerate(leaves):
        if isinstance(leaf, Tensor):
            ports.append(Port(unique(port_name(path), [p.name for p in ports]), place, *next(found)))
    return ports


def _row_shape(y: Tensor, port: Port) -> tuple[int, ...]:
    return tuple(n for d, n in enumerate(y.shape) if d not in (port.time, port.batch))
