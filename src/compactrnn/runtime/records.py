"""Read the records of a model file that the native core has verified."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .._errors import ModelFileError
from .._files import parse_json
from . import layout as lay
from .entries import ENTRIES, stored_entries, unpack_entries
from .layout import Type
from .program import GATES, Binary, Buffer, Code, Input, Op, Output, Program, Ref, Segment, State, Tensor
from .runs import REPEAT, RUN, unpack_repeats, unpack_runs
from .shared import SHARED
from .sparse import DEPTH, SPARSE, stored_lines, unpack
from .toeplitz import ToeplitzBlocks


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
        self.most_steps = int(header["most_steps"])
        document = _document(take(np.dtype("u1"), int(header["metadata_bytes"])).tobytes())
        self.input_names = _names(document, "inputs", len(self.inputs))
        self.output_names = _names(document, "outputs", len(self.outputs))
        self.op_names = _op_names(document.get("operations", {}), len(self.ops))
        self.once = _once(document.get("once", []), len(self.inputs))
        self.states = _states(document.get("states", {}), self.buffers)
        metadata = document.get("metadata")
        if not isinstance(metadata, dict):
            raise ModelFileError("its JSON section has no metadata")
        self.metadata: dict = metadata

    def input_list(self) -> list[Input]:
        return [
            Input(name, int(port["buffer"]), _shape(port), int(port["vocabulary"]), number in self.once)
            for number, (name, port) in enumerate(zip(self.input_names, self.inputs, strict=True))
        ]

    def output_list(self) -> list[Output]:
        return [
            Output(name, _ref(port), _shape(port), bool(port["final"]), int(port["fewer"]))
            for name, port in zip(self.output_names, self.outputs, strict=True)
        ]

    def macs_per_step(self) -> int:
        """Multiply-accumulate operations of all matrix products of one time step."""
        gates = np.zeros(max(Code) + 1, np.int64)
        gates[list(GATES)] = list(GATES.values())
        columns = np.append(self.tensors["columns"], 0)[np.minimum(self.ops["tensor"], len(self.tensors))]
        macs = [int(count) for count in gates[self.ops["code"]] * self.ops["n"] * columns]
        for number, tensor in enumerate(self.ops["tensor"]):
            record = None if int(tensor) == lay.NONE else self.tensors[int(tensor)]
            if record is not None and int(record["type"]) in lay.FORMS:
                macs[number] = _structured_macs(record, self.data, macs[number])
            if record is not None and self.ops[number]["code"] == Code.DEPTHWISE:
                macs[number] = int(self.ops[number]["n"]) * int(record["rows"])
        for number in self.op_names:
            record = self.ops[number]
            if record["code"] == Code.BINARY and record["fn"] == Binary.MUL and record["b"]["buffer"] != lay.NONE:
                constant = lay.KINDS[self.buffers[record["b"]["buffer"]]["kind"]] == "constant"
                macs[number] = int(record["n"]) if constant else 0
        total = 0
        for segment in self.segments:
            first, count = int(segment["first_op"]), int(segment["op_count"])
            if lay.SEGMENT_KINDS[segment["kind"]] == "forward":
                total += sum(macs[first : first + count])
        return total

    def program(self) -> Program:
        ops = [replace(_op(record), name=self.op_names.get(i, "")) for i, record in enumerate(self.ops)]
        segments = []
        for record in self.segments:
            first, count = int(record["first_op"]), int(record["op_count"])
            segments.append(Segment(lay.SEGMENT_KINDS[record["kind"]], tuple(ops[first : first + count])))
        return Program(
            buffers=[_buffer(record, self.data) for record in self.buffers],
            tensors=[_tensor(record, self.data) for record in self.tensors],
            segments=segments,
            inputs=self.input_list(),
            outputs=self.output_list(),
            metadata=self.metadata,
            states=list(self.states),
            least_steps=max(1, int(self.outputs["least"].max())),
            most_steps=self.most_steps,
        )


def _document(data: bytes) -> dict:
    def once(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

    try:
        document = parse_json(data, once)
    except ValueError as error:
        raise ModelFileError(f"its JSON section cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise ModelFileError("its JSON section is not an object")
    return document


def _names(document: dict, key: str, count: int) -> list[str]:
    names = document.get(key)
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise ModelFileError(f"its JSON section does not name its {count} {key}")
    return names


def _once(numbers: object, count: int) -> frozenset[int]:
    """The numbers of the inputs that a sequence has once, of which there are others."""
    if isinstance(numbers, list) and all(type(n) is int and 0 <= n < count for n in numbers):
        if len(set(numbers)) == len(numbers) < count or not numbers:
            return frozenset(numbers)
    raise ModelFileError("its JSON section has inputs given once that there are not")


def _op_names(names: object, count: int) -> dict[int, str]:
    """The names of operations by their numbers."""
    numbers = {str(i): i for i in range(count)}
    if not isinstance(names, dict) or any(k not in numbers or not isinstance(v, str) for k, v in names.items()):
        raise ModelFileError("its JSON section names operations that there are not")
    return {numbers[k]: v for k, v in names.items()}


def _states(entries: object, buffers: np.ndarray) -> tuple[State, ...]:
    """The states that have names: each a state buffer, with a shape of its own."""
    if isinstance(entries, dict):
        states = tuple(state for item in entries.items() if (state := _state(*item, buffers)))
        if len(states) == len(entries) == len({s.buffer for s in states}):
            return states
    raise ModelFileError("its JSON section names states that there are not")


def _state(name: str, entry: object, buffers: np.ndarray) -> State | None:
    if not isinstance(entry, list) or not 2 <= len(entry) <= 2 + lay.MAX_RANK:
        return None
    buffer, bounded, *shape = entry
    if not isinstance(bounded, bool) or any(type(n) is not int or n < 0 for n in (buffer, *shape)):
        return None
    if buffer >= len(buffers) or lay.KINDS[buffers[buffer]["kind"]] != "state":
        return None
    return State(name, buffer, tuple(shape), bounded) if math.prod(shape) == buffers[buffer]["width"] else None


def _ref(port: np.void) -> Ref:
    return Ref(int(port["buffer"]), int(port["offset"]))


def _shape(port: np.void) -> tuple[int, ...]:
    return tuple(int(size) for size in port["shape"][: int(port["rank"])])


def _buffer(record: np.void, data: bytes) -> Buffer:
    width, place = int(record["width"]), int(record["init"])
    return Buffer(width, lay.KINDS[record["kind"]], np.frombuffer(data, np.float32, width, place) if place else None)


def _tensor(record: np.void, data: bytes) -> Tensor:
    kind, rows, columns = Type(int(record["type"])), int(record["rows"]), int(record["columns"])
    place, scale, block = int(record["place"]), int(record["scale"]), int(record["block"])
    if kind == Type.TOEPLITZ_F32:
        return _made_of_vectors(data, place, columns, block)
    row_scale = np.frombuffer(data, np.float32, rows, scale) if scale else None
    if kind in DEPTH:
        values = unpack(stored_lines(data, place, rows, kind), rows, columns)
        return Tensor(values, row_scale, block=block, form=SPARSE)
    if kind in (Type.ENTRIES_F32, Type.ENTRIES_I8):
        values = unpack_entries(stored_entries(data, place, columns, kind), rows)
        return Tensor(values, row_scale, form=ENTRIES)
    if kind == Type.COLUMNS_I8:
        return Tensor(lay.unpack_columns(data, place, rows, columns), row_scale)
    if kind in lay.MATRICES:
        entries = data[place : place + lay.matrix_bytes(kind, rows, columns, block)]
        values, group_scale = lay.unpack_matrix(entries, kind, rows, columns, block)
        return Tensor(values, row_scale, group_scale, block)
    if kind == Type.RUNS:
        return Tensor(unpack_runs(np.frombuffer(data, RUN, rows, place)))
    if kind == Type.REPEATS:
        return Tensor(unpack_repeats(np.frombuffer(data, REPEAT, rows, place)))
    dtype = {Type.TABLE_F32: "f4", Type.TABLE_F16: "f2", Type.INDEX: "i4"}.get(kind, "i1")
    values = np.frombuffer(data, dtype, rows * columns, place)
    return Tensor(values if kind == Type.INDEX else values.reshape(rows, columns), row_scale)


def _structured_macs(record: np.void, data: bytes, plain: int) -> int:
    kind, rows, columns = Type(int(record["type"])), int(record["rows"]), int(record["columns"])
    if kind in DEPTH:
        return stored_lines(data, int(record["place"]), rows, kind).entries(columns)
    if kind in (Type.ENTRIES_F32, Type.ENTRIES_I8):
        return len(stored_entries(data, int(record["place"]), columns, kind).rows)
    tensor = _tensor(record, data)
    assert tensor.form is not None
    return tensor.form.macs(tensor.values, plain)


def _made_of_vectors(data: bytes, place: int, columns: int, block: int) -> Tensor:
    head = np.frombuffer(data, lay.TOEPLITZ, 1, place)[0]
    gates, units, interleaved = int(head["gates"]), int(head["units"]), bool(head["interleaved"])
    if kind := SHARED.get(int(head["rule"])):
        form = kind(gates * units, columns, gates, interleaved)
        shape = form.stored_shape(int(head["size"]))
        assert shape is not None
    else:
        form = ToeplitzBlocks(gates * units, gates, interleaved)
        shape = (2, gates * -(-units // columns), int(head["rank"]), columns)
    values = np.frombuffer(data, np.float32, math.prod(shape), place + lay.TOEPLITZ.itemsize).reshape(shape)
    return Tensor(values, block=block, form=form)


def _op(record: np.void) -> Op:
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
        ref("d"),
    )
