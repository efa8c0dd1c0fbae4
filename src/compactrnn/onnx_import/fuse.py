"""Nodes that are one operation of a program.

These are a product and the bias added to it, or the batch norm after it; and written out, a norm of groups of channels
and a softmax that is zero where it would be NaN.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx

from .folded import Folded, Node, Value


def fused(folded: Folded) -> Folded:
    """The graph with each bias that is added to a product, and each batch norm after a convolution, in its inputs."""
    return _with_norms(_with_biases(_with_groups(_with_safe_softmax(folded))))


def _with_safe_softmax(folded: Folded) -> Folded:
    """The graph with each Where(IsNaN(y), 0, y) of a Softmax in its attribute `safe`, as attention of torch has it."""
    readers, makers = _readers(folded), {name: node for node in folded.nodes for name in node.outputs}
    joined: dict[str, Node] = {}
    gone: set[str] = set()
    for node in folded.nodes:
        test, softmax = (makers.get(node.inputs[i]) if node.op == "Where" else None for i in (0, 2))
        if test is None or softmax is None or (test.op, softmax.op) != ("IsNaN", "Softmax"):
            continue
        y, zero = softmax.outputs[0], folded.values[node.inputs[1]]
        same_size = folded.type_of(node.outputs[0]).shape == folded.type_of(y).shape
        if test.inputs[0] == y and readers[y] == 2 and readers[test.outputs[0]] == 1 and same_size:
            if isinstance(zero, np.ndarray) and not zero.any():
                proto = onnx.NodeProto()
                proto.CopyFrom(softmax.proto)
                proto.attribute.append(onnx.helper.make_attribute("safe", 1))
                joined[node.outputs[0]] = Node(proto, softmax.inputs, node.outputs)
                gone.update((y, test.outputs[0]))
    nodes = [joined.get(n.outputs[0], n) for n in folded.nodes if n.outputs[0] not in gone]
    return replace(folded, nodes=nodes)


def _with_groups(folded: Folded) -> Folded:
    """The graph with each norm of groups of channels as one node.

    Exporters write it as the norm of each channel of a Reshape that makes a channel of each group, and a Reshape back.
    """
    readers, makers = _readers(folded), {name: node for node in folded.nodes for name in node.outputs}
    joined: dict[str, Node] = {}
    gone: set[str] = set()
    for node in folded.nodes:
        norm = makers.get(node.inputs[0]) if node.op == "Reshape" else None
        before = makers.get(norm.inputs[0]) if norm is not None and norm.op == "InstanceNormalization" else None
        if norm is None or before is None or before.op != "Reshape":
            continue
        inner = [norm.inputs[0], norm.outputs[0]]
        whole, grouped = (folded.type_of(name).shape for name in (before.inputs[0], norm.inputs[0]))
        if folded.type_of(node.outputs[0]).shape != whole or any(readers[name] != 1 for name in inner):
            continue
        if len(whole) > 2 and len(grouped) > 2 and whole[0] == grouped[0] == 1 and whole[1] % grouped[1] == 0:
            proto = onnx.NodeProto()
            proto.CopyFrom(norm.proto)
            proto.op_type = "GroupNormalization"
            proto.attribute.append(onnx.helper.make_attribute("num_groups", grouped[1]))
            joined[node.outputs[0]] = Node(proto, (before.inputs[0], *norm.inputs[1:]), node.outputs)
            gone.update(inner)
    nodes = [joined.get(n.outputs[0], n) for n in folded.nodes if n.outputs[0] not in gone]
    return replace(folded, nodes=nodes)


def _readers(folded: Folded) -> Counter[str]:
    return Counter([*(name for node in folded.nodes for name in node.inputs), *folded.outputs])


def _with_norms(folded: Folded) -> Folded:
    """The graph with the scale and shift of each batch norm in the weights of the convolution before it."""
    readers, values = _readers(folded), dict(folded.values)
    made: dict[str, int] = {}  # by what a node gives, its number
    nodes: list[Node] = []
    for node in folded.nodes:
        before = made.get(node.inputs[0])
        if node.op == "BatchNormalization" and before is not None and readers[node.inputs[0]] == 1:
            changed = _scaled(nodes[before], node, values, readers)
            if changed is not None:
                nodes[before] = changed
                made[node.outputs[0]] = before
                continue
        made.update((name, len(nodes)) for name in node.outputs)
        nodes.append(node)
    return replace(folded, nodes=nodes, values=values)


def _scaled(conv: Node, norm: Node, values: dict[str, Value], readers: Counter[str]) -> Node | None:
    """A convolution and the batch norm after it as one, its new weights in `values`; None if they cannot be."""
    given = [values[name] for name in (*conv.inputs[1:], *norm.inputs[1:]) if name]
    outputs = [name for name in norm.outputs if name]
    if conv.op not in ("Conv", "ConvTranspose") or len(outputs) > 1 or norm.get("training_mode", 0):
        return None
    if not all(isinstance(value, np.ndarray) and value.dtype.kind == "f" for value in given):
        return None
    weight, scale, shift, mean, variance = (np.asarray(v, np.float64) for v in (given[0], *given[-4:]))
    slope = scale / np.sqrt(variance + norm.get("epsilon", 1e-5))
    bias = np.asarray(given[1], np.float64) if len(given) == 6 else np.zeros(len(slope))
    if conv.op == "Conv":
        weight = weight * slope.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        grouped = weight.reshape(conv.get("group", 1), -1, *weight.shape[1:])
        weight = (grouped * slope.reshape(len(grouped), 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    names = [conv.inputs[1], conv.inputs[2] if len(given) == 6 else ""]
    new = [
        name if name and readers[name] == 1 else f"{name}*{norm.outputs[0]}" for name in names
    ]  # others may read the old ones
    values[new[0]], values[new[1]] = weight.astype(np.float32), ((bias - mean) * slope + shift).astype(np.float32)
    return Node(conv.proto, (conv.inputs[0], *new), norm.outputs)


def _with_biases(folded: Folded) -> Folded:
    readers = _readers(folded)
    products = {
        node.outputs[0]: node
        for node in folded.nodes
        if node.op == "MatMul" and readers[node.outputs[0]] == 1 and len(node.inputs) == 2
    }
    joined: dict[int, Node] = {}
    gone = set()
    for number, node in enumerate(folded.nodes):
        if node.op != "Add" or len(node.inputs) != 2:
            continue
        for product, bias in (node.inputs, node.inputs[::-1]):
            if product in products and _is_bias(folded, products[product], bias):
                before = products[product]
                joined[number] = Node(before.proto, (*before.inputs, bias), node.outputs)
                gone.add(product)
                break
    nodes = [joined.get(i, n) for i, n in enumerate(folded.nodes) if n.outputs[0] not in gone]
    return replace(folded, nodes=nodes)


def _is_bias(folded: Folded, product: Node, name: str) -> bool:
    weight, bias = folded.values[product.inputs[1]], folded.values[name]
    if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray) or weight.ndim != 2:
        return False
    return bias.size == weight.shape[1] and bias.shape[-1:] == weight.shape[1:] and bias.ndim <= 2
