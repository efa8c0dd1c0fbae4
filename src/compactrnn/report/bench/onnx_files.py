"""ONNX files of a plain model: with LSTM and GRU nodes, or with the cells written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .model import Layer, PlainModel

INPUT, OUTPUT = "x", "y"


class _Graph:
    """Collects nodes, constants, inputs and outputs, and names every value."""

    def __init__(self, model: PlainModel, steps: int, step_shape: Sequence[int]):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.names: dict[str, str] = {}  # what a value is called that is an output
        self.output_shape = (*step_shape, model.output_size)
        if model.embedding is None:
            self.start = self.given(INPUT, (*step_shape, model.input_size))
        else:
            tokens = self.given(INPUT, step_shape, TensorProto.INT64)
            self.start = self.node("Gather", self.constant(model.embedding), tokens)

    def given(self, name: str, shape: Sequence[int], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, array: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def several(self, count: int, kind: str, *given: str, domain: str = "", **attributes: Any) -> list[str]:
        made = [f"value{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, given, made, domain=domain, **attributes))
        return made

    def node(self, kind: str, *given: str, domain: str = "", **attributes: Any) -> str:
        return self.several(1, kind, *given, domain=domain, **attributes)[0]

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        if len(sizes) == 1:
            return [value]
        return self.several(len(sizes), "Split", value, self.constant(np.array(sizes)), axis=axis)

    def result(self, name: str, value: str, shape: Sequence[int]) -> None:
        if value in self.names:
            value = self.node("Identity", value)
        self.names[value] = name
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def save(self, path: Path) -> None:
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [self.names.get(name, name) for name in names]
        graph = helper.make_graph(self.nodes, "model", self.inputs, self.outputs, self.constants)
        versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=9), path)


def write_layers(model: PlainModel, steps: int, path: Path) -> None:
    """LSTM and GRU nodes; input (steps, 1[, size]), states `h0`, `c0`, ... in, `new_h0`, ... out."""
    graph = _Graph(model, steps, (steps, 1))
    x, axis = graph.start, graph.constant(np.array([1]))
    for number, layer in enumerate(model.layers):
        shape = (1, 1, layer.hidden_size)
        before = [graph.given(f"{state}{number}", shape) for state in layer.states]
        arrays = (layer.input_weight, layer.hidden_weight, layer.input_bias, layer.hidden_bias)
        w, r, *biases = (_onnx_order(layer, array)[None] for array in arrays)
        stored = [graph.constant(array) for array in (w, r, np.concatenate(biases, 1))]
        own: dict[str, Any] = {} if layer.cell == "lstm" else {"linear_before_reset": 1}
        own["hidden_size"] = layer.hidden_size
        y, *after = graph.several(1 + len(before), layer.cell.upper(), x, *stored, "", *before, **own)
        x = graph.node("Squeeze", y, axis)
        for state, value in zip(layer.states, after, strict=True):
            graph.result(f"new_{state}{number}", value, shape)
    if model.output is not None:
        weight, bias = model.output
        x = graph.node("Add", graph.node("MatMul", x, graph.constant(weight.T)), graph.constant(bias))
    graph.result(OUTPUT, x, graph.output_shape)
    graph.save(path)


def write_cells(model: PlainModel, steps: int, path: Path, product: str, block: int = 256) -> None:
    """Matrix products and element-wise nodes, unrolled over time; input (steps[, size]), states as in `write_layers`.

    `product` is "float32"; "int8", quantized dynamically a matrix, with a scale a row; or "blocks8" or "blocks4":
    weights of so many bits with a scale for each `block` inputs of a row, products in int8.
    """
    graph = _Graph(model, steps, (steps,))
    x = graph.start
    for number, layer in enumerate(model.layers):
        states = [graph.given(f"{state}{number}", (1, layer.hidden_size)) for state in layer.states]
        unroll = _lstm if layer.cell == "lstm" else _gru
        rows, states = unroll(graph, layer, x, states, steps, product, block)
        x = rows[0] if steps == 1 else graph.node("Concat", *rows, axis=0)
        for state, value in zip(layer.states, states, strict=True):
            graph.result(f"new_{state}{number}", value, (1, layer.hidden_size))
    if model.output is not None:
        x = _product(graph, *model.output, product, block)(x)
    graph.result(OUTPUT, x, graph.output_shape)
    graph.save(path)


def _lstm(
    graph: _Graph, layer: Layer, x: str, states: list[str], steps: int, product: str, block: int
) -> tuple[list[str], list[str]]:
    """h after each step, and the final states."""
    h, c = states
    bias, rows = layer.input_bias + layer.hidden_bias, []
    if steps == 1:  # one product with [x, h]
        both = _product(graph, np.concatenate([layer.input_weight, layer.hidden_weight], 1), bias, product, block)
        gates = [both(graph.node("Concat", x, h, axis=1))]
    else:
        hidden = _product(graph, layer.hidden_weight, None, product, block)
        gates = graph.split(_product(graph, layer.input_weight, bias, product, block)(x), [1] * steps, 0)
    for value in gates:
        if steps > 1:
            value = graph.node("Add", value, hidden(h))
        i, f, g, o = graph.split(value, [layer.hidden_size] * 4, 1)
        i, f, o = (graph.node("Sigmoid", gate) for gate in (i, f, o))
        c = graph.node("Add", graph.node("Mul", f, c), graph.node("Mul", i, graph.node("Tanh", g)))
        h = graph.node("Mul", o, graph.node("Tanh", c))
        rows.append(h)
    return rows, [h, c]


def _gru(
    graph: _Graph, layer: Layer, x: str, states: list[str], steps: int, product: str, block: int
) -> tuple[list[str], list[str]]:
    """h after each step, and the final states."""
    (h,), size, rows = states, layer.hidden_size, []
    hidden = _product(graph, layer.hidden_weight, layer.hidden_bias, product, block)
    for value in graph.split(_product(graph, layer.input_weight, layer.input_bias, product, block)(x), [1] * steps, 0):
        gates_x, new_x = graph.split(value, [2 * size, size], 1)
        gates_h, new_h = graph.split(hidden(h), [2 * size, size], 1)
        r, z = graph.split(graph.node("Sigmoid", graph.node("Add", gates_x, gates_h)), [size, size], 1)
        new = graph.node("Tanh", graph.node("Add", new_x, graph.node("Mul", r, new_h)))
        h = graph.node("Add", new, graph.node("Mul", z, graph.node("Sub", h, new)))
        rows.append(h)
    return rows, [h]


def _product(
    graph: _Graph, weight: np.ndarray, bias: np.ndarray | None, product: str, block: int
) -> Callable[[str], str]:
    """Adds `weight x + bias` to the graph; the weights are stored once."""
    added = "" if bias is None else graph.constant(bias)
    if product == "float32":
        stored = graph.constant(weight.T)
        return lambda x: graph.node("Gemm", x, stored, added) if added else graph.node("MatMul", x, stored)
    if product == "int8":
        # up to 64, as with onnxruntime's reduce_range: without VNNI its sums of two products have but 16 bits
        scale = _scale(np.abs(weight).max(1), 64)
        stored = graph.constant(np.rint(weight / scale[:, None]).astype(np.int8).T), graph.constant(scale)
        return lambda x: graph.node("DynamicQuantizeMatMul", x, *stored, "", added, domain="com.microsoft")
    bits = {"blocks8": 8, "blocks4": 4}[product]
    rows, columns = weight.shape
    groups = np.pad(weight, ((0, 0), (0, -columns % block))).reshape(rows, -1, block)
    half = 1 << (bits - 1)
    scale = _scale(np.abs(groups).max(2), half - 1)
    whole = (np.rint(groups / scale[:, :, None]) + half).astype(np.uint8)
    if bits == 4:
        whole = whole[:, :, 0::2] | (whole[:, :, 1::2] << 4)
    constants = graph.constant(whole), graph.constant(scale.ravel())
    options: dict[str, Any] = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": 4}
    return lambda x: graph.node("MatMulNBits", x, *constants, "", "", added, domain="com.microsoft", **options)


def _scale(largest: np.ndarray, top: int) -> np.ndarray:
    return np.where(largest > 0, largest / top, 1).astype(np.float32)


def _onnx_order(layer: Layer, array: np.ndarray) -> np.ndarray:
    """Reorders torch's gates (i, f, g, o or r, z, n) to ONNX's (i, o, f, g or z, r, n)."""
    if layer.cell == "lstm":
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, o, f, g])
    r, z, n = np.split(array, 3)
    return np.concatenate([z, r, n])
