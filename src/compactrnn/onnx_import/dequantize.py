"""Quantized files back to float, as a rewriting of the graph: they are stored as asked later.

Inputs quantized at run time stay as they are; of a product of whole numbers the scale is applied afterwards, as in the
file. Rounding is not kept, neither of inputs nor of the biases that are added to such a product. Between QuantizeLinear
and DequantizeLinear the bounds of the whole numbers are: they may stand for a ReLU that a quantizer took away.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from .model_file import ModelFile, subgraphs, to_array
from .qlinear import between_scales

_FLOAT = onnx.TensorProto.FLOAT
_MICROSOFT = "com.microsoft"
_Bounds = tuple[float, float]
Rewriting = Callable[["_Writer", NodeProto], None]


def dequantized(file: ModelFile) -> ModelFile:
    """The same model with float operators in place of those on whole numbers."""
    file = between_scales(file)
    if not any(_rewriting(n, set()) or n.op_type in _LINEAR for n in _nodes(file.graph)):
        return file
    model = ModelProto()
    model.CopyFrom(file.proto)
    _rewrite(model.graph)
    return ModelFile(model, file.name, file.quantized or file)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _counts(graph: GraphProto) -> set[str]:
    """The values that follow from sizes, such as a number of steps."""
    constants = {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    found: set[str] = set()
    for node in graph.node:
        names = {name for name in node.input if name} - constants
        if node.op_type in ("Shape", "Size") or (names and names <= found):
            found.update(node.output)
    return found


def _rewrite(graph: GraphProto) -> None:
    pairs, (tables, moved), biases = _pairs(graph), _tables(graph), _biases(graph)
    counts = _counts(graph)  # which may be larger than on the data that bounds are made of
    within: dict[str, _Bounds] = {}  # what is known to be within bounds
    writer = _Writer(graph)
    for node in graph.node:
        for inner in subgraphs(node):
            _rewrite(inner)
        rewriting = _rewriting(node, {*pairs, *moved})
        if node.output and node.output[0] in tables:
            _gather(writer, node, tables[node.output[0]])
        elif node.output and node.output[0] in biases:
            _unrounded(writer, node)
        elif node.op_type == "QuantizeLinear" and node.output and node.output[0] in pairs:
            bounds = pairs[node.output[0]].bounds
            known = node.input[0] in counts or within.get(node.input[0]) == bounds
            writer.bounded(node, None if known else bounds)
            within[node.output[0]] = bounds
        elif node.op_type == "Pad" and _input(node, 0) in pairs:
            writer.padded(node, pairs[node.input[0]])
        elif rewriting is None:
            writer.nodes.append(node)
        else:
            rewriting(writer, node)
        if node.op_type in (*_MOVES, "DequantizeLinear", "Pad") and _input(node, 0) in within and node.output:
            within[node.output[0]] = within[node.input[0]]
    nodes = list(writer.nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]


@dataclass(frozen=True)
class _Whole:
    """What whole numbers stand for: their bounds, and the names of their scale and zero point."""

    bounds: _Bounds
    scale: str
    zero: str


def _pairs(graph: GraphProto) -> dict[str, _Whole]:
    """The outputs of QuantizeLinear that only DequantizeLinear reads, with one known scale for all.

    With the names of what is moved in between, whose entries have the same scale.
    """
    tensors = dict(_constants(graph))
    found: dict[str, _Whole] = {}
    before: dict[str, str] = {}  # of what is moved, by its new name
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output and all(a.name in _OF_AXES for a in node.attribute):
            bounds = _bounds(tensors.get(_input(node, 1)), tensors.get(_input(node, 2)))
            if bounds is not None and (_input(node, 2) in tensors or not _input(node, 2)):
                found[node.output[0]] = _Whole(bounds, _input(node, 1), _input(node, 2))
        elif node.op_type in _MOVED and _input(node, 0) in found:
            found.update(dict.fromkeys(node.output, found[node.input[0]]))
            before.update(dict.fromkeys(node.output, node.input[0]))
    read = [o.name for o in graph.output]
    for node in graph.node:
        given = found.get(_input(node, 0))
        bounds = _bounds(tensors.get(_input(node, 1)), tensors.get(_input(node, 2)))
        same = node.op_type == "DequantizeLinear" and given is not None and given.bounds == bounds
        same = same or node.op_type in _OF_ORDER or (node.op_type in _MOVED and _input(node, 0) in found)
        read += node.input[1:] if same else node.input
        read += [name for inner in subgraphs(node) for n in _nodes(inner) for name in n.input]
    for name in read:  # what is moved is one value with what it was
        while name in found:
            del found[name]
            name = before.get(name, "")
    missing = True
    while missing:
        missing = {name for name, source in before.items() if name in found and source not in found}
        found = {name: whole for name, whole in found.items() if name not in missing}
    return found


def _constants(graph: GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((t.name, t) for t in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            yield from ((node.output[0], a.t) for a in node.attribute if a.HasField("t"))


def _bounds(scale: onnx.TensorProto | None, zero: onnx.TensorProto | None) -> _Bounds | None:
    """The smallest and the largest number that whole numbers of a type stand for; uint8 without a zero point."""
    if scale is None or math.prod(scale.dims) != 1 or (zero is not None and math.prod(zero.dims) != 1):
        return None
    whole = np.zeros((), np.uint8) if zero is None else to_array(zero)
    if whole.dtype.kind not in "iu" or whole.dtype.itemsize > 2:
        return None
    kind, point, factor = np.iinfo(whole.dtype), float(whole.reshape(())), float(to_array(scale).reshape(()))
    return factor * (kind.min - point), factor * (kind.max - point)


def _tables(graph: GraphProto) -> tuple[dict[str, NodeProto], set[str]]:
    """Tables of whole numbers whose rows are only moved until DequantizeLinear reads them, with one scale for all.

    By output of the Gather that takes the rows: one of its DequantizeLinear; and the names of all that is moved.
    """
    sizes = {name: math.prod(tensor.dims) for name, tensor in _constants(graph)}
    readers: dict[str, list[NodeProto]] = {}
    for node in _nodes(graph):
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found, moved = {}, set()
    for gather in graph.node:
        if gather.op_type != "Gather" or _input(gather, 0) not in sizes or not gather.output:
            continue
        names, ends = [gather.output[0]], []
        for name in names:
            for node in readers.get(name, []):
                if node.op_type == "DequantizeLinear":
                    ends.append(node)
                elif node.op_type in _MOVES and node.input[0] == name and {*node.output} - {*names}:
                    names.append(node.output[0])
                else:
                    ends.append(None)
        scales = {tuple(end.input[1:]) if end else ("",) for end in ends}
        if len(scales) == 1 and sizes.get(*scales.pop()[:1]) == 1 and not {o.name for o in graph.output} & {*names}:
            found[gather.output[0]] = ends[0]
            moved |= {*names}
    return found, moved


def _biases(graph: GraphProto) -> set[str]:
    """What makes whole numbers of the biases that are added to products of such numbers."""
    made = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    for node in graph.node:
        if node.op_type != "Add" or len(node.input) != 2:
            continue
        for product, bias in (tuple(node.input), tuple(reversed(node.input))):
            if product in made and made[product].op_type in _PRODUCTS:
                for _ in range(len(made)):
                    if bias not in made or made[bias].op_type not in ("Cast", "Floor", "Reshape", "Unsqueeze"):
                        break
                    found |= {bias} if made[bias].op_type in ("Cast", "Floor") else set()
                    bias = _input(made[bias], 0)
    return found


class _Writer:
    """Appends nodes that compute something under new names, for those of a graph."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors = dict(_constants(graph))
        self.readers = Counter(
            [*(name for node in _nodes(graph) for name in node.input), *(o.name for o in graph.output)]
        )

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], f"{output}/{op}", **attributes))
        return output

    def constant(self, value: np.ndarray, output: str) -> str:
        self.tensors[output] = onnx.numpy_helper.from_array(value)
        return self.node("Constant", [], output, value=self.tensors[output])

    def bounded(self, node: NodeProto, bounds: _Bounds | None) -> None:
        """The first input of a node within bounds, as its output; of what is padded before the padding."""
        output = node.output[0]
        names = [self.constant(np.array(b, np.float32), f"{output}/bound_{n}") for n, b in enumerate(bounds or ())]
        pad = next((n for n in self.nodes if n.op_type == "Pad" and n.output[0] == node.input[0]), None)
        if names and pad is not None and self.readers[pad.output[0]] == 1 and self._pads_within(pad, bounds):
            self.nodes.remove(pad)
            pad.input[0] = self.node("Clip", [pad.input[0], *names], f"{output}/bounded")
            self.nodes.append(pad)
            names = []
        self.node("Clip" if names else "Identity", [node.input[0], *names], output)

    def _pads_within(self, pad: NodeProto, bounds: _Bounds | None) -> bool:
        value = self.tensors.get(_input(pad, 2))
        if bounds is None or (value is None and _input(pad, 2)) or any(a.name == "value" for a in pad.attribute):
            return False
        number = float(to_array(value).reshape(-1)[0]) if value is not None and math.prod(value.dims) == 1 else 0.0
        return bounds[0] <= number <= bounds[1]

    def padded(self, node: NodeProto, whole: _Whole) -> None:
        """A Pad of whole numbers, of the numbers that they stand for."""
        plain, output = NodeProto(), node.output[0]
        plain.CopyFrom(node)
        value = _input(node, 2)
        if not value:
            kind = to_array(self.tensors[whole.zero]).dtype if whole.zero else np.uint8
            value = self.constant(np.zeros((), kind), f"{output}/nothing")
        inputs = [value, whole.scale, *([whole.zero] if whole.zero else [])]
        plain.input[:] = [*node.input[:2], self.node("DequantizeLinear", inputs, f"{output}/value"), *node.input[3:]]
        self.nodes.append(plain)

    def real(self, values: str, zero: str, output: str) -> str:
        """`values` less their zero point, as float."""
        cast = self.node("Cast", [values], f"{output}/float", to=_FLOAT)
        if not zero or (zero in self.tensors and not to_array(self.tensors[zero]).any()):
            return cast  # which may be a value that is moved, such as by padding before the first step
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
    if node.op_type == "DequantizeLinear" and node.input and node.input[0] in pairs:
        return _identity
    return _REWRITINGS.get((node.domain, node.op_type)) if len(node.input) and len(node.output) else None


def _identity(writer: _Writer, node: NodeProto) -> None:
    writer.node("Identity", [node.input[0]], node.output[0])


def _gather(writer: _Writer, node: NodeProto, real: NodeProto) -> None:
    """The rows of what the DequantizeLinear `real` would make of the table."""
    table = writer.node("DequantizeLinear", [node.input[0], *real.input[1:]], f"{node.output[0]}/table")
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.input[0] = table
    writer.nodes.append(plain)


def _unrounded(writer: _Writer, node: NodeProto) -> None:
    """A step from a bias to whole numbers, without the rounding."""
    writer.node("Cast", [node.input[0]], node.output[0], to=_FLOAT)


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


def _whole_product(writer: _Writer, node: NodeProto) -> None:
    """x W + bias, of both as whole numbers with scales."""
    output, inputs = node.output[0], [_input(node, number) for number in range(7)]
    a = writer.weight(inputs[0], inputs[2], inputs[4], f"{output}/a")
    b = writer.weight(inputs[1], inputs[3], inputs[5], f"{output}/b")
    writer.node("MatMul", [a, b], f"{output}/product" if inputs[6] else output)
    if inputs[6]:
        writer.node("Add", [f"{output}/product", inputs[6]], output)


def _packed_product(writer: _Writer, node: NodeProto) -> None:
    """x W^T + bias, of W in blocks along its rows, of a few bits a number and with a scale for each block."""
    numbers = {a.name: a.i for a in node.attribute}
    columns, rows, bits, block = (numbers.get(name, 0) for name in ("K", "N", "bits", "block_size"))
    given = [writer.tensors.get(_input(node, number)) for number in (1, 2, 3)]
    values, scales, zeros = (None if t is None else to_array(t) for t in given)
    unknown = (zeros is None and _input(node, 3)) or _input(node, 4)
    blocks = -(-columns // block) if block > 0 else 0
    if (
        values is None
        or scales is None
        or unknown
        or bits not in (4, 8)
        or values.size * 8 != rows * blocks * block * bits
    ):
        writer.nodes.append(node)
        return
    whole = _unpacked(values.reshape(rows, blocks, -1), bits)
    if zeros is None:
        zeros = np.array(1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        zeros = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks, None]
    else:
        zeros = zeros.reshape(rows, blocks, 1)
    weight = (whole - np.asarray(zeros, np.float64)) * scales.reshape(rows, blocks, 1)
    turned = weight.reshape(rows, -1)[:, :columns].T.astype(np.float32)
    output, bias = node.output[0], _input(node, 5)
    product = [node.input[0], writer.constant(turned, f"{output}/weight")]
    writer.node("MatMul", product, f"{output}/product" if bias else output)
    if bias:
        writer.node("Add", [f"{output}/product", bias], output)


def _unpacked(values: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers of 4 bits, of which a byte has two, the lower first, or of 8."""
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], -1).reshape(*values.shape[:-1], -1)


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


_LINEAR = ("DequantizeLinear", "QuantizeLinear")
_MOVES = ("Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_MOVED = (*_MOVES, "Flatten", "Gather", "MaxPool", "Pad", "Split")
_OF_ORDER = ("ArgMax", "ArgMin", "Shape")  # which give the same of the numbers that whole numbers stand for
_OF_AXES = ("axis", "saturate")  # attributes that mean nothing where one scale is that of all
_PRODUCTS = ("ConvInteger", "MatMulInteger")
_REWRITINGS: dict[tuple[str, str], Rewriting] = {
    ("", "ConvInteger"): _product,
    ("", "DynamicQuantizeLinear"): _dynamic_linear,
    ("", "MatMulInteger"): _product,
    (_MICROSOFT, "DynamicQuantizeLSTM"): _dynamic_lstm,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_product,
    (_MICROSOFT, "MatMulIntegerToFloat"): _whole_product,
    (_MICROSOFT, "MatMulNBits"): _packed_product,
}
