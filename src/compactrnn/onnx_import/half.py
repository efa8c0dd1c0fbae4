"""Files in half precision, float16 or bfloat16, in float32: they are stored as asked later."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from .model_file import ModelFile, subgraphs, to_array

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def widened(file: ModelFile) -> ModelFile:
    """The same model with float32 numbers in place of those in half precision, which round more."""
    if not any(_is_half(graph) for graph in _graphs(file.graph)):
        return file
    model = ModelProto()
    model.CopyFrom(file.proto)
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    _widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _HALF:
                    attribute.i = TensorProto.FLOAT
        for value in _ports(graph):
            if value.type.tensor_type.elem_type in _HALF:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        del graph.value_info[:]
    return ModelFile(model, file.name, file.quantized or file)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _ports(graph: GraphProto) -> list[ValueInfoProto]:
    return [*graph.input, *graph.output]


def _is_half(graph: GraphProto) -> bool:
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    ported = any(value.type.tensor_type.elem_type in _HALF for value in _ports(graph))
    return ported or any(tensor.data_type in _HALF for tensor in tensors)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _HALF:
        tensor.CopyFrom(onnx.numpy_helper.from_array(to_array(tensor).astype(np.float32), tensor.name))
