"""Nodes that are one operation of a program: a product and the bias added to it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .folding import Folded, Node


def fused(folded: Folded) -> Folded:
    """The graph with each bias that is added to a product as the product's third input."""
    readers = Counter(name for node in folded.nodes for name in node.inputs)
    readers.update(folded.outputs)
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
    return Folded(nodes, folded.values, folded.outputs)


def _is_bias(folded: Folded, product: Node, name: str) -> bool:
    weight, bias = folded.values[product.inputs[1]], folded.values[name]
    if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray) or weight.ndim != 2:
        return False
    return bias.size == weight.shape[1] and bias.shape[-1:] == weight.shape[1:] and bias.ndim <= 2
