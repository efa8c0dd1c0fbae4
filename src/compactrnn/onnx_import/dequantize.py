"""Quantized files back to float, as a rewriting of the graph: they are stored as asked later.

Inputs quantized at run time stay as they are; of a product of whole numbers the scale is applied afterwards, as in the
file. What saturation and rounding did to the inputs is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from .model_file import ModelFile, subgraphs

_FLOAT = onnx.TensorProto.FLOAT
_MICROSOFT = "com.microsoft"
Rewriting = Callable[["_Writer", NodeProto], None]


def dequantized(file: ModelFile) -> ModelFile:
    """The same model with float operators in place of those on whole numbers."""
    if not any(_rewriting(n, set()) for n in _nodes(file.graph)):
        return file
    model = ModelProto()
    model.CopyFrom(file.proto)
    _rewrite(model.graph)
    return ModelFile(model, file.name)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _rewrite(graph: GraphProto) -> None:
    pairs = _pairs(graph)
    writer = _Writer()
    for node in graph.node:
        for inner in subgraphs(node):
            _rewrite(inner)
        rewriting = _rewriting(node, pairs)
        if rewriting is None:
            writer.nodes.append(node)
        else:
            rewriting(writer, node)
    nodes = list(writer.nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]


def _pairs(graph: GraphProto) -> set[str]:
    """The outputs of QuantizeLinear that only DequantizeLinear reads."""
    found = {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear" and n.output}
    for node in graph.node:
        reads = node.input[1:] if node.op_type == "DequantizeLinear" else node.input
        found -= set(reads)
        for inner in subgraphs(node):
            found -= {name for n in _nodes(inner) for name in n.input}
    return found - {o.name for o in graph.output}


class _Writer:
    """Appends nodes that compute something under new names."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], f"{output}/{op}", **attributes))
        return output

    def constant(self, value: np.ndarray, output: str) -> str:
        return self.node("Constant", [], output, value=onnx.numpy_helper.from_array(value))

    def real(self, values: str, zero: str, output: str) -> str:
        """`values` less their zero point, as float."""
        cast = self.node("Cast", [values], f"{output}/float", to=_FLOAT)
        if not zero:
            return cast
        return self.node("Sub", [cast, self.node("Cast", [zero], f"{output}/zero", to=_FLOAT)], output)

    def weight(self, values: str, scale: str, zero: str, output: str, directions: bool = False) -> str:
        """(values - zero) scale; of `directions` scale and zero are (directions,) or (directions, columns)."""
        if directions:
            shape = self.constant(np.array([0, 1, -1]), f"{output}/shape")
            scale = self.node("Reshape", [scale, shape], f"{output}/scale")
            zero = self.node("Reshape", [zero, shape], f"{output}/zero_point") if zero else ""
        return self.node("Mul", [self.real(values, zero, f"{output}/whole"), scale], output)


def _input(node: NodeProto, number: int) -> str:
    return node.input[number] if number < len(node.input) else ""


def _rewriting(node: NodeProto, pairs: set[str]) -> Rewriting | None:
    if node.op_type == "QuantizeLinear" and node.output and node.output[0] in pairs:
        return _identity
    if node.op_type == "DequantizeLinear" and node.input and node.input[0] in pairs:
        return _identity
    return _REWRITINGS.get((node.domain, node.op_type)) if len(node.input) and len(node.output) else None


def _identity(writer: _Writer, node: NodeProto) -> None:
    writer.node("Identity", [node.input[0]], node.output[0])


def _dynamic_linear(writer: _Writer, node: NodeProto) -> None:
    """y, scale and zero point become x, 1 and 0."""
    _identity(writer, node)
    for number, value in ((1, np.float32(1)), (2, np.uint8(0))):
        if number < len(node.output) and node.output[number]:
            writer.constant(np.asarray(value), node.output[number])


def _product(writer: _Writer, node: NodeProto) -> None:
    """The same product, of float32."""
    output = node.output[0]
    a = writer.real(_input(node, 0), _input(node, 2), f"{output}/a")
    b = writer.real(_input(node, 1), _input(node, 3), f"{output}/b")
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.op_type = node.op_type.removesuffix("Integer")
    plain.input[:] = [a, b]
    writer.nodes.append(plain)


def _dynamic_product(writer: _Writer, node: NodeProto) -> None:
    """x W + bias, of W as whole numbers with a scale."""
    output = node.output[0]
    weight = writer.weight(_input(node, 1), _input(node, 2), _input(node, 3), f"{output}/weight")
    if bias := _input(node, 4):
        writer.node("MatMul", [node.input[0], weight], f"{output}/product")
        writer.node("Add", [f"{output}/product", bias], output)
    else:
        writer.node("MatMul", [node.input[0], weight], output)


def _dynamic_lstm(writer: _Writer, node: NodeProto) -> None:
    """An LSTM whose W and R are whole numbers, input first, with scales."""
    base, inputs = node.name or next(o for o in node.output if o), [_input(node, number) for number in range(12)]
    matrices = []
    for number, scale in ((1, 8), (2, 10)):
        name = f"{base}/{'W' if number == 1 else 'R'}"
        weight = writer.weight(inputs[number], inputs[scale], inputs[scale + 1], f"{name}/turned", directions=True)
        matrices.append(writer.node("Transpose", [weight], name, perm=[0, 2, 1]))
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.op_type, plain.domain = "LSTM", ""
    plain.input[:] = [inputs[0], *matrices, *inputs[3:8]]
    writer.nodes.append(plain)


_REWRITINGS: dict[tuple[str, str], Rewriting] = {
    ("", "ConvInteger"): _product,
    ("", "DynamicQuantizeLinear"): _dynamic_linear,
    ("", "MatMulInteger"): _product,
    (_MICROSOFT, "DynamicQuantizeLSTM"): _dynamic_lstm,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_product,
}
