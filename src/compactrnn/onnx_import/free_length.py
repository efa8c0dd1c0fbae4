"""Files that an exporter has fixed to one number of steps, for any number of them.

Without dynamic axes an exporter writes the sizes of its example into the file: those of the inputs, the shapes that
Reshape and Expand give, the ends of slices, and constants as long as the sequence. The graph is folded for its own
number of steps and for twice as many: the axes that grow are time, and what holds their own size can be said without
it, and means the same for the sequences that the file takes. A number by which a sum over all steps is divided cannot
be told from any other, so that a file that may have one is left as it is. With dynamic axes an exporter may still write
such shapes, as for attention; then they hold for the one number of steps that the file takes although its axis is open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from .._errors import ModelFileError, UnsupportedModelError
from ..emit.lengths import MOST
from .folded import LAYERS, Folded, Typed
from .folding import Folder, fold
from .model_file import ModelFile, NodeError, to_array
from .ports import Ports

_AXES, _SIZES = 8, 16  # numbers of a constant that may be a shape, and of such numbers that are tried
_FAR = 4096  # steps that no file takes which takes one number alone
_SOME = 240  # steps of sequences on which it is told how many are needed, which most strides divide
_END = np.iinfo(np.int64).max

_ELEMENTWISE = {
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
}

Repeated = list[int | tuple[str, int, int]]  # a shape with sizes that are those of an axis of a value
Change = tuple[int, np.ndarray | Repeated | None]  # an input of a node by its place, and what it becomes


def freed(file: ModelFile, ports: Ports, outputs: list[str], time: str | None = None) -> Iterator[ModelFile]:
    """The file with one fixed axis of its inputs open, and those that are as long: for each axis, or for `time`."""
    if (sizes := only_sizes(file, ports, outputs, {}, time)) is None:
        return
    for port in ports.inputs:
        for axis, size in enumerate(port.sizes):
            key, steps = port.key(axis), sizes.get(port.key(axis), size)
            if isinstance(steps, int) and steps > 1 and time in (None, key) and (not sizes or key in sizes):
                yield from _each(file, ports, outputs, {port.name: axis}, steps)


def only_sizes(
    file: ModelFile, ports: Ports, outputs: list[str], dims: Mapping[str, int], time: str | None = None
) -> dict[str, int] | None:
    """The one number of steps that a file takes which leaves an axis open, by the name of that.

    It is one of the numbers in shapes of the file, or what a node needs for its weights, or the length of a window, so
    that the file takes no shorter sequence, and none twice as long, and leaves out the end of others. Empty where all
    sizes are fixed, by the file or by `dims`; None where nothing is found.
    """
    opened = [p.key(d) for p in ports.inputs for d, n in enumerate(p.sizes) if isinstance(n, str) and not p.is_batch(d)]
    opened = [key for key in dict.fromkeys(opened) if key not in dims]
    if not opened:
        return {} if _folded(file, ports, outputs, dims) is not None else None
    given = [*(t for t in file.graph.initializer), *(a.t for n in file.graph.node for a in n.attribute)]
    numbers = [to_array(t) for t in given if t.data_type == TensorProto.INT64 and math.prod(t.dims) <= _AXES]
    windows = {n for node in file.graph.node for a in node.attribute if a.name == "kernel_shape" for n in a.ints}
    tried = sorted({int(n) for n in (*windows, *(n for array in numbers for n in array.ravel())) if 1 < n < MOST})[
        -_SIZES:
    ]
    for key in opened:

        def takes(steps: int, key: str = key) -> bool:
            return _folded(file, ports, outputs, {**dims, key: steps}) is not None

        if takes(_FAR):  # and so any number
            continue
        for steps in [*tried, *_needed(file, ports, outputs, dims, key)] if time in (None, key) else ():
            if not takes(steps):
                continue
            if not takes(steps + 1) or (steps in windows and not takes(steps - 1) and not takes(2 * steps)):
                return {key: steps}
    return None


def _needed(file: ModelFile, ports: Ports, outputs: list[str], dims: Mapping[str, int], key: str) -> Iterator[int]:
    """Numbers of steps for which the first node that does not take others gets what fits its weights."""
    try:
        fold(file, ports.values({**dims, key: _SOME}), outputs)
        return
    except NodeError as error:
        node = error.node
    except (UnsupportedModelError, ModelFileError, ValueError):
        return
    data = [n for n in node.input if n and n not in file.stored]
    found = [_folded(file, ports, data, {**dims, key: n}) for n in (_SOME, 2 * _SOME)]
    small, large = found
    if small is None or large is None:
        return
    wanted = {n for t in file.graph.initializer if t.name in node.input for n in t.dims}
    for one, two in zip(small.outputs, large.outputs, strict=True):
        for n, m in zip(small.type_of(one).shape, large.type_of(two).shape, strict=True):
            for size in sorted(wanted) if m > n else ():
                steps = _SOME + (size - n) * _SOME / (m - n)
                yield from (s for s in (math.floor(steps), math.ceil(steps)) if 1 < s < MOST)


def _folded(
    file: ModelFile, ports: Ports, outputs: list[str], sizes: Mapping[str, int], steps: int = 1
) -> Folded | None:
    try:
        return fold(file, ports.values(sizes, steps), outputs)
    except (UnsupportedModelError, ModelFileError, ValueError):  # for another reason
        return None


def _each(file: ModelFile, ports: Ports, outputs: list[str], axes: dict[str, int], steps: int) -> Iterator[ModelFile]:
    """The file with these axes open; the second time what is repeated as often as there are steps, at each of them."""
    name, axis = next(iter(axes.items()))
    called = next(p.key(axis) for p in ports.inputs if p.name == name)
    for port in ports.inputs:
        if port.name not in axes and port.sizes.count(steps) == 1:
            axes[port.name] = port.sizes.index(steps)
    keys = {p.key(axes[p.name]) for p in ports.inputs if p.name in axes}
    own = _folded(file, ports, outputs, dict.fromkeys(keys, steps), steps)
    if own is None:
        return
    for repeating in (False, True):
        opener = _Opener(file, own, repeating)
        opener.sizes[steps] = name, axis, 2 * steps  # which nodes may repeat something by before they read the input
        try:
            fold(file, ports.values(dict.fromkeys(keys, 2 * steps), 2 * steps), outputs, opener)
        except (UnsupportedModelError, ModelFileError, ValueError):
            found = False
        else:
            found = not opener.counts()
        if found:
            yield opener.opened(axes, called, steps)
        if repeating or not opener.repeats:
            return


class _Opener(Folder):
    """Folds a graph for more steps than `own` is for, and changes the nodes that hold their number.

    `repeating`: what Expand repeats as often as some axis that grows is long, it repeats as often as that is by then.
    """

    def __init__(self, file: ModelFile, own: Folded, repeating: bool):
        super().__init__(file)
        self.own, self.repeating, self.repeats = own, repeating, False
        self.changes: dict[str, list[Change]] = {}  # of nodes, by their first output
        self.sizes: dict[int, tuple[str, int, int]] = {}  # where an axis of this size grows, and to what size

    def changed(self, proto: NodeProto, scope: dict[str, str], depth: int) -> NodeProto:
        """A node of the graph itself without the number of steps."""
        given = [scope.get(name, "") for name in proto.input]
        if depth or proto.domain not in ("", "ai.onnx") or not given or not proto.output:
            return proto
        for name, unique in zip(proto.input, given, strict=True):
            for axis in self._grown(unique):
                sizes = (values[unique].shape[axis] for values in (self.own.values, self.values))
                self.sizes.setdefault(next(sizes), (name, axis, next(sizes)))
        changes = list(self._without(proto, given))
        bare = NodeProto()
        bare.CopyFrom(proto)
        for place, value in changes:
            bare.input[place] = "" if value is None else _called(proto, place)
            if isinstance(value, list):
                value = np.array([n if isinstance(n, int) else n[2] for n in value], np.int64)
            if value is not None:
                scope[bare.input[place]] = self.new(bare.input[place], value)
        if changes:
            self.changes[proto.output[0]] = changes
        return bare

    def _grown(self, name: str) -> list[int]:
        """The axes of a value that have another size than for the file's own number of steps."""
        one, two = self.own.values.get(name), self.values.get(name)
        if not isinstance(one, Typed) or two is None or len(one.shape) != len(two.shape):
            return []
        return [axis for axis, (n, m) in enumerate(zip(one.shape, two.shape, strict=True)) if n != m]

    def _number(self, name: str) -> np.ndarray | None:
        """A constant that is the same for every number of steps."""
        one, two = self.own.values.get(name), self.values.get(name)
        return one if isinstance(one, np.ndarray) and isinstance(two, np.ndarray) and np.array_equal(one, two) else None

    def _without(self, node: NodeProto, given: list[str]) -> Iterator[Change]:
        result, first = self.own.values.get(node.output[0]), self.own.values.get(given[0])
        if not isinstance(result, Typed) or first is None:
            return
        grown, numbers = [self._grown(name) for name in given], [self._number(name) for name in given]
        shape, before, axis = result.shape, first.shape, grown[0][0] if len(grown[0]) == 1 else None
        second = numbers[1] if len(numbers) > 1 else None
        if node.op_type == "Reshape" and axis is not None and second is not None:
            place, known = _after_reshape(before, shape, axis), [d for d, n in enumerate(shape) if n in self.sizes]
            if place is None and len(known) == 1:  # what was joined with others is by itself again
                place = known[0]
            sizes = np.array([-1 if d == place else n for d, n in enumerate(shape)], np.int64)
            if place is not None and not np.array_equal(sizes, second):
                yield 1, sizes
        if node.op_type == "Expand" and second is not None:
            own = (1,) * (len(shape) - len(before)) + before
            repeated = [d for d, (n, m) in enumerate(zip(shape, own, strict=True)) if n != m and n in self.sizes]
            if grown[0]:
                yield 1, np.array([1 if n == m else n for n, m in zip(shape, own, strict=True)], np.int64)
            elif len(repeated) == 1:
                self.repeats = True
                if self.repeating:
                    yield 1, [self.sizes[n] if d in repeated else n for d, n in enumerate(shape)]
        if node.op_type == "Gather" and axis is not None and second is not None:
            if _attribute(node, "axis", 0) % len(before) == axis and (second == before[axis] - 1).all():
                yield 1, np.full_like(second, -1)
        if node.op_type == "Slice" and axis is not None:
            yield from _from_the_end(before, axis, numbers)
        if node.op_type in LAYERS and axis is not None and len(numbers) > 4 and numbers[4] is not None:
            if axis == _attribute(node, "layout", 0) and (numbers[4] == before[axis]).all():
                yield 4, None
        if node.op_type in _ELEMENTWISE:
            for name, axes in zip(given, grown, strict=True):
                for d in axes:
                    at = d - len(self.own.type_of(name).shape)
                    for place, value in enumerate(numbers):
                        if value is not None and (one := _same_along(value, at, shape[at])) is not None:
                            yield place, one

    def counts(self) -> bool:
        """Whether an axis that grows is summed up, and some number may be how many entries it has."""
        summed = {
            self.own.type_of(node.inputs[0]).shape[axis]
            for node in self.folded.nodes
            if node.op.startswith(("Reduce", "Global")) and not self._grown(node.outputs[0])
            for axis in self._grown(node.inputs[0])
        }
        counts = [x for n in summed for x in (n, n - 1, n / (n - 1)) if n > 1]
        telling = [x**power for x in counts for power in (1, -1, 0.5, -0.5)]
        names = [name for node in self.folded.nodes if node.op in _ELEMENTWISE for name in node.inputs]
        given = [x for name in names if (x := self._number(name)) is not None and x.size == 1 and x.dtype.kind in "fiu"]
        single = np.array([float(x.ravel()[0]) for x in given])
        return bool(np.isclose(single[:, None], telling, rtol=1e-5).any())

    def opened(self, axes: Mapping[str, int], called: str, steps: int) -> ModelFile:
        """The file with open axes, without its number of steps."""
        make, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
        model = ModelProto()
        model.CopyFrom(self.file.proto)
        for value in model.graph.input:
            if value.name in axes:
                value.type.tensor_type.shape.dim[axes[value.name]].dim_param = called
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        nodes, stored = [], []
        for node in model.graph.node:
            for place, value in self.changes.get(node.output[0] if node.output else "", ()):
                node.input[place] = name = "" if value is None else _called(node, place)
                if isinstance(value, np.ndarray):
                    stored.append(constant(value, name))
                elif value is not None:
                    parts = [f"{name}/{d}" for d in range(len(value))]
                    for part, n in zip(parts, value, strict=True):
                        stored.append(
                            constant(np.array([n if isinstance(n, int) else n[1]], np.int64), f"{part}/number")
                        )
                        if isinstance(n, int):
                            nodes.append(make("Identity", [f"{part}/number"], [part]))
                        else:
                            nodes.append(make("Shape", [n[0]], [f"{part}/shape"]))
                            nodes.append(make("Gather", [f"{part}/shape", f"{part}/number"], [part]))
                    nodes.append(make("Concat", parts, [name], axis=0))
            nodes.append(node)
        model.graph.initializer.extend(stored)
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        fixed = (self.file, steps) if self.changes else None
        return ModelFile(model, self.file.name, self.file.quantized, fixed)


def _called(node: NodeProto, place: int) -> str:
    return f"{node.output[0]}/of-any-length/{place}"


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _after_reshape(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """The axis that holds what `axis` did, alone or with others, or the outer part of it; None where there is none.

    >>> _after_reshape((48, 1, 8, 5), (1, 48, 40), 0), _after_reshape((1, 16, 20), (2, 8, 20), 2)
    (1, 2)
    >>> _after_reshape((1, 48, 40), (1, 12, 160), 1), _after_reshape((1, 48, 40), (1920,), 1)
    (1, 0)
    """
    outer, size, inner = math.prod(before[:axis]), before[axis], math.prod(before[axis + 1 :])
    found = None
    for d in range(len(after)):
        left, right = math.prod(after[:d]), math.prod(after[d + 1 :])
        whole = outer % left == 0 and inner % right == 0
        if whole or (left == outer and right % inner == 0 and size * inner % right == 0):
            found = d
    return found


def _from_the_end(shape: Sequence[int], axis: int, numbers: Sequence[np.ndarray | None]) -> Iterator[Change]:
    """Starts and ends of a Slice beyond the middle of an axis, as they are counted from its end."""
    axes = numbers[3] if len(numbers) > 3 else None
    for place in (1, 2):
        value = numbers[place]
        if value is None or value.ndim != 1 or (len(numbers) > 3 and axes is None):
            continue
        along = np.arange(len(value)) if axes is None else axes % len(shape)
        size, counted = shape[axis], value.astype(np.int64)
        beyond = (along == axis) & (2 * counted > size) & (counted < 2 * size)
        if beyond.any():
            yield place, np.where(beyond, np.where(counted < size, counted - size, _END), counted)


def _same_along(value: np.ndarray, axis: int, size: int) -> np.ndarray | None:
    """One entry of a constant that has `size` equal ones along an axis; None for others."""
    if value.ndim < -axis or value.shape[axis] != size or size == 1:
        return None
    first = value.take([0], axis)
    return first if np.array_equal(np.broadcast_to(first, value.shape), value) else None
