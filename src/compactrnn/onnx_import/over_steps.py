"""Loops over the steps of a sequence as Scans, and sequences of tensors that are the steps of one.

Rounds of a Loop are folded one by one, with their numbers as constants, and compared: they may differ in nothing but
the entry of an axis that they read, which is the one after, or before, that of the round before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from .evaluate import check_size
from .folded import Folded, Node, Typed, Value

if TYPE_CHECKING:
    from .folding import Folder

MARK = "..."  # stands in a sequence of tensors for those of the rounds before


def over_steps(
    folder: Folder,
    proto: NodeProto,
    graph: GraphProto,
    inputs: tuple[str, ...],
    count: int,
    scope: dict[str, str],
    depth: int,
) -> None:
    """Fold a Loop of `count` rounds as a Scan.

    Raises:
        Unlike: it is none.
    """
    given = [_Start(name, folder.lists.get(name), folder.values[name]) for name in inputs[2:]]
    if any(start.items or start.name in folder.rows for start in given):
        raise Unlike("it goes on with a sequence of tensors that has some")
    rounds = _rounds(folder, graph, given, count, scope, depth)
    rolled = _roll(rounds, folder)
    if not rolled.reads:
        raise Unlike("it reads no sequence step by step")
    folder.folded.nodes += rolled.before
    sources = [_entries(folder, proto, read, count, depth) for read in rolled.reads.values()]
    axes = [read.axis for read in rolled.reads.values()]
    within = [*rounds[0].states, *rolled.reads]
    for name in _outside(rolled.step, within):
        sources.append(_repeated(folder, proto, name, count, depth))
        axes.append(0)
        within.append(folder.new(name, folder.values[name]))
        rolled.step = _renamed(rolled.step, name, within[-1])
    states = [k for k, start in enumerate(given) if isinstance(start.value, Typed)]
    lists = [k for k, start in enumerate(given) if start.items is not None]
    names = []
    for k, name in enumerate(rolled.step.outputs):
        t = folder.folded.type_of(name)
        names.append(
            folder.new(f"{proto.output[0]}/{k}", Typed(t.dtype, t.shape if k < len(states) else (count, *t.shape)))
        )
        check_size(proto, folder.values[names[-1]].shape)
    scan = NodeProto(op_type="Scan", name=proto.name, input=proto.input, output=proto.output)
    scan.attribute.append(onnx.helper.make_attribute("num_scan_inputs", len(axes)))
    scan.attribute.append(onnx.helper.make_attribute("scan_input_axes", axes))
    read_first = [given[k].name for k in states]
    folder.folded.nodes.append(Node(scan, (*read_first, *sources), tuple(names), rolled.step, tuple(within)))
    last = dict(zip([*states, *lists, *range(len(given), len(proto.output))], names, strict=True))
    for k, name in enumerate(proto.output):
        if k in lists:
            scope[name] = folder.new(name, np.zeros(0))
            folder.rows[scope[name]] = last[k], 0, False
        elif k in last:
            scope[name] = last[k]
        else:
            scope[name] = folder.new(name, given[k].at(count))


def _outside(step: Folded, given: list[str]) -> list[str]:
    """What a step reads that depends on data, and is the same at every step."""
    made = {*given, *(name for node in step.nodes for name in node.outputs)}
    read = dict.fromkeys([*(name for node in step.nodes for name in node.inputs if name), *step.outputs])
    return [name for name in read if name not in made and isinstance(step.values[name], Typed)]


def _renamed(step: Folded, name: str, new: str) -> Folded:
    nodes = [replace(n, inputs=tuple(new if i == name else i for i in n.inputs)) for n in step.nodes]
    return replace(step, nodes=nodes, outputs=[new if o == name else o for o in step.outputs])


def _repeated(folder: Folder, proto: NodeProto, name: str, count: int, depth: int) -> str:
    """A value once for each step."""
    shape = folder.values[name].shape
    one, all_ = (folder.new(f"{name}/shape", np.array([n, *shape], np.int64)) for n in (1, count))
    local = {"x": name, "one": one, "all": all_}
    for op, inputs, y in (("Reshape", ["x", "one"], "row"), ("Expand", ["row", "all"], "y")):
        folder.node(onnx.helper.make_node(op, inputs, [y], proto.name), local, depth)
    return local["y"]


@dataclass
class _Start:
    """What a Loop starts from: a tensor, or the tensors of a sequence; whole numbers grow by `by` in each round."""

    name: str
    items: list[str] | None
    value: Value
    by: np.ndarray | None = None

    def at(self, place: int) -> Value:
        if isinstance(self.value, Typed) or self.by is None:
            return self.value
        return np.asarray(self.value + place * self.by, self.value.dtype)


def _rounds(
    folder: Folder, graph: GraphProto, given: list[_Start], count: int, scope: dict[str, str], depth: int
) -> list[_Round]:
    """The first two rounds and the last, with the states that depend on data and all that they give at each step."""

    def run(place: int) -> _Round:
        names = [folder.new(port.name, start.at(place)) for port, start in zip(graph.input[2:], given, strict=True)]
        folder.lists.update((name, [MARK]) for name, start in zip(names, given, strict=True) if start.items is not None)
        outer, folder.folded = folder.folded, Folded([], folder.values)
        try:
            found = folder.round(graph, place, names, scope, depth, counted=True)
            return _Round(place, folder.folded, names, found)
        finally:
            folder.folded = outer

    while True:  # until it is known what depends on data from the second round on
        first = run(0)
        after = [folder.values[name] for name in first.found[1 : 1 + len(given)]]
        grown = [s for s, v in zip(given, after, strict=True) if isinstance(v, Typed) > isinstance(s.value, Typed)]
        if not grown:
            break
        for start in grown:
            start.value = folder.folded.type_of(start.name)
    for start, value in zip(given, after, strict=True):
        if start.value.shape != value.shape or (isinstance(start.value, Typed) and not isinstance(value, Typed)):
            raise Unlike("its states change their shapes, or depend on no data after the first round")
        if isinstance(start.value, np.ndarray) and isinstance(value, np.ndarray) and value.dtype.kind in "iu":
            start.by = value - start.value
    rounds = [first, *(run(n) for n in sorted({min(1, count - 1), count - 1} - {0}))]
    return [_checked(folder, one, given) for one in rounds]


def _checked(folder: Folder, one: _Round, given: list[_Start]) -> _Round:
    states, given_out, items = [], [], []
    for start, before, after in zip(given, one.states, one.found[1:], strict=False):
        value, now = folder.values[after], start.at(one.place + 1)
        if start.items is not None:
            added = folder.lists.get(after, [])
            if len(added) != 2 or added[0] != MARK:
                raise Unlike("it does more with a sequence of tensors than add one behind the others")
            items.append(added[1])
        elif isinstance(now, Typed):
            states.append(before)
            given_out.append(after)
            if value != now:
                raise Unlike("its states change their shapes")
        elif not (isinstance(value, np.ndarray) and np.array_equal(value, now)):
            raise Unlike("numbers that go from round to round change otherwise than by the same")
    found = [*given_out, *items, *one.found[1 + len(given) :]]
    if any(not isinstance(folder.values[name], Typed) for name in found):
        raise Unlike("some of what it gives depends on no data")
    return _Round(one.place, one.body, states, found)


def _entries(folder: Folder, proto: NodeProto, read: _Read, count: int, depth: int) -> str:
    """The entries of a value that the rounds of a Loop read, in their order."""
    if not read.backwards and read.first == 0 and folder.values[read.source].shape[read.axis] == count:
        return read.source
    places = read.first + np.arange(count) * (-1 if read.backwards else 1)
    local = {"source": read.source, "places": folder.new(f"{read.source}/places", places)}
    gather = onnx.helper.make_node("Gather", ["source", "places"], ["y"], proto.name, axis=read.axis)
    folder.node(gather, local, depth)
    return local["y"]


@dataclass(frozen=True)
class _Round:
    """The body of a Loop for the round of number `place`: names of its states, and of what it gives."""

    place: int
    body: Folded
    states: list[str]
    found: list[str]


@dataclass(frozen=True)
class _Read:
    """What every round reads of a value: the entry `first` of an axis, and the one after or before it in the next."""

    source: str
    axis: int
    first: int
    backwards: bool


class Unlike(Exception):
    """The rounds are no steps of one layer; the text says why."""


@dataclass
class _Rolled:
    """One round: nodes that are the same in all of them, those of a step, and what it reads, by the names within."""

    before: list[Node] = field(default_factory=list)
    step: Folded = field(default_factory=Folded)
    reads: dict[str, _Read] = field(default_factory=dict)


def _roll(rounds: Sequence[_Round], folder: Folder) -> _Rolled:
    """The step of which these are rounds; the first is number 0, and the last is the last.

    Raises:
        Unlike: they differ in more than the place that each reads of a sequence.
    """
    first, rolled = rounds[0], _Rolled()
    rolled.step.values, rolled.step.outputs = first.body.values, list(first.found)
    same = [dict(zip(r.states, first.states, strict=True)) for r in rounds]
    varying = set(first.states)
    if len({len(r.body.nodes) for r in rounds}) > 1:
        raise Unlike("its rounds differ in their operators")
    for nodes in zip(*(r.body.nodes for r in rounds), strict=True):
        node = nodes[0]
        if any(other.op != node.op or len(other.inputs) != len(node.inputs) for other in nodes):
            raise Unlike("its rounds differ in their operators")
        for names, other in zip(same, nodes, strict=True):
            names.update(zip(other.outputs, node.outputs, strict=True))
        unlike = [k for k in range(len(node.inputs)) if not _alike(rounds, nodes, k, same, folder.placed)]
        if unlike:
            if node.inputs[0] in varying:
                raise Unlike(f"{node.op} within it reads the number of the round")
            read, shape = _read(rounds, nodes, unlike), first.body.values[node.outputs[0]]
            assert isinstance(shape, Typed)
            source = first.body.values[read.source]
            rest = source.shape[: read.axis] + source.shape[read.axis + 1 :]
            part = node.outputs[0]
            if rest != shape.shape:
                part = folder.new(f"{part}/part", Typed(shape.dtype, rest))
                sizes = folder.new(f"{part}/shape", np.array(shape.shape, np.int64))
                reshape = onnx.helper.make_node("Reshape", ["part", "shape"], ["whole"], node.proto.name)
                rolled.step.nodes.append(Node(reshape, (part, sizes), node.outputs))
            rolled.reads[part] = read
            varying.update(node.outputs)
        elif node.body is not None:
            raise Unlike("it has a Scan within its step")
        elif varying.isdisjoint(node.inputs):
            rolled.before.append(node)
        else:
            rolled.step.nodes.append(node)
            varying.update(node.outputs)
    for k, name in enumerate(first.found):
        if any(_name(r.found[k], names) != name for r, names in zip(rounds, same, strict=True)):
            raise Unlike(f"what it gives is not made in the same way by every round ({name!r})")
    return rolled


def _name(name: str, same: dict[str, str]) -> str:
    return same.get(name, name)


def _alike(
    rounds: Sequence[_Round], nodes: Sequence[Node], k: int, same: list[dict[str, str]], placed: set[str]
) -> bool:
    """Whether input k of a node is the same in all rounds, and does not depend on their numbers."""
    values = [r.body.values[n.inputs[k]] if n.inputs[k] else None for r, n in zip(rounds, nodes, strict=True)]
    if isinstance(values[0], np.ndarray):
        equal = all(isinstance(v, np.ndarray) and np.array_equal(v, values[0]) for v in values)
        return equal and placed.isdisjoint(n.inputs[k] for n in nodes)
    return all(_name(n.inputs[k], names) == nodes[0].inputs[k] for n, names in zip(nodes, same, strict=True))


def _read(rounds: Sequence[_Round], nodes: Sequence[Node], unlike: list[int]) -> _Read:
    """What entry of an axis a Gather or Slice of one entry reads in each round."""
    node, values = nodes[0], rounds[0].body.values
    why = f"{node.op} within it reads the number of the round for something else than a place in a sequence"
    shape = values[node.inputs[0]].shape
    numbers = [[v for n in other.inputs[1:] if n and isinstance(v := values[n], np.ndarray)] for other in nodes]
    if len({len(some) for some in numbers}) > 1 or len(numbers[0]) + 1 < len([n for n in node.inputs if n]):
        raise Unlike(why)
    if node.op == "Gather" and unlike == [1] and all(some[0].size == 1 for some in numbers):
        axis = node.get("axis", 0) % len(shape)
        places = [int(some[0].ravel()[0]) for some in numbers]
    elif node.op == "Slice" and set(unlike) <= {1, 2} and all(v.size == 1 for some in numbers for v in some):
        axis = int(numbers[0][2].ravel()[0]) % len(shape) if len(numbers[0]) > 2 else 0
        places = [range(shape[axis])[slice(*(int(v.ravel()[0]) for v in some[:2]))] for some in numbers]
        if any(len(p) != 1 for p in places) or (len(numbers[0]) > 3 and int(numbers[0][3].ravel()[0]) != 1):
            raise Unlike(why)
        places = [p[0] for p in places]
    else:
        raise Unlike(why)
    places = [p % shape[axis] for p in places]
    for sign in (1, -1):
        if all(p == places[0] + sign * r.place for p, r in zip(places, rounds, strict=True)):
            return _Read(node.inputs[0], axis, places[0], sign < 0)
    raise Unlike(f"{node.op} reads entries {places} of {node.inputs[0]!r} in rounds {[r.place for r in rounds]}")


def of_rows(folder: Folder, node: Node, scope: dict[str, str], depth: int) -> bool:
    """What a node does with a sequence of the entries of an axis; False for what is not taken."""
    op, y = node.op, node.proto.output[0]
    if op == "SplitToSequence":
        split = next((folder.values[name] for name in node.inputs[1:] if name), None)
        if split is not None and not (isinstance(split, np.ndarray) and split.shape == () and int(split) == 1):
            return False
        axis = node.get("axis", 0) % len(folder.values[node.inputs[0]].shape)
        scope[y] = folder.new(y, np.zeros(0))
        folder.rows[scope[y]] = node.inputs[0], axis, bool(node.get("keepdims", 1))  # as onnxruntime, also with a split
        return True
    name, axis, stays = folder.rows[node.inputs[0]]
    shape: list[int] = list(folder.values[name].shape)
    local = {"x": name}

    def apply(op: str, x: str, second: str = "", **attributes: object) -> str:
        made = onnx.helper.make_node(op, [x, second] if second else [x], [f"{op} of {x}"], node.proto.name)
        made.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())
        folder.node(made, local, depth)
        return made.output[0]

    if op == "Identity":
        scope[y] = node.inputs[0]
    elif op == "SequenceLength":
        scope[y] = folder.new(y, np.asarray(shape[axis], np.int64))
        folder.measured.add(scope[y])
    elif op == "SequenceAt" and isinstance(folder.values[node.inputs[1]], np.ndarray):
        local |= {"place": node.inputs[1], "one": folder.new(f"{y}/one", np.array([1]))}
        scope[y] = local[apply("Gather", "x", apply("Reshape", "place", "one") if stays else "place", axis=axis)]
    elif op == "ConcatFromSequence" and not stays:
        stacked, rank = bool(node.get("new_axis", 0)), len(shape)
        to = node.get("axis", 0) % (rank if stacked else rank - 1)
        rest = [d for d in range(rank) if d != axis]
        order = [*rest[:to], axis, *rest[to:]]
        result, moved = apply("Transpose", "x", perm=order), [shape[d] for d in order]
        if not stacked:
            sizes = np.array([*moved[:to], moved[to] * moved[to + 1], *moved[to + 2 :]])
            local["sizes"] = folder.new(f"{y}/sizes", sizes)
            result = apply("Reshape", result, "sizes")
        scope[y] = local[result]
    else:
        return False
    return True
