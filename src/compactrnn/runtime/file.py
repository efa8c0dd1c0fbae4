"""Model files: `write(program)` to bytes, `read(bytes)` back; the format is specified in `native/cr_format.h`."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np

from .._errors import ModelFileError, invalid
from . import _native  # pyright: ignore[reportAttributeAccessIssue]
from . import layout as lay
from .layout import Type
from .program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary

_ABSENT = Ref(lay.NONE, 0)


def write(program: Program) -> bytes:
    """The bytes of a model file; verified by the native core, so that what is written can be read."""
    types, number = _stored_tensors(program)
    kinds = [b.kind for b in program.buffers]
    if not program.offline:  # a sequence is kept for later segments: here there are none
        kinds = ["scratch" if kind == "sequence" else kind for kind in kinds]
    document = {
        "inputs": [i.name for i in program.inputs],
        "outputs": [o.name for o in program.outputs],
        "metadata": program.metadata,
    }
    metadata = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(metadata) > lay.MAX_METADATA:
        raise invalid("metadata", got=f"{len(metadata)} bytes of JSON", wanted=f"at most {lay.MAX_METADATA}")
    buffers = np.zeros(len(kinds), lay.BUFFER)
    tensors = np.zeros(len(types), lay.TENSOR)
    ops = np.array([_op_record(op, number, types) for op in program.ops] or np.zeros(0, lay.OP), lay.OP)
    segments = _segment_records(program)
    head = [buffers, tensors, ops, segments, _input_records(program), _output_records(program)]
    start = lay.LINE + sum(lay.round_line(part.nbytes) for part in head) + lay.round_line(len(metadata))
    data = _Data(start)
    _place_buffers(program, kinds, buffers, data)
    for record, (index, kind) in zip(tensors, types, strict=True):
        _place_tensor(record, program.tensors[index], kind, data)
    body = b"".join([*(_padded(part.tobytes()) for part in head), _padded(metadata), *data.parts])
    blob = _header(body, head, len(metadata)) + body
    try:
        _native.Model(blob)
    except ValueError as error:
        raise ValueError(f"program: cannot be written: {error}") from None
    return blob


def read(data: bytes) -> Program:
    """The program in a model file, for `info` and the ways out; raises `ModelFileError`."""
    try:
        _native.Model(data)
    except ValueError as error:
        raise ModelFileError(f"model file: {error}") from None
    return _program(Records(data))


def save(data: bytes, path: str | os.PathLike) -> None:
    """Write a file so that at any moment the old or the whole new one is there: temporary name, fsync, rename."""
    path = Path(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Records:
    """The records of a verified file, as numpy views of its bytes, and its JSON."""

    def __init__(self, data: bytes):
        header = np.frombuffer(data, lay.HEADER, 1)[0]
        at = lay.LINE

        def take(dtype: np.dtype, count: int) -> np.ndarray:
            nonlocal at
            part = np.frombuffer(data, dtype, count, at)
            at += lay.round_line(part.nbytes)
            return part

        self.data = data
        self.buffers = take(lay.BUFFER, int(header["buffers"]))
        self.tensors = take(lay.TENSOR, int(header["tensors"]))
        self.ops = take(lay.OP, int(header["ops"]))
        self.segments = take(lay.SEGMENT, int(header["segments"]))
        self.inputs = take(lay.PORT, int(header["inputs"]))
        self.outputs = take(lay.PORT, int(header["outputs"]))
        self.checksum = int(header["body_crc"])
        document = _document(take(np.dtype("u1"), int(header["metadata_bytes"])).tobytes())
        self.input_names = _names(document, "inputs", len(self.inputs))
        self.output_names = _names(document, "outputs", len(self.outputs))
        self.metadata = document.get("metadata")
        if not isinstance(self.metadata, dict):
            raise ModelFileError("model file: metadata is not a JSON object")

    def input_list(self) -> list[Input]:
        """The inputs."""
        return [
            Input(name, int(port["buffer"]), _shape(port), int(port["vocabulary"]))
            for name, port in zip(self.input_names, self.inputs, strict=True)
        ]

    def output_list(self) -> list[Output]:
        """The outputs."""
        return [
            Output(name, Ref(int(port["buffer"]), int(port["offset"])), _shape(port), bool(port["final"]))
            for name, port in zip(self.output_names, self.outputs, strict=True)
        ]

    def macs_per_step(self) -> int:
        """Multiply-accumulate operations of all `AFFINE`s of one time step."""
        total = 0
        for segment in self.segments:
            first, count = int(segment["first_op"]), int(segment["op_count"])
            ops = self.ops[first : first + count]
            ops = ops[ops["code"] == Code.AFFINE]
            if lay.SEGMENT_KINDS[segment["kind"]] == "forward":
                total += int((ops["n"].astype(np.int64) * ops["k"]).sum())
        return total


class _Data:
    """The last section: arrays one after the other, at multiples of 64."""

    def __init__(self, at: int):
        self.at = at
        self.parts: list[bytes] = []

    def add(self, array: np.ndarray) -> int:
        place = self.at
        self.parts.append(_padded(array.tobytes()))
        self.at += len(self.parts[-1])
        return place


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % lay.LINE)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _header(body: bytes, head: list[np.ndarray], metadata_bytes: int) -> bytes:
    header = np.zeros(1, lay.HEADER)
    header["magic"] = np.void(lay.MAGIC)
    header["version"] = lay.VERSION
    header["file_bytes"] = lay.LINE + len(body)
    header["body_crc"] = zlib.crc32(body)
    header["metadata_bytes"] = metadata_bytes
    for name, part in zip(("buffers", "tensors", "ops", "segments", "inputs", "outputs"), head, strict=True):
        header[name] = len(part)
    header["header_crc"] = zlib.crc32(header.tobytes())
    return header.tobytes()


def _stored_tensors(program: Program) -> tuple[list[tuple[int, Type]], dict[tuple[int, Code], int]]:
    """What to store, and its number by (tensor, op code): one tensor may serve as matrix and as table."""
    families = {
        Code.AFFINE: {"f": Type.MATRIX_F32, "b": Type.MATRIX_I8},
        Code.EMBED: {"f": Type.TABLE_F32, "e": Type.TABLE_F16, "b": Type.TABLE_I8},
        Code.GATHER: {"i": Type.INDEX},
    }
    stored: list[tuple[int, Type]] = []
    number: dict[tuple[int, Code], int] = {}
    for op in program.ops:
        if op.code not in families or op.tensor is None or (op.tensor, op.code) in number:
            continue
        dtype = program.tensors[op.tensor].values.dtype
        if dtype.char not in families[op.code]:
            wanted = " or ".join(np.dtype(c).name for c in families[op.code])
            raise invalid(f"tensor of {op.code.name}", got=dtype, wanted=wanted)
        number[op.tensor, op.code] = len(stored)
        stored.append((op.tensor, families[op.code][dtype.char]))
    return stored, number


def _op_record(op: Op, number: dict[tuple[int, Code], int], types: list[tuple[int, Type]]) -> tuple:
    uses_k = {Code.AFFINE, Code.GATHER, Code.BINARY, Code.REDUCE, Code.SOFTMAX, Code.LOG_SOFTMAX, Code.LAYER_NORM}
    tensor = lay.NONE if op.tensor is None else number[op.tensor, op.code]
    p0 = op.code == Code.LAYER_NORM or (op.code == Code.AFFINE and types[tensor][1] == Type.MATRIX_I8)
    both = op.code == Code.UNARY and op.fn in (Unary.AFFINE, Unary.CLAMP)
    has_b = op.code in (Code.AFFINE, Code.BINARY, Code.LSTM, Code.GRU)
    k = (op.k or op.n) if op.code == Code.BINARY else op.k
    return (
        int(op.code),
        int(op.fn) if op.code in (Code.UNARY, Code.BINARY, Code.REDUCE) else 0,
        op.n,
        k if op.code in uses_k else 0,
        tensor,
        tuple(op.dst),
        tuple(op.a or _ABSENT),
        tuple(op.b or _ABSENT) if has_b else tuple(_ABSENT),
        tuple(op.c or _ABSENT) if op.code == Code.GRU else tuple(_ABSENT),
        op.p0 if p0 or both else 0.0,
        op.p1 if both else 0.0,
        (0, 0),
    )


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
            writers[op.dst.buffer] = number
            if op.code == Code.LSTM and op.b is not None:
                writers[op.b.buffer] = number
    return writers


def _port_record(record: np.ndarray, name: str, shape: tuple[int, ...]) -> None:
    if len(shape) > lay.MAX_RANK:
        raise invalid(f"shape of {name!r}", got=shape, wanted=f"at most {lay.MAX_RANK} axes")
    record["rank"] = len(shape)
    record["shape"][: len(shape)] = shape


def _input_records(program: Program) -> np.ndarray:
    records = np.zeros(len(program.inputs), lay.PORT)
    for record, port in zip(records, program.inputs, strict=True):
        record["buffer"], record["vocabulary"] = port.buffer, port.vocabulary
        _port_record(record, port.name, () if port.vocabulary else port.shape)
    return records


def _output_records(program: Program) -> np.ndarray:
    writers = _writers(program)
    forward = [i for i, s in enumerate(program.segments) if s.kind == "forward"]
    records = np.zeros(len(program.outputs), lay.PORT)
    for record, port in zip(records, program.outputs, strict=True):
        record["buffer"], record["offset"], record["final"] = port.ref.buffer, port.ref.offset, port.final
        record["segment"] = len(program.segments) - 1 if port.final else writers.get(port.ref.buffer, forward[-1])
        _port_record(record, port.name, port.shape)
    return records


def _place_buffers(program: Program, kinds: list[str], records: np.ndarray, data: _Data) -> None:
    writers = _writers(program)
    row = block = 0
    for i, (record, buffer) in enumerate(zip(records, program.buffers, strict=True)):
        record["kind"], record["width"] = lay.KINDS.index(kinds[i]), buffer.width
        if kinds[i] in ("constant", "state") and buffer.init is not None:
            if np.size(buffer.init) != buffer.width:
                raise invalid(f"init of buffer {i}", got=np.shape(buffer.init), wanted=f"{buffer.width} numbers")
            if kinds[i] == "constant" or np.any(buffer.init) or np.signbit(buffer.init).any():
                record["init"] = data.add(np.ascontiguousarray(buffer.init, np.float32))
        if kinds[i] == "constant":
            if buffer.init is None:
                raise invalid(f"init of buffer {i}", got=None, wanted="the numbers of a constant")
            record["place"] = record["init"]
        if kinds[i] == "sequence":
            record["place"], record["segment"] = row, writers.get(i, 0)
            row += lay.round_line(4 * buffer.width)
    for kind in ("state", "input", "scratch"):
        for i, record in enumerate(records):
            if kinds[i] == kind:
                record["place"] = block
                block += lay.round_line(4 * int(record["width"]))


def _place_tensor(record: np.ndarray, tensor: Tensor, kind: Type, data: _Data) -> None:
    values = tensor.values if kind != Type.INDEX else tensor.values.reshape(-1, 1)
    if values.ndim != 2:
        raise invalid("tensor", got=f"shape {values.shape}", wanted="a matrix")
    record["type"], record["rows"], record["columns"] = kind, *values.shape
    record["place"] = data.add(lay.pack_matrix(values) if kind in (Type.MATRIX_F32, Type.MATRIX_I8) else values)
    if kind in (Type.MATRIX_I8, Type.TABLE_I8):
        if tensor.scale is None or tensor.scale.shape != values.shape[:1]:
            raise invalid("scale of an int8 tensor", got=tensor.scale, wanted=f"{len(values)} numbers, one per row")
        record["scale"] = data.add(np.ascontiguousarray(tensor.scale, np.float32))


def _document(data: bytes) -> dict:
    def no_constant(name: str):
        raise ValueError(f"{name} is not JSON")

    def once(pairs: list[tuple[str, object]]) -> dict:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        document = json.loads(data.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"model file: its JSON section cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise ModelFileError("model file: its JSON section is not an object")
    return document


def _names(document: dict, key: str, count: int) -> list[str]:
    names = document.get(key)
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise ModelFileError(f"model file: its JSON section does not name its {count} {key}")
    return names


def _shape(port: np.ndarray) -> tuple[int, ...]:
    return tuple(int(size) for size in port["shape"][: int(port["rank"])])


def _program(records: Records) -> Program:
    data = records.data
    ops = [_op(record) for record in records.ops]
    segments = [
        Segment(
            lay.SEGMENT_KINDS[record["kind"]],
            tuple(ops[int(record["first_op"]) : int(record["first_op"]) + int(record["op_count"])]),
        )
        for record in records.segments
    ]
    return Program(
        buffers=[_buffer(record, data) for record in records.buffers],
        tensors=[_tensor(record, data) for record in records.tensors],
        segments=segments,
        inputs=records.input_list(),
        outputs=records.output_list(),
        metadata=records.metadata,
    )


def _buffer(record: np.ndarray, data: bytes) -> Buffer:
    width, place = int(record["width"]), int(record["init"])
    return Buffer(width, lay.KINDS[record["kind"]], np.frombuffer(data, np.float32, width, place) if place else None)


def _tensor(record: np.ndarray, data: bytes) -> Tensor:
    kind, rows, columns = Type(int(record["type"])), int(record["rows"]), int(record["columns"])
    dtype = {Type.MATRIX_F32: "f4", Type.TABLE_F32: "f4", Type.TABLE_F16: "f2", Type.INDEX: "i4"}.get(kind, "i1")
    count = rows * columns
    if kind == Type.MATRIX_F32:
        count = -(-rows // 16) * 16 * columns
    elif kind == Type.MATRIX_I8:
        count = -(-rows // 16) * 64 * -(-columns // 4)
    values = np.frombuffer(data, dtype, count, int(record["place"]))
    if kind in (Type.MATRIX_F32, Type.MATRIX_I8):
        values = lay.unpack_matrix(values, rows, columns)
    elif kind != Type.INDEX:
        values = values.reshape(rows, columns)
    scale = int(record["scale"])
    return Tensor(values, np.frombuffer(data, np.float32, rows, scale) if scale else None)


def _op(record: np.ndarray) -> Op:
    def ref(name: str) -> Ref | None:
        buffer, offset = int(record[name]["buffer"]), int(record[name]["offset"])
        return None if buffer == lay.NONE else Ref(buffer, offset)

    code, tensor, dst = Code(int(record["code"])), int(record["tensor"]), record["dst"]
    return Op(
        code,
        Ref(int(dst["buffer"]), int(dst["offset"])),
        int(record["n"]),
        int(record["k"]),
        ref("a"),
        ref("b"),
        ref("c"),
        None if tensor == lay.NONE else tensor,
        int(record["fn"]),
        float(record["p0"]),
        float(record["p1"]),
    )
