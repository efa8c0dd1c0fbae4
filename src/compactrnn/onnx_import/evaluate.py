"""Evaluation of single nodes: the shape of their results by the standard's inference, constants by its reference."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import onnx
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator

from .model_file import ModelFile, _line, refuse

LARGEST = 1 << 24  # numbers of a value that is computed
_SHORT = 4096  # numbers of an input whose values the shape of a result may depend on

_SINCE = {"DequantizeLinear": 19, "QuantizeLinear": 19}  # what the reference has: a later version that means the same
WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
_LIKE_FIRST = ("GroupNormalization",)  # without inference in the standard; the result is as the first input

Type = tuple[np.dtype, tuple[int, ...]] | None

# Operators of onnxruntime in place of groups of those of the standard, whose results are like the first input.
FUSED = {
    *("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "SimplifiedLayerNormalization", "SkipLayerNormalization"),
    "SkipSimplifiedLayerNormalization",
}
MICROSOFT = "com.microsoft"


def is_known(proto: NodeProto) -> bool:
    """Whether an operator is one of the standard, or of those of onnxruntime that mean what their names say here."""
    return proto.domain in ("", "ai.onnx") or (proto.domain == MICROSOFT and proto.op_type in {*FUSED, "FusedMatMul"})


def infer(file: ModelFile, proto: NodeProto, types: list[Type], values: list) -> list[Type]:
    """Type and shape of each output; None for outputs that are not there.

    Raises:
        UnsupportedModelError: the operator is not known, the inputs do not fit it, or a shape depends on data.
    """
    if proto.domain == MICROSOFT and proto.op_type == "FusedMatMul" and all(types):
        return [_fused_product(proto, *types)]  # pyright: ignore[reportArgumentType]
    schema = _schema(proto, file.opsets)
    if schema is None and proto.op_type in FUSED and is_known(proto) and types and types[0]:
        return [types[0] if name else None for name in proto.output]
    if schema is None:
        domain = f" of {proto.domain}" if proto.domain else ""
        raise refuse(proto, f"is not taken: it is no operator{domain} that the onnx package knows in this version")
    if proto.op_type == "STFT" and not any(a.name == "onesided" for a in proto.attribute):
        proto = _with_default(proto, "onesided", 1)  # which inference takes for 0
    given = {n: t for n, t in zip(proto.input, types, strict=True) if n and t}
    known = {
        n: v
        for n, v in zip(proto.input, values, strict=True)
        if n and isinstance(v, np.ndarray) and v.size <= _SHORT and v.dtype.kind in "iufb"
    }
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema,
            proto,
            {n: _type_proto(t) for n, t in given.items()},
            {n: onnx.numpy_helper.from_array(np.array(v, order="C"), n) for n, v in known.items()},
            opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in file.opsets.items()],
        )
    except Exception as error:  # inference errors have no common class
        shapes = ", ".join(str(t[1]) for t in types if t)
        raise refuse(proto, f"does not take inputs of shape {shapes}: {_line(error)}", of_shape=True) from None
    if proto.op_type in _LIKE_FIRST and types and types[0]:
        return [types[0] for _ in proto.output]
    if proto.op_type in WINDOWS and types[0]:
        _check_windows(proto, types[0][1], types[1][1][2:] if len(types) > 1 and types[1] else None)
    if proto.op_type == "STFT" and types[0] and _frame_length(types, values) > types[0][1][1]:
        raise refuse(proto, f"does not take inputs of shape {types[0][1]}: shorter than its frames", of_shape=True)
    results = [_read_type(proto, inferred.get(name)) if name else None for name in proto.output]
    if proto.op_type == "Reshape" and types[0] and results[0] and math.prod(types[0][1]) != math.prod(results[0][1]):
        raise refuse(proto, f"makes shape {results[0][1]} of {types[0][1]}, another number of entries", of_shape=True)
    return results


def _frame_length(types: list[Type], values: list) -> int:
    """Of an STFT, as far as it is known."""
    window, length = ([*types, None, None][2], [*values, None, None][3])
    return int(length.ravel()[0]) if isinstance(length, np.ndarray) and length.size else window[1][0] if window else 0


def _with_default(proto: NodeProto, name: str, value: int) -> NodeProto:
    """A node with an attribute that it left out."""
    whole = NodeProto()
    whole.CopyFrom(proto)
    whole.attribute.append(onnx.helper.make_attribute(name, value))
    return whole


def _check_windows(proto: NodeProto, shape: tuple[int, ...], kernel: tuple[int, ...] | None) -> None:
    """Refuse an input shorter than one window: the standard's inference rounds its negative count up to one result."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    kernel = tuple(given.get("kernel_shape", kernel or ()))
    if given.get("ceil_mode") or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return
    pads, dilations = given.get("pads", [0] * 2 * len(kernel)), given.get("dilations", [1] * len(kernel))
    for axis, (n, k, d) in enumerate(zip(shape[2:], kernel, dilations, strict=False)):
        if n + pads[axis] + pads[axis + len(kernel)] < (k - 1) * d + 1:
            raise refuse(proto, f"does not take inputs of shape {shape}: shorter than its kernel", of_shape=True)


def _fused_product(proto: NodeProto, a: tuple, b: tuple) -> Type:
    turned = {x.name for x in proto.attribute if x.i}
    shapes = [
        (*s[1:-1], s[0], s[-1]) if f"transBatch{side}" in turned and len(s) > 1 else s
        for side, s in (("A", a[1]), ("B", b[1]))
    ]
    shapes = [
        (*s[:-2], s[-1], s[-2]) if f"trans{side}" in turned and len(s) > 1 else s
        for side, s in zip("AB", shapes, strict=True)
    ]
    try:
        return a[0], np.matmul(*(np.broadcast_to(np.float32(0), s) for s in shapes)).shape
    except ValueError:
        raise refuse(proto, f"does not take inputs of shape {a[1]}, {b[1]}", of_shape=True) from None


def _read_type(proto: NodeProto, found: onnx.TypeProto | None) -> tuple[np.dtype, tuple[int, ...]]:
    if found is None or not found.HasField("tensor_type"):
        raise refuse(proto, "gives something whose type and shape are not known; what can be taken are tensors")
    tensor, dims = found.tensor_type, found.tensor_type.shape.dim
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in dims):
        raise refuse(proto, "gives a result whose shape depends on the data; an engine has fixed shapes")
    shape = tuple(d.dim_value for d in dims)
    check_size(proto, shape)
    return onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape


def check_size(proto: NodeProto, shape: tuple[int, ...]) -> None:
    """Raise an error for a result of more numbers than an importer computes with."""
    if min(shape, default=0) < 0 or math.prod(shape) > LARGEST:
        if min(shape, default=0) < 0:
            raise refuse(proto, f"gives a result of shape {shape}: its input is too short", of_shape=True)
        raise refuse(proto, f"gives a result of shape {shape}; at most {LARGEST} numbers are taken")


def evaluate(file: ModelFile, proto: NodeProto, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    """The outputs of a node for constant inputs.

    Raises:
        UnsupportedModelError: the reference implementation cannot compute it.
    """
    bare = NodeProto()
    bare.CopyFrom(proto)
    bare.name = ""
    names = [f"i{n}" if x is not None else "" for n, x in enumerate(inputs)]
    bare.input[:] = names
    bare.output[:] = [f"o{n}" if name else "" for n, name in enumerate(proto.output)]
    try:
        opsets = {**file.opsets, "": max(file.opsets.get("", 1), _SINCE.get(proto.op_type, 1))}
        runner = _evaluator(bare.SerializeToString(), tuple(sorted(opsets.items())))
        with np.errstate(all="ignore"):
            found = iter(runner.run(None, {n: x for n, x in zip(names, inputs, strict=True) if n}))
        results = [np.asarray(next(found)) if name else np.zeros(0) for name in proto.output]
    except Exception as error:  # whatever the reference raises
        raise refuse(proto, f"cannot be computed: {_line(error)}", of_shape=True) from None
    for result in results:
        check_size(proto, result.shape)
    return results


@lru_cache(512)
def _evaluator(node: bytes, opsets: tuple[tuple[str, int], ...]) -> ReferenceEvaluator:
    proto = NodeProto.FromString(node)
    ports = [[onnx.ValueInfoProto(name=n) for n in names if n] for names in (proto.input, proto.output)]
    graph = onnx.helper.make_graph([proto], "node", ports[0], ports[1])
    return ReferenceEvaluator(graph, opsets=dict(opsets))


def _schema(proto: NodeProto, opsets: dict[str, int]) -> onnx.defs.OpSchema | None:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    try:
        return onnx.defs.get_schema(proto.op_type, opsets[domain], domain)
    except (onnx.defs.SchemaError, KeyError):
        return None


@lru_cache(4096)
def _type_proto(found: tuple[np.dtype, tuple[int, ...]]) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(found[0]), found[1])
