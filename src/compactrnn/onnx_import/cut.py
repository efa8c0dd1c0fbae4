"""Parts of a file: values within its graph as inputs or outputs, and where a graph can be cut around a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from .._errors import invalid
from .model_file import ModelFile, names_read, subgraphs
from .ports import Ports, Size

Inputs = Sequence[str] | Mapping[str, Sequence[Size] | None]

Cut = Callable[[ModelFile, NodeProto], list[str]]

_OF_SHAPE = ("Shape", "Size")  # read no numbers of their input


def with_inputs(file: ModelFile, inputs: Inputs) -> ModelFile:
    """The same file with these values as its first inputs; what else computed them is left out where nothing reads it.

    Raises:
        ValueError: there is no such value, or its shape is neither known nor given.
    """
    if isinstance(inputs, str):
        raise invalid("inputs", got=repr(inputs), expected=f"a list of names, such as [{inputs!r}]")
    shapes = dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(inputs)
    computed = _computed(file)
    known = {v.name: v for v in file.graph.input if v.name not in file.stored}
    for name in shapes:
        if name not in computed and name not in known:
            raise invalid("inputs", got=repr(name), expected="inputs of the file, or values that its nodes compute")
    types = _types(file) if computed & set(shapes) else {}
    ports = [
        _port(file, name, known.get(name) if name in known else types.get(name), shape)
        for name, shape in shapes.items()
    ]
    model = ModelProto()
    model.CopyFrom(file.proto)
    for node in model.graph.node:
        for number, name in enumerate(node.output):
            if name in shapes:
                node.output[number] = f"{name}/computed"
    others = [v for v in model.graph.input if v.name not in shapes]
    _replace(model.graph.input, [*ports, *others])
    return ModelFile(model, file.name)


def check_outputs(file: ModelFile, outputs: Sequence[str]) -> list[str]:
    """The names of `outputs`, each of which must be a value of the graph."""
    if isinstance(outputs, str):
        raise invalid("outputs", got=repr(outputs), expected=f"a list of names, such as [{outputs!r}]")
    values = _computed(file) | {v.name for v in file.graph.input}
    for name in outputs:
        if name not in values:
            raise invalid("outputs", got=repr(name), expected="outputs of the file, or values that its nodes compute")
    if not outputs:
        raise invalid("outputs", got="none", expected="at least one name")
    return list(dict.fromkeys(outputs))


def part(file: ModelFile, ports: Ports, chosen: list[str], keep_states: bool) -> tuple[ModelFile, Ports, list[str]]:
    """The part of the graph that the outputs `chosen` need, its ports, and the names of its outputs.

    Of the states those stay that it reads, or all with `keep_states`; their new values are outputs, too.
    """
    states = list(ports.states) if keep_states else []
    while True:
        needed = list(dict.fromkeys([*chosen, *(s.output for s in states if s.output)]))
        nodes, read = _needed(file, needed)
        found = [s for s in ports.states if s in states or s.name in read]
        if len(found) == len(states):
            break
        states = found
    _, numbers = _needed(file, needed, numbers=True)
    inputs = [p for p in ports.inputs if p.name in read]
    cut = replace(
        ports,
        inputs=[p for p in inputs if p.name in numbers],
        states=states,
        constants={n: v for n, v in ports.constants.items() if n in read},
        lengths=[p for p in ports.lengths if p.name in read],
        shapes=[p for p in inputs if p.name not in numbers],
        tokens=tuple(n for n in ports.tokens if n in numbers),
    )
    if not cut.inputs:
        raise invalid("outputs", got=", ".join(chosen), expected="values that depend on inputs")
    model = ModelProto()
    model.CopyFrom(file.proto)
    _replace(model.graph.node, nodes)
    types = {v.name: v for v in file.graph.output}
    _replace(model.graph.output, [types.get(n, ValueInfoProto(name=n)) for n in needed])
    kept = read | {s.name for s in states}
    _replace(model.graph.input, [v for v in file.graph.input if v.name in kept])
    del model.graph.value_info[:]
    return ModelFile(model, file.name), cut, needed


def before_node(file: ModelFile, node: NodeProto) -> list[str]:
    """The values that a node reads and others compute from data: outputs of the part before it.

    A node within a branch is that of the whole graph that the branch belongs to.
    """
    top = _top(file, node)
    given = {v.name for v in file.graph.input} - file.stored
    data = set(given)
    for other in file.graph.node:
        if data.intersection(names_read(other)):
            data.update(o for o in other.output if o)
    return [n for n in dict.fromkeys(names_read(top)) if n in data - given] if top else []


def after_node(file: ModelFile, node: NodeProto) -> list[str]:
    """The results of a node that others read: inputs of the part after it."""
    top = _top(file, node)
    read = {n for other in file.graph.node if other is not top for n in names_read(other)}
    return [o for o in top.output if o in read] if top else []


def has_shape(file: ModelFile, name: str) -> bool:
    """Whether the file tells the shape of a value."""
    value = _types(file).get(name)
    return value is not None and value.type.tensor_type.HasField("shape")


def _top(file: ModelFile, node: NodeProto) -> NodeProto | None:
    return next((n for n in file.graph.node if _is_within(node, n)), None)


def _is_within(node: NodeProto, other: NodeProto) -> bool:
    if node.op_type == other.op_type and set(node.output) & set(other.output):
        return True
    return any(_is_within(node, inner) for graph in subgraphs(other) for inner in graph.node)


def _computed(file: ModelFile) -> set[str]:
    return {name for node in file.graph.node for name in node.output if name}


def _needed(file: ModelFile, outputs: list[str], numbers: bool = False) -> tuple[list[NodeProto], set[str]]:
    """The nodes that `outputs` need, and the names that they read, with `numbers` those read for more than a shape."""
    needed, kept = set(outputs), []
    for node in reversed(file.graph.node):
        if needed.intersection(o for o in node.output if o):
            kept.append(node)
            if not (numbers and node.op_type in _OF_SHAPE):
                needed.update(names_read(node))
    return kept[::-1], needed


def _types(file: ModelFile) -> dict[str, ValueInfoProto]:
    """Types of the values within the graph, by the standard's inference."""
    try:
        graph = onnx.shape_inference.infer_shapes(file.proto, data_prop=True).graph
    except Exception:  # inference errors have no common class; then shapes are to be given
        graph = file.graph
    return {v.name: v for v in [*graph.value_info, *graph.output]}


def _port(file: ModelFile, name: str, known: ValueInfoProto | None, shape: Sequence[Size] | None) -> ValueInfoProto:
    """An input of that name; of open sizes those keep names that the file's own inputs have."""
    tensor = known.type.tensor_type if known is not None else None
    kind = (tensor.elem_type if tensor else 0) or TensorProto.FLOAT
    if shape is not None:
        if not all(isinstance(n, str) or (isinstance(n, int) and n > 0) for n in shape):
            raise invalid(f"inputs[{name!r}]", got=repr(shape), expected="sizes of axes: positive ints, or names")
        return onnx.helper.make_tensor_value_info(name, kind, list(shape))
    if tensor is None or not tensor.HasField("shape"):
        raise invalid(
            f"shape of {name!r}",
            got="none in the file",
            expected="the sizes of its axes",
            hint=f"inputs={{{name!r}: [1, 'time', 64]}} gives them: numbers, and names of those that are open",
        )
    names = {d.dim_param for v in file.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    sizes = [
        d.dim_value if d.dim_value > 0 else (d.dim_param if d.dim_param in names else None) for d in tensor.shape.dim
    ]
    return onnx.helper.make_tensor_value_info(name, kind, sizes)


def _replace(field, values: Iterable) -> None:
    """Set a repeated field of a protocol buffer."""
    copies = list(values)
    del field[:]
    field.extend(copies)
