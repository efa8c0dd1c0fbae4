"""Reading of ONNX files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from .._errors import ModelFileError, UnsupportedModelError
from .._files import read_file

_LARGEST = 1 << 31  # bytes; no protocol buffer is larger


class ModelFile:
    """A model of an ONNX file: its graph, the functions in it expanded, and the operator sets that it uses.

    `quantized`: the file that it was, before whole numbers became float; `fixed`: the one that it was while it took one
    number of steps alone, and that number.
    """

    def __init__(
        self,
        model: ModelProto,
        name: str = "the model",
        quantized: ModelFile | None = None,
        fixed: tuple[ModelFile, int] | None = None,
    ):
        self.name, self.quantized, self.fixed = name, quantized, fixed
        try:
            model = onnx.inliner.inline_local_functions(model) if model.functions else model
        except Exception as error:  # whatever a malformed function raises
            raise ModelFileError(f"{name}: its functions cannot be expanded: {_line(error)}") from None
        if not all(isinstance(text, str) for text in _names(model.graph)):
            raise ModelFileError(f"{name}: expected names in UTF-8")
        self.proto = model
        self.graph = model.graph
        _sort(model.graph, name)
        self.opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
        self.stored = {t.name for t in self.graph.initializer}
        self._arrays: dict[int, tuple[TensorProto, np.ndarray]] = {}  # by identity, as long as the tensor is there

    @classmethod
    def read(cls, path: str | os.PathLike) -> ModelFile:
        """The model of the file `path`, with the data that it keeps in other files of its folder.

        Raises:
            ModelFileError: it is damaged, or no ONNX file.
        """
        name = os.fspath(path)
        data = read_file(path, "ONNX file", _LARGEST)
        model = ModelProto()
        try:
            model.ParseFromString(data)
        except DecodeError:
            raise ModelFileError(f"{name}: expected an ONNX file, got something else, or a damaged one") from None
        if not model.graph.node:
            raise ModelFileError(f"{name}: expected an ONNX file, got one without operators")
        try:
            onnx.load_external_data_for_model(model, str(Path(path).resolve().parent))
        except Exception as error:  # a missing file, an offset beyond its end, a path that leads out of the folder
            raise ModelFileError(f"{name}: the data that it keeps in another file: {_line(error)}") from None
        return cls(model, name)

    def array(self, tensor: TensorProto) -> np.ndarray:
        """The numbers of a tensor of the file."""
        if id(tensor) not in self._arrays:
            self._arrays[id(tensor)] = tensor, to_array(tensor)
        return self._arrays[id(tensor)][1]

    def input_protos(self) -> list[onnx.ValueInfoProto]:
        """The inputs that a caller gives: not those that have a value in the file."""
        given = {t.name for t in self.graph.initializer}
        return [v for v in self.graph.input if v.name not in given]


def to_array(tensor: TensorProto) -> np.ndarray:
    """The numbers of a tensor.

    Raises:
        ModelFileError: they do not fit its shape or type.
    """
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:  # of a malformed tensor
        raise ModelFileError(f"tensor {tensor.name!r}: {_line(error)}") from None


def attribute(proto: AttributeProto) -> object:
    """The value of an attribute: texts as str, tensors as arrays, graphs as they are."""
    if proto.ref_attr_name:
        raise ModelFileError(f"attribute {proto.name!r}: expected a value, got a reference outside of a function")
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, TensorProto):
        return to_array(value)
    if isinstance(value, Iterable) and not isinstance(value, str | np.ndarray | GraphProto):
        return [v.decode(errors="replace") if isinstance(v, bytes) else v for v in value]
    return value


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The graphs that are attributes of a node, such as the branches of an If."""
    return [g for a in node.attribute for g in ([a.g] if a.type == AttributeProto.GRAPH else a.graphs)]


def _names(graph: GraphProto) -> Iterator[str | bytes]:
    """All names within a graph: bytes where they are not in UTF-8."""
    yield from (v.name for v in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute))
        for within in subgraphs(node):
            yield from _names(within)


def names_read(node: NodeProto) -> Iterator[str]:
    """The names that a node reads, also within its graphs, some of which may be those of the graphs' own values."""
    pending = [node]
    while pending:
        one = pending.pop()
        yield from (name for name in one.input if name)
        for graph in subgraphs(one):
            yield from (value.name for value in graph.output)
            pending += graph.node


def _sort(graph: GraphProto, name: str) -> None:
    """Put nodes after those whose results they read, as run times do that take a file in another order.

    Raises:
        ModelFileError: there is no such order.
    """
    made = {output: number for number, node in enumerate(graph.node) for output in node.output if output}
    reads = {n: {made[x] for x in names_read(node) if x in made} for n, node in enumerate(graph.node)}
    if any(before >= n for n, numbers in reads.items() for before in numbers):
        try:
            order = list(TopologicalSorter({n: before - {n} for n, before in reads.items()}).static_order())
        except CycleError:
            raise ModelFileError(f"{name}: nodes read each other's results in a circle") from None
        nodes = [graph.node[n] for n in order]
        del graph.node[:]
        graph.node.extend(nodes)
    for node in graph.node:
        for within in subgraphs(node):
            _sort(within, name)


def where(node: NodeProto) -> str:
    """Name and operator of a node, for messages."""
    name = node.name or next(iter(node.output), "")
    return f"{name}: {node.op_type}" if name else node.op_type


class NodeError(UnsupportedModelError):
    """A node is not taken; `node` is that one.

    `of_shape`: not with inputs of these shapes, with others it may be; `internal`: for what nothing looked for;
    `every_two`: it reads or gives numbers of every two steps.
    """

    def __init__(self, text: str, node: NodeProto, of_shape: bool = False, internal: bool = False):
        super().__init__(text)
        self.node = node
        self.of_shape = of_shape
        self.internal = internal
        self.every_two = False


class FileError(UnsupportedModelError):
    """A file is not taken, for what none of its nodes does alone; `rung` is that of what is missing."""

    def __init__(self, text: str, rung: int):
        super().__init__(text)
        self.rung = rung


def named_in(file: ModelFile, text: str) -> NodeProto | None:
    """The node that a message of the form "name: operator ..." is about; that of a value, if it names an output."""
    pending = [file.graph]
    while pending:
        for node in pending.pop().node:
            if re.match(rf"{re.escape(where(node))}\b", text) or any(f"output {o!r}" in text for o in node.output if o):
                return node
            pending += subgraphs(node)
    return None


def refuse(node: NodeProto, why: str, of_shape: bool = False) -> NodeError:
    """The error that names a node."""
    return NodeError(f"{where(node)} {why}", node, of_shape)


@contextmanager
def blamed(node: NodeProto) -> Iterator[None]:
    """Errors name the node; those that nothing looked for say so, as they may be a fault of the importer."""
    try:
        yield
    except (ModelFileError, NodeError):
        raise
    except UnsupportedModelError as error:
        if type(error) is UnsupportedModelError:
            raise NodeError(str(error), node) from error
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        TypeError,
        RecursionError,
        ValueError,
    ) as error:
        text = f"{where(node)} is malformed, or an error within the importer ({type(error).__name__}: {_line(error)})"
        raise NodeError(text, node, internal=True) from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
