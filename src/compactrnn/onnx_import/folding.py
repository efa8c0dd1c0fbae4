"""Constant folding: what depends on no data is computed, of all else type and shape are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from .._errors import ModelFileError
from ..emit.lengths import MOST
from .evaluate import check_size, evaluate, infer
from .folded import LAYERS, Folded, Node, Typed, Value, scan_axes
from .joined import apart
from .model_file import FileError, ModelFile, attribute, blamed, names_read, refuse
from .over_steps import MARK, Unlike, of_rows, over_steps

_MOST_NODES = 200_000
_DEEPEST = 64  # graphs within graphs
_MOST_ROUNDS = 512  # of a loop that is unrolled
_FEW_ROUNDS = 64  # of one whose rounds are as many as some axis is long
_LISTS = {
    *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
    *("SequenceLength", "SequenceMap", "SplitToSequence"),
}


def fold(file: ModelFile, given: Mapping[str, Value], outputs: list[str], folder: Folder | None = None) -> Folded:
    """The graph of `file` for inputs of these types, or constants, as far as `outputs` need it.

    The branch of an If whose condition is constant is taken, and a Loop is unrolled; functions, branches, loops and
    sequences of tensors leave no trace. A `folder` of its
    own may change nodes before they are folded.

    Raises:
        UnsupportedModelError: a branch, a loop or a shape depends on data; an operator is not known.
        ModelFileError: the graph is malformed.
    """
    folder = folder or Folder(file)
    scope = {}
    for name, value in given.items():
        scope[name] = folder.new(name, value)
    folder.run(file.graph, scope, outputs, 0)
    folder.folded.outputs = [folder.resolve(scope, name, "the graph's outputs") for name in outputs]
    if listed := [name for name in outputs if scope[name] in {*folder.lists, *folder.rows}]:
        raise FileError(f"output {listed[0]!r} is a sequence of tensors; what can be taken are tensors", 3)
    return folder.folded


class Folder:
    """Folds the nodes of a graph one after the other."""

    def __init__(self, file: ModelFile):
        self.file = file
        self.folded = Folded()
        self.values = self.folded.values
        self.lists: dict[str, list[str]] = {}  # names of the tensors of a sequence, by its name
        self.rows: dict[str, tuple[str, int, bool]] = {}  # sequences of the entries of an axis, and whether it stays
        self.measured: set[str] = set()  # numbers that follow from the sizes of values that depend on data
        self.placed: set[str] = set()  # numbers that follow from the number of a round of a Loop over steps
        self.count = 0

    def new(self, name: str, value: Value) -> str:
        """A name that is not taken for a value."""
        unique, number = name, 1
        while unique in self.values:
            unique, number = f"{name}#{number}", number + 1
        self.values[unique] = value
        return unique

    def resolve(self, scope: Mapping[str, str], name: str, reader: str) -> str:
        if name not in scope:
            raise ModelFileError(f"{self.file.name}: {reader} read {name!r}, which no node before gives")
        return scope[name]

    def run(self, graph: GraphProto, scope: dict[str, str], outputs: list[str], depth: int) -> None:
        """Fold the nodes of a graph that `outputs` need; `scope` gets the names of their results."""
        if depth > _DEEPEST:
            raise ModelFileError(f"{self.file.name}: graphs within graphs, more than {_DEEPEST} deep")
        if graph.sparse_initializer:
            raise ModelFileError(f"{self.file.name}: expected dense tensors, got sparse ones")
        needed = set(outputs)
        kept = []
        for node in reversed(graph.node):
            if needed.intersection(o for o in node.output if o):
                kept.append(node)
                needed.update(names_read(node))
        for tensor in graph.initializer:
            if tensor.name in needed and tensor.name not in scope:
                scope[tensor.name] = self.new(tensor.name, self.file.array(tensor))
        for node in reversed(kept):
            self.count += 1
            if self.count > _MOST_NODES:
                raise ModelFileError(f"{self.file.name}: more than {_MOST_NODES} nodes")
            with blamed(node):
                for part in apart(self.changed(node, scope, depth)):
                    self.node(part, scope, depth)

    def changed(self, proto: NodeProto, scope: dict[str, str], depth: int) -> NodeProto:
        """What is folded in place of a node of a graph that lies so deep within others."""
        return proto

    def node(self, proto: NodeProto, scope: dict[str, str], depth: int) -> None:
        reader = f"node {proto.name!r} and others"
        inputs = tuple(self.resolve(scope, name, reader) if name else "" for name in proto.input)
        if proto.op_type == "If":
            self._branch(proto, inputs, scope, depth)
            return
        if proto.op_type == "Scan":
            self._scan(proto, inputs, scope, depth)
            return
        if proto.op_type == "Loop":
            self._loop(proto, inputs, scope, depth)
            return
        if proto.op_type in _LISTS or not {*self.lists, *self.rows}.isdisjoint(inputs):
            self._listed(proto, inputs, scope, depth)
            return
        values = [self.values[name] if name else None for name in inputs]
        results = self._results(proto, values)
        outputs = []
        for name, value in zip(proto.output, results, strict=True):
            outputs.append(self.new(name, value) if name and value is not None else "")
            if name:
                scope[name] = outputs[-1]
        numbers = [name for name in outputs if name and isinstance(self.values[name], np.ndarray)]
        for found, begins in ((self.measured, proto.op_type in ("Shape", "Size")), (self.placed, False)):
            if begins or not found.isdisjoint(inputs):
                found.update(numbers)
        if any(isinstance(self.values[name], Typed) for name in outputs if name):
            self.folded.nodes.append(Node(proto, inputs, tuple(outputs)))

    def _branch(self, proto: NodeProto, inputs: tuple[str, ...], scope: dict[str, str], depth: int) -> None:
        condition = self.values[inputs[0]] if inputs and inputs[0] else None
        if inputs and inputs[0] in self.placed:
            raise Unlike("which operators run depends on the number of the round")
        if not isinstance(condition, np.ndarray) or condition.size != 1:
            raise refuse(
                proto,
                "takes one of two branches by the data of each call; what can be taken has one branch, or a condition"
                " of constants: constants={...} binds an input",
            )
        name = "then_branch" if bool(condition.ravel()[0]) else "else_branch"
        graph = next((a.g for a in proto.attribute if a.name == name), None)
        if graph is None or len(graph.output) != len(proto.output):
            raise ModelFileError(f"{self.file.name}: an If without the branch {name}")
        inner, wanted = dict(scope), [o.name for o in graph.output]
        self.run(graph, inner, wanted, depth + 1)
        for name, result in zip(proto.output, wanted, strict=True):
            scope[name] = self.resolve(inner, result, "outputs of a branch")

    def _scan(self, proto: NodeProto, inputs: tuple[str, ...], scope: dict[str, str], depth: int) -> None:
        """Fold the body for the types of the states and of one step of each sequence."""
        node = Node(proto, inputs, ())
        graph, count = next((a.g for a in proto.attribute if a.name == "body"), None), node.get("num_scan_inputs", 0)
        if graph is None or not 0 < count <= len(inputs) or len(graph.input) != len(inputs) or "" in inputs:
            raise refuse(proto, "is not taken: expected a body that reads all its inputs, as since version 9")
        states = len(inputs) - count
        types = [self.folded.type_of(name) for name in inputs]
        axes = scan_axes(node)
        steps = {t.shape[axis] for t, axis in zip(types[states:], axes, strict=True) if axis < len(t.shape)}
        if len(steps) != 1 or len(graph.output) != len(proto.output):
            raise ModelFileError(f"{self.file.name}: a Scan over sequences of unlike lengths")
        parts = [Typed(t.dtype, t.shape[:a] + t.shape[a + 1 :]) for t, a in zip(types[states:], axes, strict=True)]
        inner, outer = dict(scope), self.folded
        for port, kind in zip(graph.input, [*types[:states], *parts], strict=True):
            inner[port.name] = self.new(port.name, kind)
        self.folded = Folded([], self.values)
        try:
            self.run(graph, inner, [o.name for o in graph.output], depth + 1)
            body = self.folded
        finally:
            self.folded = outer
        body.outputs = [self.resolve(inner, o.name, "outputs of a Scan") for o in graph.output]
        found = [self.folded.type_of(name) for name in body.outputs]
        if any(a.shape != b.shape for a, b in zip(found[:states], types[:states], strict=True)):
            raise refuse(proto, "gives states of another shape than it starts from")
        made = node.get("scan_output_axes", []) or [0] * (len(found) - states)
        results = [*found[:states]]
        for t, axis in zip(found[states:], made, strict=True):
            at = axis % (len(t.shape) + 1)
            results.append(Typed(t.dtype, (*t.shape[:at], *steps, *t.shape[at:])))
            check_size(proto, results[-1].shape)
        outputs = tuple(self.new(name, kind) if name else "" for name, kind in zip(proto.output, results, strict=True))
        scope.update({name: new for name, new in zip(proto.output, outputs, strict=True) if name})
        self.folded.nodes.append(Node(proto, inputs, outputs, body, tuple(inner[p.name] for p in graph.input)))

    def _loop(self, proto: NodeProto, inputs: tuple[str, ...], scope: dict[str, str], depth: int) -> None:
        """Fold the body as often as it runs, which must depend on no data; over the steps of a sequence as a Scan."""
        graph = next((a.g for a in proto.attribute if a.name == "body"), None)
        if graph is None or len(graph.input) != len(inputs) or len(graph.output) != len(proto.output) + 1:
            raise ModelFileError(f"{self.file.name}: a Loop whose body has other inputs and outputs than it")
        most, going = (self.known(proto, name) for name in inputs[:2])
        if going in (None, 1) and (most is None or most > 0):
            try:
                count, of_steps = self._ends(proto, graph, inputs, most, scope, depth)
                if of_steps:
                    over_steps(self, proto, graph, inputs, count, scope, depth)
                    return
            except Unlike as why:
                self.folded.unlike.setdefault(proto.output[0], str(why))
        kept, wanted, rounds = list(inputs[2:]), [o.name for o in graph.output], 0
        stacked: list[list[str]] = [[] for _ in wanted[1 + len(kept) :]]
        why = self.folded.unlike.get(proto.output[0], "")
        while (going is None or going) and (most is None or rounds < most):
            if rounds == (limit := _FEW_ROUNDS if why else _MOST_ROUNDS):
                raise refuse(
                    proto,
                    f"is not taken: it runs for more than {limit} rounds, which is unrolled at most"
                    f"{why and f', and {why}'}",
                )
            found = self.round(graph, rounds, kept, scope, depth)
            going, kept = self.known(proto, found[0]), found[1 : 1 + len(kept)]
            for rows, name in zip(stacked, found[1 + len(kept) :], strict=True):
                rows.append(name)
            rounds += 1
        scope.update({name: new for name, new in zip(proto.output, kept, strict=False) if name})
        for name, rows in zip(proto.output[len(kept) :], stacked, strict=True):
            if name:
                self._joined(proto, name, rows, 0, True, scope, depth)

    def _ends(
        self,
        proto: NodeProto,
        graph: GraphProto,
        inputs: tuple[str, ...],
        most: int | None,
        scope: dict[str, str],
        depth: int,
    ) -> tuple[int, bool]:
        """How many rounds a Loop runs for, at least one, and whether that follows from the size of a value.

        Only what the condition reads is folded.
        """
        read, before = {graph.output[0].name}, set()
        while read != before:
            before = set(read)
            for node in reversed(graph.node):
                if not read.isdisjoint(node.output):
                    read.update(names_read(node))
            read.update(o.name for i, o in zip(graph.input[2:], graph.output[1:], strict=False) if i.name in read)
        kept = [k for k, port in enumerate(graph.input[2:]) if port.name in read]
        if not kept and graph.input[0].name not in read and most is not None:
            return most, inputs[0] in self.measured
        names, place = [inputs[2 + k] for k in kept], 0
        while most is None or place < min(most, MOST + 1):
            inner = dict(scope)
            for port, value in zip(graph.input, (np.int64(place), np.bool_(True)), strict=False):
                inner[port.name] = self.new(port.name, np.asarray(value))
            inner.update({graph.input[2 + k].name: name for k, name in zip(kept, names, strict=True)})
            wanted = [graph.output[0].name, *(graph.output[1 + k].name for k in kept)]
            self.run(graph, inner, wanted, depth + 1)
            going, *names = (self.resolve(inner, name, "outputs of a Loop") for name in wanted)
            place += 1
            if self.measured.isdisjoint((going, inputs[0])):
                return place, False
            if not self.known(proto, going):
                return place, going in self.measured
        return place, place == most and inputs[0] in self.measured

    def round(
        self,
        graph: GraphProto,
        place: int,
        kept: list[str],
        scope: dict[str, str],
        depth: int,
        counted: bool = False,
    ) -> list[str]:
        """Fold the body of a Loop for the round of this number; returns the names of what it gives."""
        inner = dict(scope)
        for port, value in zip(graph.input, (np.int64(place), np.bool_(True)), strict=False):
            inner[port.name] = self.new(port.name, np.asarray(value))
        if counted:
            self.placed.add(inner[graph.input[0].name])
        inner.update({port.name: name for port, name in zip(graph.input[2:], kept, strict=True)})
        wanted = [o.name for o in graph.output]
        self.run(graph, inner, wanted, depth + 1)
        return [self.resolve(inner, name, "outputs of a Loop") for name in wanted]

    def known(self, proto: NodeProto, name: str) -> int | None:
        """A number of rounds, whether a Loop goes on, or a place in a sequence; None where there is none."""
        value = self.values[name] if name else None
        if name in self.placed:
            raise Unlike(f"{proto.op_type} within it depends on the number of the round")
        if isinstance(value, Typed) or (value is not None and value.size != 1):
            what = "how often it runs" if proto.op_type == "Loop" else "which tensor of a sequence it is about"
            raise refuse(proto, f"is not taken: {what} depends on the data of each call")
        return None if value is None else int(value.ravel()[0])

    def _listed(self, proto: NodeProto, inputs: tuple[str, ...], scope: dict[str, str], depth: int) -> None:
        """What a node does with sequences of tensors, of which it is known how many they have."""
        op, items, y = proto.op_type, self.lists.get(inputs[0] if inputs else "", []), proto.output[0]
        node = Node(proto, inputs, ())
        if MARK in items and op not in ("Identity", "SequenceInsert"):
            raise Unlike("reads a sequence of tensors that grows from round to round")
        if (op == "SplitToSequence" or (inputs[:1] and inputs[0] in self.rows)) and of_rows(self, node, scope, depth):
            return
        place = (
            self.known(proto, inputs[-1]) if (op, len(inputs)) in {("SequenceAt", 2), ("SequenceInsert", 3)} else None
        )
        if op == "ConcatFromSequence" and items:
            self._joined(proto, y, items, node.get("axis", 0), bool(node.get("new_axis", 0)), scope, depth)
        elif op == "SequenceAt" and place is not None and -len(items) <= place < len(items):
            scope[y] = items[place]
        elif op == "SequenceLength":
            scope[y] = self.new(y, np.asarray(len(items), np.int64))
        elif op in ("Identity", "SequenceConstruct", "SequenceEmpty", "SequenceInsert"):
            found = list(inputs) if op == "SequenceConstruct" else list(items)
            if op == "SequenceInsert":
                found.insert(len(items) if place is None else place, inputs[1])
            scope[y] = self.new(y, np.zeros(0))
            self.lists[scope[y]] = found
        else:
            raise refuse(proto, "is not taken; what would help: tensors in place of sequences")

    def _joined(
        self, proto: NodeProto, y: str, names: list[str], axis: int, stacked: bool, scope: dict[str, str], depth: int
    ) -> None:
        """Fold the Concat of values, along a new axis where they are `stacked`."""
        if not names:
            raise refuse(proto, "is not taken: it gives a tensor without entries")
        local = {f"{y}/{n}": name for n, name in enumerate(names)}
        parts = list(local)
        for n, part in enumerate(parts if stacked else ()):
            shape = list(self.folded.type_of(local[part]).shape)
            shape.insert(axis % (len(shape) + 1), 1)
            local[f"{part}/shape"], parts[n] = self.new(f"{part}/shape", np.array(shape, np.int64)), f"{part}/row"
            self.node(onnx.helper.make_node("Reshape", [part, f"{part}/shape"], [parts[n]], proto.name), local, depth)
        self.node(onnx.helper.make_node("Concat", parts, [y], proto.name, axis=axis), local, depth)
        scope[y] = local[y]

    def _results(self, proto: NodeProto, values: list[Value | None]) -> list[Value | None]:
        if proto.op_type == "Constant":
            return [_constant(proto)]
        if proto.op_type in ("Shape", "Size") and values and values[0] is not None and not proto.domain:
            return [_shape(proto, values[0].shape)]
        found = infer(self.file, proto, [_typed(v) for v in values], values)
        types = [Typed(*t) if t else None for t in found]
        if any(isinstance(v, Typed) for v in values):
            return list(types)
        if proto.op_type.startswith(("Random", "Multinomial", "Bernoulli")):
            raise refuse(proto, "draws random numbers; an engine gives the same for the same input")
        if proto.op_type in LAYERS:
            raise refuse(proto, "runs over constants alone; what can be taken reads the model's inputs")
        return list(evaluate(self.file, proto, values))  # pyright: ignore[reportArgumentType]


def _typed(value: Value | None) -> tuple[np.dtype, tuple[int, ...]] | None:
    return None if value is None else (value.dtype, tuple(value.shape))


def _constant(proto: NodeProto) -> np.ndarray:
    for a in proto.attribute:
        value = attribute(a)
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        if a.name == "value" and isinstance(value, np.ndarray):
            check_size(proto, value.shape)
            return value
        if a.name in kinds:
            return np.asarray(value, kinds[a.name])
    raise refuse(proto, "is no tensor of numbers")


def _shape(proto: NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    if proto.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    ends = {a.name: a.i for a in proto.attribute}
    return np.asarray(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)


def dtype_of(proto: onnx.ValueInfoProto) -> np.dtype:
    """The type of an input or output."""
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(proto.type.tensor_type.elem_type)
    except KeyError:
        raise ModelFileError(f"{proto.name!r}: expected a tensor of numbers") from None
