"""The stored weights of a program, operation by operation."""

from __future__ import annotations

from math import prod
from typing import Any

from . import layout as lay
from .layout import Type
from .operations import OPERATIONS
from .program import GATES, Op, Program, Tensor
from .runs import index_bytes


def inventory(program: Program) -> list[dict[str, Any]]:
    """For each operation that has weights: what it does, the name of the weights, their shape and type, count and
    bytes, and the products of a step.

    Weights are tensors, and constants that an element-wise operation with a name multiplies with, as of a diagonal
    matrix. Indices are stored but not counted: nothing of them is learned. What several operations share is listed
    with each.
    """
    forward = {id(op) for s in program.segments if s.kind == "forward" for op in s.ops}
    in_panels = program.in_panels
    rows = []
    for number, op in enumerate(program.ops):
        if op.tensor is not None:
            row = _tensor_row(program.tensors[op.tensor], op, op.tensor in in_panels)
        elif program.has_constant(op):
            row = {"shape": str(op.k), "stored as": "float32", "parameters": op.k, "bytes": 4 * op.k}
        else:
            continue
        macs = program.macs(op) if id(op) in forward else 0
        rows.append({"operation": f"{number} {op.code.name.lower()}", "name": op.name, **row, "MACs": macs})
    return rows


def parameter_count(program: Program) -> int:
    """How many numbers are stored that `inventory` counts, each once where operations share them."""
    found = {}
    for op in program.ops:
        if op.tensor is not None:
            found["tensor", op.tensor] = _parameters(program.tensors[op.tensor], op)
        elif op.b is not None and program.has_constant(op):
            found["constant", *op.b] = op.k
    return sum(found.values())


def _tensor_row(tensor: Tensor, op: Op, in_panels: bool) -> dict[str, Any]:
    return {
        "shape": " x ".join(map(str, _shape(tensor, op))),
        "stored as": type_name(tensor),
        "parameters": _parameters(tensor, op),
        "bytes": stored_bytes(tensor, op, in_panels),
    }


def _shape(tensor: Tensor, op: Op) -> tuple[int, ...]:
    gates, rows = GATES.get(op.code, 0), OPERATIONS[op.code].rows
    if not gates or (rows and gates == 1):
        return tensor.shape
    return (gates * (op.k if rows else op.n), op.k)


def _parameters(tensor: Tensor, op: Op) -> int:
    if OPERATIONS[op.code].tensor == "index":
        return 0
    return prod(_shape(tensor, op)) if tensor.form is None else tensor.numbers


def stored_types(program: Program) -> dict[str, str]:
    """How weights are stored, by their names; by number and operation where they have no name.

    Where weights are stored twice in different types, as a matrix and as a table, the second name has a number.
    """
    types: dict[str, str] = {}
    for number, op in enumerate(program.ops):
        if op.tensor is None or OPERATIONS[op.code].tensor == "index":
            continue
        name, kind = op.name or f"{number} {op.code.name.lower()}", type_name(program.tensors[op.tensor])
        types[name if types.get(name, kind) == kind else f"{name} ({number})"] = kind
    return types


def type_name(tensor: Tensor) -> str:
    """float32, float16, int8, int4 or int32, after the name of a form: "toeplitz float32"."""
    if tensor.form is not None:
        return f"{tensor.form.name} {tensor.values.dtype.name}"
    return "int4" if tensor.group_scale is not None else tensor.values.dtype.name


def stored_bytes(tensor: Tensor, op: Op, in_panels: bool) -> int:
    """Bytes in the file, scales included, padding between arrays not; `in_panels` is that of the program."""
    scales = 0 if tensor.scale is None else 4 * len(tensor.scale)
    if tensor.form is not None:
        return tensor.form.stored_bytes(tensor.values)
    if OPERATIONS[op.code].tensor == "index":
        return index_bytes(tensor.values)
    if not OPERATIONS[op.code].gates and not in_panels:
        return tensor.values.nbytes + scales
    rows, columns = tensor.values.shape
    if OPERATIONS[op.code].tensor == "columns" and tensor.values.itemsize == 1:
        return len(lay.pack_columns(tensor.values)) + scales
    kind = {"int4": Type.MATRIX_I4, "int8": Type.MATRIX_I8}.get(type_name(tensor), Type.MATRIX_F32)
    sums = scales if kind == Type.MATRIX_I8 else 0
    return lay.matrix_bytes(kind, rows, columns, tensor.block) + scales + sums
