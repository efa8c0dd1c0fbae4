"""Nodes that the optimizer of onnxruntime has joined, as the nodes of the standard that they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from .evaluate import MICROSOFT

_JOINED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_PARAMETERS = {"Clip": (), "HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",)}  # of activations


def apart(node: NodeProto) -> list[NodeProto]:
    """A product or convolution, what is added to it, and its activation; or the node itself.

    >>> node = onnx.helper.make_node("FusedGemm", ["a", "b"], ["y"], domain=MICROSOFT, activation="Relu", transB=1)
    >>> [(n.op_type, list(n.input), list(n.output)) for n in apart(node)]
    [('Gemm', ['a', 'b'], ['y/Gemm']), ('Relu', ['y/Gemm'], ['y'])]
    """
    if node.domain != MICROSOFT or node.op_type not in _JOINED or len(node.output) != 1:
        return [node]
    op, y = _JOINED[node.op_type], node.output[0]
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.op_type, plain.domain = op, ""
    del plain.attribute[:]
    plain.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
    plain.output[:] = [f"{y}/{op}"]
    found = [plain]
    if op == "Conv" and len(node.input) > 3 and node.input[3]:
        plain.input[:] = node.input[:3]
        found.append(onnx.helper.make_node("Add", [f"{y}/{op}", node.input[3]], [f"{y}/Add"], node.name))
    name, numbers = _activation(node)
    before = found[-1].output[0]
    if not name:
        found[-1].output[:] = [y]
        return found
    bounds = [f"{y}/bound_{i}" for i in range(2)] if name == "Clip" else []
    for bound, value in zip(bounds, numbers, strict=False):
        tensor = onnx.numpy_helper.from_array(np.array(value, np.float32))
        found.append(onnx.helper.make_node("Constant", [], [bound], value=tensor))
    attributes: dict[str, Any] = dict(zip(_PARAMETERS.get(name, ()), numbers, strict=False))
    return [*found, onnx.helper.make_node(name, [before, *bounds], [y], node.name, **attributes)]


def _activation(node: NodeProto) -> tuple[str, list[float]]:
    """Its name, "" for none, and its parameters."""
    given = {a.name: a for a in node.attribute if a.name.startswith("activation")}
    name = given["activation"].s.decode(errors="replace") if "activation" in given else ""
    if "activation_params" in given:
        return name, list(given["activation_params"].floats)
    return name, [given[n].f for n in ("activation_alpha", "activation_beta", "activation_gamma") if n in given]
