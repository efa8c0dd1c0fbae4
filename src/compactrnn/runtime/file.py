"""Model files: `write(program)` to bytes, `read(bytes)` back; the format is specified in `native/cr_format.h`."""

from __future__ import annotations

import json
import os
import zlib

import numpy as np

from .._errors import ModelFileError, invalid
from .._files import check_json_size, write_atomically
from . import _native  # pyright: ignore[reportAttributeAccessIssue]
from . import layout as lay
from .dead_code import writes
from .entries import SingleEntries, pack_entries
from .layout import Type
from .operations import GATES, OPERATIONS, Code
from .program import Op, Program, Ref, Tensor, Unary
from .records import Records
from .runs import index_form
from .shared import Shared
from .sparse import SparseLines, pack
from .toeplitz import ToeplitzBlocks

_ABSENT = Ref(lay.NONE, 0)


def write(program: Program) -> bytes:
    """The bytes of a model file; verified by the native core, so that what is written can be read."""
    blob = encode(program)
    try:
        _native.Model(blob)
    except ValueError as error:
        raise ValueError(f"program: cannot be written: {error}") from None
    return blob


def encode(program: Program) -> bytes:
    """As `write`, but not verified: for an `Engine` that is opened at once, which verifies all that it opens."""
    types, number = _stored_tensors(program)
    kinds = [b.kind for b in program.buffers]
    document = {
        "inputs": [i.name for i in program.inputs],
        "outputs": [o.name for o in program.outputs],
        "metadata": program.metadata,
    }
    names = {str(number): op.name for number, op in enumerate(program.ops) if op.name}
    if names:
        document["operations"] = names
    if once := [number for number, port in enumerate(program.inputs) if port.once]:
        document["once"] = once
    if program.states:
        read = {op.tensor for op in program.ops if op.code in GATES and op.p0}
        fixed = any(kind in lay.QUANTIZED_INPUTS for tensor, kind in types if tensor in read)
        document["states"] = {s.name: [s.buffer, s.bounded and fixed, *s.shape] for s in program.states}
    metadata = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    try:
        check_json_size(metadata)
    except ValueError as error:
        raise invalid("metadata", got=str(error), expected="less: every engine parses it") from None
    buffers = np.zeros(len(kinds), lay.BUFFER)
    tensors = np.zeros(len(types), lay.TENSOR)
    ops = np.array([_op_record(op, number, types) for op in program.ops] or np.zeros(0, lay.OP), lay.OP)
    segments = _segment_records(program)
    outputs = _output_records(program)
    head = [buffers, tensors, ops, segments, _input_records(program), outputs]
    start = lay.LINE + sum(lay.round_line(part.nbytes) for part in head) + lay.round_line(len(metadata))
    data = _Data(start)
    buffers["segment"] = _buffer_segments(program, kinds, outputs)
    expanded = 0
    _place_buffers(program, kinds, buffers, data)
    for record, (index, kind) in zip(tensors, types, strict=True):
        if kind == Type.TOEPLITZ_F32:
            expanded = _place_vectors(record, program.tensors[index], data, expanded)
        else:
            _place_tensor(record, program.tensors[index], kind, data)
    body = b"".join([*(_padded(part.tobytes()) for part in head), _padded(metadata), *data.parts])
    return _header(body, head, len(metadata), program.most_steps) + body


def read(data: bytes) -> Program:
    """The program in a model file, for `info` and the ways out; raises `ModelFileError`."""
    try:
        _native.Model(data)
        return Records(data).program()
    except ValueError as error:
        raise ModelFileError(f"model file: {error}") from None


def save(data: bytes, path: str | os.PathLike) -> None:
    """Write a file so that at any moment the old or the whole new one is there; see `write_atomically`."""
    write_atomically(path, data, "model file")


class _Data:
    """The last section: arrays one after the other, at multiples of 64."""

    def __init__(self, at: int):
        self.at = at
        self.parts: list[bytes] = []

    def add(self, array: bytes) -> int:
        place = self.at
        self.parts.append(_padded(array))
        self.at += len(self.parts[-1])
        return place


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % lay.LINE)


def _header(body: bytes, head: list[np.ndarray], metadata_bytes: int, most_steps: int) -> bytes:
    header = np.zeros(1, lay.HEADER)
    header["magic"] = np.void(lay.MAGIC)
    header["version"] = lay.VERSION
    header["file_bytes"] = lay.LINE + len(body)
    header["body_crc"] = zlib.crc32(body)
    header["metadata_bytes"] = metadata_bytes
    header["most_steps"] = most_steps
    if most_steps or head[-1]["least"].any() or head[-1]["fewer"].any():
        header["features"] = lay.FEATURE_STEPS
    for name, part in zip(("buffers", "tensors", "ops", "segments", "inputs", "outputs"), head, strict=True):
        header[name] = len(part)
    header["header_crc"] = zlib.crc32(header.tobytes())
    return header.tobytes()


_TYPES = {
    "matrix": {"f": Type.MATRIX_F32, "b": Type.MATRIX_I8},
    "columns": {"f": Type.MATRIX_F32, "b": Type.COLUMNS_I8},
    "table": {"f": Type.TABLE_F32, "e": Type.TABLE_F16, "b": Type.TABLE_I8},
    "index": {"i": Type.INDEX},
    "taps": {"f": Type.TABLE_F32},
}
_INDICES = {"single": Type.INDEX, "runs": Type.RUNS, "repeats": Type.REPEATS}


def _stored_tensors(program: Program) -> tuple[list[tuple[int, Type]], dict[tuple[int, str], int]]:
    """What to store, and its number by (tensor, use).

    A table that is a matrix, too, is stored as the matrix alone, of which rows are looked up.
    """
    stored: list[tuple[int, Type]] = []
    number: dict[tuple[int, str], int] = {}
    in_panels = program.in_panels
    for op in program.ops:
        use = OPERATIONS[op.code].tensor
        if not use or op.tensor is None or (op.tensor, use) in number:
            continue
        if use == "table" and op.tensor in in_panels:
            if (op.tensor, "matrix") in number:
                number[op.tensor, use] = number[op.tensor, "matrix"]
                continue
            number[op.tensor, use] = len(stored)
            use = "matrix"
        types = _TYPES[use]
        tensor = program.tensors[op.tensor]
        dtype = tensor.values.dtype
        if dtype.char not in types or (tensor.group_scale is not None and use != "matrix"):
            wanted = " or ".join(np.dtype(c).name for c in types)
            got = dtype if tensor.group_scale is None else "int4"
            raise invalid(f"tensor of {op.code.name}", got=got, expected=wanted)
        if tensor.form is not None and use != "matrix":
            raise invalid(f"tensor of {op.code.name}", got=tensor.form.name, expected="a table or an index")
        number[op.tensor, use] = len(stored)
        stored.append((op.tensor, _stored_type(tensor, types[dtype.char])))
    return stored, number


def _stored_type(tensor: Tensor, plain: Type) -> Type:
    if plain == Type.INDEX:
        return _INDICES[index_form(tensor.values)[0]]
    if isinstance(tensor.form, ToeplitzBlocks | Shared):
        return Type.TOEPLITZ_F32
    if tensor.form is not None:
        if tensor.group_scale is not None:
            raise invalid(f"{tensor.form.name} matrix", got="int4", expected="float32 or int8")
        lines = isinstance(tensor.form, SparseLines)
        of_type = (Type.SPARSE_F32, Type.SPARSE_I8) if lines else (Type.ENTRIES_F32, Type.ENTRIES_I8)
        return of_type[plain == Type.MATRIX_I8]
    return plain if tensor.group_scale is None else Type.MATRIX_I4


def _op_record(op: Op, number: dict[tuple[int, str], int], types: list[tuple[int, Type]]) -> tuple:
    operation = OPERATIONS[op.code]
    _check_fields(op)
    tensor = number[op.tensor, operation.tensor] if op.tensor is not None else lay.NONE
    parameters = Unary(op.fn).parameters if op.code == Code.UNARY else operation.parameters
    if operation.gates and tensor != lay.NONE and types[tensor][1] in lay.QUANTIZED_INPUTS:
        parameters = 1
    return (
        int(op.code),
        int(op.fn),
        op.n,
        (op.k or op.n) if op.code == Code.BINARY else op.k,
        tensor,
        *(tuple(ref or _ABSENT) for ref in (op.dst, op.a, op.b, op.c)),
        op.p0 if parameters > 0 else 0.0,
        op.p1 if parameters > 1 else 0.0,
        tuple(op.d or _ABSENT),
    )


def _check_fields(op: Op) -> None:
    """Raise `ValueError` for what an operation lacks, and for what would be left out of the file."""
    operation = OPERATIONS[op.code]
    for name in "abcd":
        operand, given = operation.operands.get(name), getattr(op, name) is not None
        if given and operand is None:
            raise invalid(f"{op.code.name}.{name}", got="an operand", expected="none")
        if operand is not None and not given and not operand.optional:
            raise invalid(f"{op.code.name}.{name}", got=None, expected=f"a place of {operand.width} numbers")
    for name, there in (("k", operation.k), ("tensor", operation.tensor), ("fn", operation.functions)):
        if getattr(op, name) and not there:
            raise invalid(f"{op.code.name}.{name}", got=getattr(op, name), expected="none")


def _segment_records(program: Program) -> np.ndarray:
    records = np.zeros(len(program.segments), lay.SEGMENT)
    first = 0
    for record, segment in zip(records, program.segments, strict=True):
        record["kind"] = lay.SEGMENT_KINDS.index(segment.kind)
        record["first_op"], record["op_count"] = first, len(segment.ops)
        first += len(segment.ops)
    return records


def _writers(program: Program) -> dict[int, int]:
    """The last segment that writes each buffer."""
    writers = {}
    for number, segment in enumerate(program.segments):
        for op in segment.ops:
            writers.update((ref.buffer, number) for ref, _ in writes(op))
    return writers


def _port_record(record: np.void, name: str, shape: tuple[int, ...]) -> None:
    if len(shape) > lay.MAX_RANK:
        raise invalid(f"shape of {name!r}", got=shape, expected=f"at most {lay.MAX_RANK} axes")
    record["rank"] = len(shape)
    record["shape"][: len(shape)] = shape


def _input_records(program: Program) -> np.ndarray:
    records = np.zeros(len(program.inputs), lay.PORT)
    for record, port in zip(records, program.inputs, strict=True):
        record["buffer"], record["vocabulary"] = port.buffer, port.vocabulary
        _port_record(record, port.name, () if port.vocabulary else port.shape)
    return records


def _output_records(program: Program) -> np.ndarray:
    writers, users = _writers(program), program.users()
    forward = [i for i, s in enumerate(program.segments) if s.kind == "forward"]
    records = np.zeros(len(program.outputs), lay.PORT)
    for record, port in zip(records, program.outputs, strict=True):
        record["buffer"], record["offset"], record["final"] = port.ref.buffer, port.ref.offset, port.final
        record["least"], record["fewer"] = program.least_steps if program.least_steps > 1 else 0, port.fewer
        if port.final and program.offline:
            record["segment"] = len(program.segments) - 1
        else:
            readers = users.get(port.ref.buffer, set()).intersection(forward)
            record["segment"] = writers.get(port.ref.buffer, max(readers, default=forward[-1]))
        _port_record(record, port.name, port.shape)
    return records


def _buffer_segments(program: Program, kinds: list[str], outputs: np.ndarray) -> list[int]:
    """Of a sequence who writes it, of a scratch or state who uses it first, of an input the number of its port."""
    writers, users = _writers(program), program.users()
    for port in outputs:
        users.setdefault(int(port["buffer"]), {int(port["segment"])})
    ports = {port.buffer: number for number, port in enumerate(program.inputs)}
    of_kind = {
        "scratch": lambda i: min(users.get(i, {0})),
        "state": lambda i: min(users.get(i, {0})),
        "constant": lambda i: 0,
        "input": lambda i: ports.get(i, 0),
        "sequence": lambda i: writers.get(i, 0),
    }
    return [of_kind[kind](i) for i, kind in enumerate(kinds)]


def _place_buffers(program: Program, kinds: list[str], records: np.ndarray, data: _Data) -> None:
    row = block = 0
    for i, (record, buffer) in enumerate(zip(records, program.buffers, strict=True)):
        record["kind"], record["width"] = lay.KINDS.index(kinds[i]), buffer.width
        if kinds[i] in ("constant", "state") and buffer.init is not None:
            if np.size(buffer.init) != buffer.width:
                raise invalid(f"init of buffer {i}", got=np.shape(buffer.init), expected=f"{buffer.width} numbers")
            if kinds[i] == "constant" or np.any(buffer.init) or np.signbit(buffer.init).any():
                record["init"] = data.add(np.ascontiguousarray(buffer.init, np.float32).tobytes())
        if kinds[i] == "constant":
            if buffer.init is None:
                raise invalid(f"init of buffer {i}", got=None, expected="the numbers of a constant")
            record["place"] = record["init"]
        if kinds[i] == "sequence":
            record["place"] = row
            row += lay.round_line(4 * buffer.width)
    for kind in ("state", "input", "scratch"):
        for i, record in enumerate(records):
            if kinds[i] == kind:
                record["place"] = block
                block += lay.round_line(4 * int(record["width"]))


def _place_tensor(record: np.void, tensor: Tensor, kind: Type, data: _Data) -> None:
    values = tensor.values
    if kind in _INDICES.values():
        values = index_form(values)[1].reshape(-1, 1)
    if values.ndim != 2:
        raise invalid("tensor", got=f"shape {values.shape}", expected="a matrix")
    rows, columns = values.shape
    record["type"], record["rows"], record["columns"] = kind, rows, columns
    if kind in lay.MATRICES:
        if kind == Type.MATRIX_I4:
            _check_int4(tensor)
        record["block"] = tensor.block
        record["place"] = data.add(lay.pack_matrix(values, tensor.block, tensor.group_scale))
    elif kind == Type.COLUMNS_I8:
        record["block"] = 4
        record["place"] = data.add(lay.pack_columns(values))
    elif isinstance(tensor.form, SparseLines):
        record["block"] = tensor.block
        record["place"], *_ = [data.add(part.tobytes()) for part in pack(values)]
    elif isinstance(tensor.form, SingleEntries):
        tensor.form.check(values)
        record["place"], *_ = [data.add(part.tobytes()) for part in pack_entries(values)]
    else:
        record["place"] = data.add(values.tobytes())
    if kind in lay.SCALED:
        if tensor.scale is None or tensor.scale.shape != (rows,):
            raise invalid("scale of a quantized tensor", got=tensor.scale, expected=f"{rows} numbers, one per row")
        record["scale"] = data.add(np.ascontiguousarray(tensor.scale, np.float32).tobytes())
    if kind in lay.SUMMED:
        data.add(values.sum(axis=1, dtype=np.int32).tobytes())


def _place_vectors(record: np.void, tensor: Tensor, data: _Data, expanded: int) -> int:
    """What it is multiplied as comes to `expanded` in memory; where that of the next one does."""
    form = tensor.form
    assert isinstance(form, ToeplitzBlocks | Shared)
    form.check(tensor.values)
    head = np.zeros(1, lay.TOEPLITZ)
    if isinstance(form, Shared):
        head["rule"], head["size"] = form.rule, tensor.values.shape[-1]
    else:
        head["rank"] = tensor.values.shape[2]
    head["gates"] = form.gates
    head["units"], head["interleaved"] = form.units, form.interleaved
    record["type"], record["block"], record["scale"] = Type.TOEPLITZ_F32, tensor.block, expanded
    record["rows"], record["columns"] = tensor.shape
    record["place"] = data.add(head.tobytes())
    data.add(tensor.values.tobytes())
    return expanded + form.expanded_bytes(tensor.values)


def _check_int4(tensor: Tensor) -> None:
    values, group_scale = tensor.values, tensor.group_scale
    wanted = (values.shape[0], -(-values.shape[1] // lay.GROUP))
    if group_scale is None or group_scale.dtype != np.uint8 or group_scale.shape != wanted:
        raise invalid("group_scale", got=getattr(group_scale, "shape", None), expected=f"uint8 of shape {wanted}")
    if values.min() < -8 or values.max() > 7:
        raise invalid("int4 weights", got=f"{values.min()} to {values.max()}", expected="numbers from -8 to 7")
