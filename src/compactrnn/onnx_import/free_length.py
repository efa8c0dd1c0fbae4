"""Files that an exporter has fixed to one number of steps, for any number of them.

Without dynamic axes an exporter writes the sizes of its example into the file: those of the inputs, the shapes that
Reshape and Expand give, and constants as long as the sequence. Each of them can be said without that number, and means
the same for the sequences that the file takes. A number by which a sum over all steps is divided cannot be told from
any other, so that a file that may have one is left as it is. With dynamic axes it may still write such shapes, as it
does for attention; then they hold for the one number of steps that the file takes although its axis is open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from .._errors import ModelFileError, UnsupportedModelError
from ..emit.lengths import MOST
from .folding import Folded, Typed, fold
from .model_file import ModelFile, to_array
from .ports import Port, Ports

_AXES, _SIZES = 8, 16  # numbers of a constant that may be a shape, and of such numbers that are tried

_ELEMENTWISE = {
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
}


def freed(file: ModelFile, ports: Ports, outputs: list[str], time: str | None = None) -> Iterator[ModelFile]:
    """The file with one fixed axis of its inputs open, and those that are as long: for each axis, or for `time`."""
    folded = _folded(file, ports, outputs, {})
    if folded is None:
        yield from _freed_of_shapes(file, ports, outputs, time)
        return
    for port in ports.inputs:
        for axis, steps in enumerate(port.sizes):
            if not isinstance(steps, int) or steps == 1 or time not in (None, port.key(axis)):
                continue
            yield from _each(file, ports, folded, port, axis, steps)


def _folded(file: ModelFile, ports: Ports, outputs: list[str], sizes: dict[str, int]) -> Folded | None:
    try:
        return fold(file, ports.values(sizes), outputs)
    except (UnsupportedModelError, ModelFileError, ValueError):  # for another reason
        return None


def _each(
    file: ModelFile, ports: Ports, folded: Folded, port: Port, axis: int, steps: int, called: str = ""
) -> Iterator[ModelFile]:
    if not _counts(folded, steps):
        yield _freed(file, ports, folded, {port.name: axis}, steps, called)
        if any(_repeats(node, folded, steps) for node in file.graph.node):
            yield _freed(file, ports, folded, {port.name: axis}, steps, called, repeating=True)


def _freed_of_shapes(file: ModelFile, ports: Ports, outputs: list[str], time: str | None) -> Iterator[ModelFile]:
    """The same of a file that leaves an axis open, and takes one size of it alone, which its constants hold."""
    given = [*(t for t in file.graph.initializer), *(a.t for n in file.graph.node for a in n.attribute)]
    numbers = [to_array(t) for t in given if t.data_type == TensorProto.INT64 and math.prod(t.dims) <= _AXES]
    tried = sorted({int(n) for array in numbers for n in array.ravel() if 1 < n < MOST})[-_SIZES:]
    for port in ports.inputs:
        for axis, key in enumerate(port.sizes):
            if not isinstance(key, str) or port.is_batch(axis) or time not in (None, key):
                continue
            for steps in tried:
                folded = _folded(file, ports, outputs, {key: steps})
                if folded is not None and _folded(file, ports, outputs, {key: steps + 1}) is None:
                    fixed = _with_size(file, key, steps)
                    sizes = [replace(p, sizes=tuple(steps if n == key else n for n in p.sizes)) for p in ports.inputs]
                    yield from _each(fixed, replace(ports, inputs=sizes), folded, port, axis, steps, key)


def _with_size(file: ModelFile, key: str, steps: int) -> ModelFile:
    """The file with a size of its inputs that it calls `key`, or nothing, fixed."""
    model = ModelProto()
    model.CopyFrom(file.proto)
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if key in (dim.dim_param, f"{value.name}[{axis}]"):
                dim.dim_value = steps
    return ModelFile(model, file.name, file.quantized)


def _counts(folded: Folded, steps: int) -> bool:
    """Whether an axis of so many steps is summed up, and some number may be their count."""
    reduced = any(
        node.op.startswith(("Reduce", "Global"))
        and steps in folded.type_of(node.inputs[0]).shape
        and steps not in folded.type_of(node.outputs[0]).shape
        for node in folded.nodes
    )
    counts = [steps, steps - 1, steps / (steps - 1)]
    telling = [x**power for x in counts for power in (1, -1, 0.5, -0.5)]
    given = [folded.values[name] for node in folded.nodes if node.op in _ELEMENTWISE for name in node.inputs if name]
    single = [float(x.ravel()[0]) for x in given if isinstance(x, np.ndarray) and x.size == 1 and x.dtype.kind in "fiu"]
    return reduced and bool(np.isclose(np.array(single)[:, None], telling, rtol=1e-5).any())


def _freed(
    file: ModelFile,
    ports: Ports,
    folded: Folded,
    axes: dict[str, int],
    steps: int,
    called: str = "",
    repeating: bool = False,
) -> ModelFile:
    """The file with open axes; `repeating`: what Expand repeats as often as there are steps it repeats at each."""
    name, axis = next(iter(axes.items()))
    called = called or f"{name}[{axis}]"
    for port in ports.inputs:
        if port.name not in axes and port.sizes.count(steps) == 1:
            axes[port.name] = port.sizes.index(steps)
    model = ModelProto()
    model.CopyFrom(file.proto)
    for value in model.graph.input:
        if value.name in axes:
            value.type.tensor_type.shape.dim[axes[value.name]].dim_param = called
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    changed = False
    for number, node in enumerate(model.graph.node):
        for place, value in _without(node, folded, steps):
            tensor = onnx.numpy_helper.from_array(value, f"{node.input[place]}/of-any-length/{number}")
            model.graph.initializer.append(tensor)
            node.input[place], changed = tensor.name, True
    if repeating:
        _repeat_at_each(model, folded, name, axis, steps)
        changed = True
    return ModelFile(model, file.name, file.quantized, (file, steps) if changed else None)


def _repeats(node: NodeProto, folded: Folded, steps: int) -> bool:
    """Whether a node repeats what has no time as often as there are steps."""
    if node.op_type != "Expand" or not isinstance(folded.values.get(node.output[0]), Typed):
        return False
    given, shape = folded.values.get(node.input[0]), folded.type_of(node.output[0]).shape
    return isinstance(given, Typed) and shape.count(steps) == 1 and steps not in given.shape


def _repeat_at_each(model: ModelProto, folded: Folded, name: str, axis: int, steps: int) -> None:
    """Let what is repeated be as long as `axis` of the input called `name`."""
    make, count = onnx.helper.make_node, f"{name}/of-any-length"
    graph, made = model.graph, [make("Shape", [name], [f"{count}/shape"])]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis], np.int64), f"{count}/axis"))
    made.append(make("Gather", [f"{count}/shape", f"{count}/axis"], [count]))
    for number, node in enumerate(graph.node):
        if not _repeats(node, folded, steps):
            continue
        shape, parts = folded.type_of(node.output[0]).shape, []
        for place, n in enumerate(shape):
            parts.append(count if n == steps else f"{count}/{number}/{place}")
            if n != steps:
                graph.initializer.append(onnx.numpy_helper.from_array(np.array([n], np.int64), parts[-1]))
        node.input[1] = f"{count}/{number}"
        made.append(make("Concat", parts, [node.input[1]], axis=0))
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _without(node: NodeProto, folded: Folded, steps: int) -> Iterator[tuple[int, np.ndarray]]:
    """The constant inputs of a node that hold the number of steps, by place, as they are without it."""
    given = [folded.values.get(name) for name in node.input]
    result = folded.values.get(node.output[0]) if node.output else None
    if not isinstance(result, Typed) or node.domain not in ("", "ai.onnx"):
        return
    shape = result.shape
    if node.op_type == "Reshape" and isinstance(given[1], np.ndarray) and isinstance(given[0], Typed):
        whole = steps if steps in shape or steps not in given[0].shape else 0
        grown = [n == whole or (not whole and n % steps == 0) for n in shape]  # what time is joined with grows, too
        if sum(grown) == 1:
            yield 1, np.array([-1 if more else n for n, more in zip(shape, grown, strict=True)], np.int64)
    if node.op_type == "Expand" and isinstance(given[0], Typed) and isinstance(given[1], np.ndarray):
        own = (1,) * (len(shape) - len(given[0].shape)) + given[0].shape
        yield 1, np.array([1 if n == m else n for n, m in zip(shape, own, strict=True)], np.int64)
    if node.op_type in _ELEMENTWISE and any(isinstance(x, Typed) and x.shape == shape for x in given):
        for place, value in enumerate(given):
            if isinstance(value, np.ndarray) and (shrunk := _shrunk(value, shape, steps)) is not None:
                yield place, shrunk


def _shrunk(value: np.ndarray, shape: Sequence[int], steps: int) -> np.ndarray | None:
    """A constant that is the same at all steps, for one step; None for others."""
    axes = [a for a in range(-value.ndim, 0) if value.shape[a] == shape[a] == steps]
    first = value.take([0], axes[0]) if len(axes) == 1 else value
    return first if axes and len(axes) == 1 and np.array_equal(np.broadcast_to(first, value.shape), value) else None
