"""Operators on whole numbers with scales, as those on float numbers between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from .evaluate import MICROSOFT
from .model_file import ModelFile, subgraphs

# By operator: the operator on float numbers.
_OF_ONE = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearReduceMean": "ReduceMean",
    "QLinearSigmoid": "Sigmoid",
    "QLinearSoftmax": "Softmax",
}
_OWN = ("channels_last", "opset")  # attributes that the float operator does not have
_OF_TWO = {"QLinearAdd": "Add", "QLinearMul": "Mul"}


def between_scales(file: ModelFile) -> ModelFile:
    """The same model without such operators."""
    if not any(_writing(node) for node in file.graph.node):
        return file
    model = ModelProto()
    model.CopyFrom(file.proto)
    _rewrite(model.graph, file.opsets.get("", 13) < 13)
    return ModelFile(model, file.name, file.quantized or file)


def _rewrite(graph: GraphProto, old: bool) -> None:
    """`old`: an operator set whose DequantizeLinear has one scale for all."""
    nodes: list[NodeProto] = []
    ranks = {t.name: len(t.dims) for t in graph.initializer} if old else {}
    for node in graph.node:
        for inner in subgraphs(node):
            _rewrite(inner, old)
        write = _writing(node)
        if write is None:
            nodes.append(node)
        else:
            write(_Between(nodes, node, ranks))
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]


class _Between:
    """Writes what a node computes of float numbers.

    `ranks` are those of the matrices whose scales along an axis DequantizeLinear does not take.
    """

    def __init__(self, nodes: list[NodeProto], node: NodeProto, ranks: Mapping[str, int]):
        self.nodes, self.node, self.name, self.ranks = nodes, node, node.output[0], ranks
        self.given = [*node.input, *[""] * 12]

    def real(self, number: int, axis: int | None = None) -> str:
        """The float numbers of an input, which its scale and zero point follow, along an axis or for all."""
        x, scale, zero = self.given[number : number + 3]
        if axis is not None and x in self.ranks:
            shape = [-1 if d == axis else 1 for d in range(self.ranks[x])]
            whole = self.write("Cast", [x], f"whole_{number}", to=onnx.TensorProto.FLOAT)
            if zero:
                zero = self.write("Cast", [zero], f"zero_{number}", to=onnx.TensorProto.FLOAT)
                whole = self.write("Sub", [whole, self.shaped(zero, shape, f"zeros_{number}")], f"centered_{number}")
            return self.write("Mul", [whole, self.shaped(scale, shape, f"scales_{number}")], f"real_{number}")
        options = {} if axis is None else {"axis": axis}
        return self.write("DequantizeLinear", [x, scale, *([zero] if zero else [])], f"real_{number}", **options)

    def bias(self, number: int, scales: tuple[int, int], shape: list[int]) -> str:
        """A bias in whole numbers, of which one is the product of two scales, in this shape."""
        scale = self.write("Mul", [self.given[n] for n in scales], "bias_scale")
        whole = self.write("Cast", [self.given[number]], "bias_whole", to=onnx.TensorProto.FLOAT)
        return self.shaped(self.write("Mul", [whole, scale], "bias"), shape, "shaped_bias")

    def shaped(self, x: str, shape: list[int], called: str) -> str:
        tensor = onnx.numpy_helper.from_array(np.array(shape, np.int64))
        return self.write("Reshape", [x, self.write("Constant", [], f"{called}_shape", value=tensor)], called)

    def write(self, op: str, inputs: list[str], called: str, **attributes: Any) -> str:
        output = f"{self.name}/{called}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], f"{output}/{op}", **attributes))
        return output

    def result(self, op: str, inputs: list[str], scale: int) -> None:
        """A float operator with the attributes of the node, whose result gets the scale and zero point of these."""
        plain = NodeProto()
        plain.CopyFrom(self.node)
        plain.op_type, plain.domain = op, ""
        kept = [a for a in self.node.attribute if a.name not in _OWN]
        del plain.attribute[:]
        plain.attribute.extend(kept)
        plain.input[:] = inputs
        self.nodes.append(plain)
        if not self.given[scale]:  # the result of a QGemm may be float
            return
        plain.output[:] = [f"{self.name}/real"]
        scales = [n for n in self.given[scale : scale + 2] if n]
        self.nodes.append(onnx.helper.make_node("QuantizeLinear", [plain.output[0], *scales], [self.name]))


def _convolution(b: _Between) -> None:
    bias = [b.bias(8, (1, 4), [-1])] if b.given[8] else []
    b.result("Conv", [b.real(0), b.real(3, axis=0), *bias], 6)


def _product(b: _Between) -> None:
    b.result("MatMul", [b.real(0), b.real(3)], 6)


def _gemm(b: _Between) -> None:
    turned = any(a.name == "transB" and a.i for a in b.node.attribute)
    bias = [b.bias(6, (1, 4), [1, -1])] if b.given[6] else []
    b.result("Gemm", [b.real(0), b.real(3, axis=0 if turned else 1), *bias], 7)


def _where(b: _Between) -> None:
    b.result("Where", [b.given[0], b.real(1), b.real(4)], 7)


def _concat(b: _Between) -> None:
    b.result("Concat", [b.real(number) for number in range(2, len(b.node.input), 3)], 0)


def _of_some(b: _Between) -> None:
    op = b.node.op_type
    if op in _OF_TWO:
        b.result(_OF_TWO[op], [b.real(0), b.real(3)], 6)
    else:
        b.result(_OF_ONE[op], [b.real(0)], 3)


_WRITINGS: dict[tuple[str, str], Callable[[_Between], None]] = {
    ("", "QLinearConv"): _convolution,
    ("", "QLinearMatMul"): _product,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearWhere"): _where,
    **{(MICROSOFT, op): _of_some for op in (*_OF_ONE, *_OF_TWO)},
}


def _writing(node: NodeProto) -> Callable[[_Between], None] | None:
    last = any(a.name == "channels_last" and a.i for a in node.attribute)
    return _WRITINGS.get((node.domain, node.op_type)) if len(node.output) == 1 and not last else None
