"""Model files: what is written can be read, and nothing else."""

import os
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, ModelFileError
from compactrnn.runtime import layout as lay
from compactrnn.runtime.file import read, save, write
from compactrnn.runtime.gates import gate_rows
from compactrnn.runtime.program import GATES, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.quantize import quantize
from compactrnn.runtime.rounding import quantize_groups, quantize_rows
from compactrnn.testing.programs import random_input, random_program


def small_program():
    """x -> W x + b + U h -> tanh -> h, and a table, a gather and a group of its own."""
    buffers = [
        Buffer(1, "input"),
        Buffer(3),
        Buffer(2, "constant", np.array([0.5, -0.5], np.float32)),
        Buffer(2),
        Buffer(2, "state", np.array([0.1, 0.2], np.float32)),
        Buffer(4),
    ]
    scale = np.array([0.5, 0.25], np.float32)
    tensors = [
        Tensor(np.array([[1, 2, 3], [3, 2, 1]], np.int8), scale),
        Tensor(np.array([[1, -2, 3], [4, 5, -6]], np.int8), scale),
        Tensor(np.array([[0.5, 0.25], [0.125, 1.0]], np.float32)),
        Tensor(np.array([1, -1, 0, 1], np.int32)),
    ]
    ops = (
        Op(Code.EMBED, Ref(1), 3, a=Ref(0), tensor=0),
        Op(Code.AFFINE, Ref(3), 2, 3, a=Ref(1), b=Ref(2), tensor=1),
        Op(Code.AFFINE, Ref(3), 2, 2, a=Ref(4), b=Ref(3), tensor=2),
        Op(Code.UNARY, Ref(4), 2, a=Ref(3), fn=Unary.TANH),
        Op(Code.GATHER, Ref(5), 4, 2, a=Ref(4), tensor=3),
        Op(Code.SOFTMAX, Ref(5), 4, 2, a=Ref(5)),
    )
    segments = [Segment("forward", ops)]
    metadata = {"labels": ["a", "é", "文"]}
    return Program(buffers, tensors, segments, [Input("token", 0, (), 2)], [Output("y", Ref(5), (2, 2))], metadata)


def repair(data: bytearray) -> bytes:
    header = np.frombuffer(data[:64], lay.HEADER).copy()
    header["file_bytes"] = len(data)
    header["body_crc"] = zlib.crc32(bytes(data[64:]))
    header["header_crc"] = 0
    header["header_crc"] = zlib.crc32(header.tobytes())
    return header.tobytes() + bytes(data[64:])


def changed(data: bytes, section: str, index: int, field: str, value) -> bytes:
    """The file with one field of one record changed and valid checksums."""
    parts = {"buffers": lay.BUFFER, "tensors": lay.TENSOR, "ops": lay.OP, "segments": lay.SEGMENT}
    parts |= {"inputs": lay.PORT, "outputs": lay.PORT}
    header = np.frombuffer(data, lay.HEADER, 1).copy()[0]
    at = 64
    for name, dtype in parts.items():
        if name == section:
            break
        at += lay.round_line(dtype.itemsize * int(header[name]))
    out = bytearray(data)
    if section == "header":
        header[field] = value
        out[:64] = header.tobytes()
    else:
        at += index * parts[section].itemsize
        record = np.frombuffer(data, parts[section], 1, at).copy()
        name, *inner = field.split(".")
        target = record[0][name] if inner else record[0]
        target[inner[0] if inner and not inner[0].isdigit() else int(inner[0]) if inner else name] = value
        out[at : at + record.nbytes] = record.tobytes()
    return repair(out)


def test_round_trip_keeps_everything():
    program = small_program()
    data = write(program)
    back = read(data)
    assert write(back) == data
    assert back.metadata == program.metadata
    assert back.inputs == program.inputs and back.outputs == program.outputs
    assert [s.kind for s in back.segments] == ["forward"] and back.ops == program.ops
    for a, b in zip(program.tensors, back.tensors, strict=True):
        assert a.values.dtype == b.values.dtype and np.array_equal(a.values, b.values)
        assert (a.scale is None) == (b.scale is None) and (a.scale is None or np.array_equal(a.scale, b.scale))
    for a, b in zip(program.buffers, back.buffers, strict=True):
        assert (a.width, a.kind) == (b.width, b.kind) and (a.init is None or np.array_equal(a.init, b.init))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_read_programs_run_the_same(seed, weights):
    program = quantize(random_program(seed, 8, seed % 2 == 0), weights)
    data = write(program)
    xs = random_input(program, 3)
    engines = Engine(data), Engine(write(read(data)))
    first, second = (y if isinstance(y, tuple) else (y,) for y in (engine.run(xs) for engine in engines))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_tensor_may_be_table_and_matrix():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    ops = (
        Op(Code.EMBED, Ref(1), 3, a=Ref(0), tensor=0),
        Op(Code.AFFINE, Ref(2), 4, 3, a=Ref(1), tensor=0),
    )
    buffers = [Buffer(1, "input"), Buffer(3), Buffer(4)]
    segments = [Segment("forward", ops)]
    program = Program(buffers, [Tensor(values)], segments, [Input("x", 0, (), 4)], [Output("y", Ref(2), (4,))])
    assert np.array_equal(Engine(write(program)).run([2])[0], values @ values[2])


def test_every_damaged_byte_is_noticed():
    data = write(small_program())
    for at in range(len(data)):
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= change
            with pytest.raises(ModelFileError):
                Engine(bytes(damaged))
    for length in range(len(data)):
        with pytest.raises(ModelFileError):
            Engine(data[:length])


def test_every_damaged_byte_with_good_checksums_is_refused_or_runs():
    data = write(small_program())
    refused = 0
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        try:
            engine = Engine(repair(damaged))
            engine.run(np.zeros(2, np.int32))
        except ModelFileError:
            refused += 1
    assert len(data) > refused > len(data) // 2


def test_truncations_with_good_checksums_are_refused():
    data = write(small_program())
    for length in range(64, len(data)):
        with pytest.raises(ModelFileError):
            Engine(repair(bytearray(data[:length])))
    with pytest.raises(ModelFileError):
        Engine(repair(bytearray(data + bytes(64))))


NAN, INF = float("nan"), float("inf")
MALICIOUS = [
    ("header", 0, "version", 1, "another format version"),
    ("header", 0, "version", 2, "pack the model again"),
    ("header", 0, "version", lay.VERSION - 1, "another format version"),
    ("header", 0, "version", lay.VERSION + 1, "another format version"),
    ("header", 0, "features", 2, "feature"),
    ("header", 0, "buffers", 0xFFFFFFFF, "limits"),
    ("header", 0, "ops", 65537, "limits"),
    ("header", 0, "ops", 60000, "shorter"),
    ("header", 0, "metadata_bytes", 0x7FFFFFFF, "limits"),
    ("header", 0, "outputs", 0, "limits"),
    ("header", 0, "most_steps", 9, "zero"),
    ("outputs", 0, "least", 2, "zero"),
    ("outputs", 0, "fewer", 1, "zero"),
    ("buffers", 1, "kind", 5, "unknown"),
    ("buffers", 1, "kind", 4, "not where"),
    ("buffers", 1, "width", 0, "limits"),
    ("buffers", 1, "width", 1 << 30, "limits"),
    ("buffers", 1, "width", 2, "outside its buffer"),
    ("buffers", 5, "width", 1 << 20, None),  # more memory, of a size known beforehand: allowed
    ("buffers", 4, "place", 64, "not where"),
    ("buffers", 2, "place", 1 << 60, "not where"),
    ("buffers", 4, "init", 64, "not where"),
    ("buffers", 1, "segment", 1, "outside its buffer"),
    ("buffers", 2, "segment", 1, "outside its buffer"),
    ("buffers", 0, "segment", 1, "outside its buffer"),
    ("tensors", 0, "type", len(lay.Type), "unknown"),
    ("tensors", 0, "rows", 0, "limits"),
    ("tensors", 0, "rows", 0xFFFFFFFF, "limits"),
    ("tensors", 0, "columns", 4, "contradict"),
    ("tensors", 1, "columns", 1 << 20, "limits"),
    ("tensors", 2, "place", 64, "not where"),
    ("tensors", 1, "scale", 0, "not where"),
    ("tensors", 2, "scale", 64, "not where"),
    ("tensors", 3, "columns", 2, "contradict"),
    ("tensors", 0, "block", 1, "limits"),
    ("tensors", 1, "block", 0, "limits"),
    ("tensors", 1, "block", 5, "limits"),
    ("tensors", 2, "block", 1, None),  # one panel is one panel
    ("tensors", 1, "type", lay.Type.MATRIX_I4, "not where"),
    ("tensors", 0, "type", lay.Type.TABLE_F16, "not where"),
    ("ops", 0, "code", 0, "unknown"),
    ("ops", 0, "code", max(Code) + 1, "unknown"),
    ("ops", 0, "tensor", 4, "outside its buffer"),
    ("ops", 0, "tensor", lay.NONE, "outside its buffer"),
    ("ops", 0, "tensor", 2, "contradict"),
    ("ops", 3, "tensor", 2, "not where"),
    ("ops", 0, "n", 0, "limits"),
    ("ops", 0, "k", 1, "contradict"),
    ("ops", 0, "fn", 1, "unknown"),
    ("ops", 3, "fn", max(Unary) + 1, "unknown"),
    ("ops", 3, "p0", 1.0, "out of range"),
    ("ops", 1, "p0", NAN, "out of range"),
    ("ops", 1, "p0", -1.0, "out of range"),
    ("ops", 1, "p0", INF, "out of range"),
    ("ops", 2, "p0", 1.0, "out of range"),
    ("ops", 0, "a.buffer", 6, "outside its buffer"),
    ("ops", 0, "a.buffer", lay.NONE, "outside its buffer"),
    ("ops", 1, "a.offset", 1, "outside its buffer"),
    ("ops", 1, "a.offset", lay.NONE, "outside its buffer"),
    ("ops", 3, "b.buffer", 1, "not where"),
    ("ops", 0, "dst.buffer", 0, "outside its buffer"),
    ("ops", 3, "dst.buffer", 2, "must not"),
    ("ops", 1, "dst.offset", 1, "outside its buffer"),
    ("ops", 2, "a.buffer", 3, "overlap"),
    ("ops", 4, "k", 1, "out of range"),
    ("ops", 5, "k", 3, "contradict"),
    ("ops", 5, "k", 0, "contradict"),
    ("ops", 5, "d.buffer", 1, "not where"),
    ("ops", 5, "d.offset", 1, "not where"),
    ("segments", 0, "kind", 2, "unknown"),
    ("segments", 0, "kind", 1, "must not"),
    ("segments", 0, "first_op", 1, "not where"),
    ("segments", 0, "op_count", 5, "not where"),
    ("segments", 0, "op_count", 0xFFFFFFFF, "outside its buffer"),
    ("inputs", 0, "buffer", 1, "outside its buffer"),
    ("inputs", 0, "buffer", 99, "outside its buffer"),
    ("inputs", 0, "vocabulary", 1 << 25, "limits"),
    ("inputs", 0, "vocabulary", 3, None),  # a token beyond the table: the last row
    ("inputs", 0, "rank", 9, "limits"),
    ("inputs", 0, "shape.0", 1, "not where"),
    ("outputs", 0, "offset", 1, "outside its buffer"),
    ("outputs", 0, "shape.0", 3, "outside its buffer"),
    ("outputs", 0, "shape.0", 0xFFFFFFFF, "limits"),
    ("outputs", 0, "shape.1", 0, "limits"),
    ("outputs", 0, "final", 2, "limits"),
    ("outputs", 0, "segment", 1, "outside its buffer"),
    ("outputs", 0, "vocabulary", 1, "not where"),
]


@pytest.mark.parametrize(("section", "index", "field", "value", "message"), MALICIOUS)
def test_malicious_fields_are_refused_by_name(section, index, field, value, message):
    data = changed(write(small_program()), section, index, field, value)
    if message is None:
        assert np.isfinite(Engine(data).run([1, 0, 1])).all()
        return
    with pytest.raises(ModelFileError, match=message):
        Engine(data)


def recurrent_program(code=Code.LSTM, n=17, k=70, weights="int4"):
    """x -> gates -> LSTM or GRU, from a vector of k inputs, and the two largest of its outputs."""
    gates, rng = GATES[code], np.random.default_rng(1)
    matrix = gate_rows(rng.uniform(-1, 1, (gates * n, k)), gates)
    tensor = {"float32": lambda m, b: Tensor(m.astype(np.float32), block=b)}.get(
        weights, {"int8": quantize_rows, "int4": quantize_groups}.get(weights)
    )(matrix, gates)
    buffers = [Buffer(k, "input"), Buffer(len(matrix), "constant", np.zeros(len(matrix))), Buffer(n, "state")]
    buffers += [Buffer(n), Buffer(2)]
    extra = {"b": Ref(2)} if code == Code.LSTM else {"d": Ref(2)}
    ops = [Op(code, Ref(3), n, k, a=Ref(1), c=Ref(0), tensor=0, **extra), Op(Code.TOP, Ref(4), 2, n, a=Ref(3))]
    return Program(
        buffers, [tensor], [Segment("forward", tuple(ops))], [Input("x", 0, (k,))], [Output("y", Ref(4), (2,))]
    )


_MATRIX = "contradict|not where|out of range"  # the type of the matrix says which is noticed first
RECURRENT = [
    (Code.LSTM, "tensors", 0, "block", 3, _MATRIX),
    (Code.GRU, "tensors", 0, "block", 2, _MATRIX),
    (Code.LSTM, "tensors", 0, "rows", 127, _MATRIX),
    (Code.LSTM, "tensors", 0, "columns", 69, _MATRIX),
    (Code.LSTM, "ops", 0, "n", 18, "outside its buffer"),
    (Code.LSTM, "ops", 0, "n", 16, "contradict"),
    (Code.LSTM, "ops", 0, "k", 69, "contradict"),
    (Code.LSTM, "ops", 0, "p0", -1.0, "out of range"),
    (Code.LSTM, "ops", 0, "a.offset", 1, "outside its buffer"),
    (Code.LSTM, "ops", 0, "b.buffer", 0, "must not"),
    (Code.LSTM, "ops", 0, "b.buffer", lay.NONE, "outside its buffer"),
    (Code.LSTM, "ops", 0, "b.buffer", 3, "overlap"),
    (Code.LSTM, "ops", 0, "c.buffer", lay.NONE, "outside its buffer"),
    (Code.LSTM, "ops", 0, "c.offset", 1, "outside its buffer"),
    (Code.LSTM, "ops", 0, "d.buffer", 2, "not where"),
    (Code.GRU, "ops", 0, "b.buffer", 3, "overlap"),
    (Code.GRU, "ops", 0, "b.buffer", 2, None),  # what is added to the candidate may be anything
    (Code.GRU, "ops", 0, "d.buffer", lay.NONE, "outside its buffer"),
    (Code.GRU, "ops", 0, "d.buffer", 3, "nothing has written"),  # may be dst itself, but there is nothing in it yet
    (Code.LSTM, "ops", 1, "fn", 2, "unknown"),
    (Code.LSTM, "ops", 1, "n", 18, "contradict"),
    (Code.LSTM, "ops", 1, "n", 3, "outside its buffer"),
    (Code.LSTM, "ops", 1, "k", 1, "contradict"),
]


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
@pytest.mark.parametrize(("code", "section", "index", "field", "value", "message"), RECURRENT)
def test_malicious_recurrent_fields_are_refused_by_name(code, section, index, field, value, message, weights):
    good = write(recurrent_program(code, weights=weights))
    data = changed(good, section, index, field, value)
    if message is None:
        assert np.isfinite(Engine(data).run(np.ones((3, 70)))).all()
        return
    with pytest.raises(ModelFileError, match=message):
        Engine(data)


def unit_program(code):
    """x -> 4 or 3 sums for each of 5 units -> LSTM_CELL or GRU_CELL."""
    count = 4 if code == Code.LSTM_CELL else 3
    buffers = [Buffer(5 * count, "input"), Buffer(5, "state"), Buffer(5)]
    operands = {"b": Ref(1)} if code == Code.LSTM_CELL else {"c": Ref(0), "d": Ref(1)}
    op = Op(code, Ref(2), 5, a=Ref(0), **operands)
    return Program(buffers, [], [Segment("forward", (op,))], [Input("x", 0, (5 * count,))], [Output("y", Ref(2), (5,))])


UNITS = [
    (Code.LSTM_CELL, "n", 6, "outside its buffer"),
    (Code.LSTM_CELL, "k", 5, "contradict"),
    (Code.LSTM_CELL, "tensor", 0, "not where"),
    (Code.LSTM_CELL, "p0", 1.0, "out of range"),
    (Code.LSTM_CELL, "a.offset", 1, "outside its buffer"),
    (Code.LSTM_CELL, "b.buffer", 0, "must not"),
    (Code.LSTM_CELL, "b.buffer", 2, "overlap"),
    (Code.LSTM_CELL, "b.buffer", lay.NONE, "outside its buffer"),
    (Code.LSTM_CELL, "c.buffer", 1, "not where"),
    (Code.GRU_CELL, "b.buffer", 1, "not where"),
    (Code.GRU_CELL, "c.offset", 1, "outside its buffer"),
    (Code.GRU_CELL, "c.buffer", lay.NONE, "outside its buffer"),
    (Code.GRU_CELL, "d.buffer", lay.NONE, "outside its buffer"),
    (Code.GRU_CELL, "d.buffer", 2, "nothing has written"),  # may be dst itself, but there is nothing in it yet
    (Code.GRU_CELL, "dst.buffer", 1, None),
]


@pytest.mark.parametrize(("code", "field", "value", "message"), UNITS)
def test_malicious_fields_of_unit_operations_are_refused_by_name(code, field, value, message):
    data = changed(write(unit_program(code)), "ops", 0, field, value)
    if message is None:
        data = changed(data, "outputs", 0, "buffer", value)
        assert np.isfinite(Engine(data).run(np.ones((3, 15)))).all()
        return
    with pytest.raises(ModelFileError, match=message):
        Engine(data)


def test_sums_of_rows_are_checked():
    program = recurrent_program(weights="int8")
    sums = program.tensors[0].values.sum(axis=1, dtype=np.int32)
    data = bytearray(write(program))
    at = bytes(data).index(sums[:4].tobytes())
    data[at] ^= 1
    with pytest.raises(ModelFileError):
        Engine(repair(data))


def int4_tensor(program, **changes):
    return replace(program, tensors=[replace(program.tensors[0], **changes)])


def test_int4_matrices_are_checked():
    program = recurrent_program()
    tensor = program.tensors[0]
    full = np.full((128, 2), 255, np.uint8)
    assert Engine(write(int4_tensor(program, group_scale=full))).run(np.ones((1, 70))).shape == (1, 2)
    with pytest.raises(ValueError, match="from -8 to 7"):
        write(int4_tensor(program, values=tensor.values - 1))
    for wrong in (full[:, :1], full[:5], full.astype(np.int8)):
        with pytest.raises(ValueError, match=r"group_scale: expected uint8 of shape \(128, 2\).*, got .*"):
            write(int4_tensor(program, group_scale=wrong))
    with pytest.raises(ValueError, match="scale of a quantized tensor"):
        write(int4_tensor(program, scale=None))
    wide = recurrent_program(n=1, k=64 * 130)
    heavy = np.full((64, 130), 255, np.uint8)
    with pytest.raises(ValueError, match="out of range"):
        write(int4_tensor(wide, group_scale=heavy))


def test_int4_padding_is_zero():
    """A column beyond the 70, a row beyond the 8, the scale of such a row, and the rest of the line of scales."""
    tensor = quantize_groups(np.random.default_rng(2).uniform(-1, 1, (8, 70)))
    op = Op(Code.AFFINE, Ref(1), 8, 70, a=Ref(0), tensor=0)
    program = Program(
        [Buffer(70, "input"), Buffer(8)],
        [tensor],
        [Segment("forward", (op,))],
        [Input("x", 0, (70,))],
        [Output("y", Ref(1), (8,))],
    )
    data = write(program)
    start = data.index(lay.pack_matrix(tensor.values, 4, tensor.group_scale))
    lines = start + 64 * 9  # after eight lines and their scales: one line of six columns, then its scales
    for place, bit in [(lines + 2, 0x10), (lines + 4 * 8, 1), (lines + 64 + 8, 1), (lines + 64 + 16, 1)]:
        damaged = bytearray(data)
        damaged[place] ^= bit
        with pytest.raises(ModelFileError, match=r"padding is not zero|out of range"):
            Engine(repair(damaged))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 140),
    st.integers(1, 200),
    st.integers(1, 4),
    st.sampled_from(["float32", "int8", "int4"]),
    st.integers(0, 2**32),
)
def test_matrices_come_back_from_their_packed_order(rows, columns, block, weights, seed):
    rng = np.random.default_rng(seed)
    group_scale, kind = None, {"float32": lay.Type.MATRIX_F32, "int8": lay.Type.MATRIX_I8}.get(weights)
    values = rng.integers(-127, 128, (rows, columns)).astype(np.float32 if weights == "float32" else np.int8)
    if weights == "int4":
        kind, values = lay.Type.MATRIX_I4, rng.integers(-8, 8, (rows, columns)).astype(np.int8)
        group_scale = rng.integers(0, 256, (rows, -(-columns // 64))).astype(np.uint8)
    data = lay.pack_matrix(values, block, group_scale)
    assert len(data) == lay.matrix_bytes(kind, rows, columns, block)
    back, scales = lay.unpack_matrix(data, kind, rows, columns, block)
    assert back.dtype == values.dtype and np.array_equal(back, values)
    assert np.array_equal(scales, group_scale) if weights == "int4" else scales is None


def test_the_packed_orders_are_those_of_the_specification():
    """Entry by entry, as cr_format.h puts them."""
    rng = np.random.default_rng(3)
    rows, columns, block = 70, 139, 3
    values = rng.integers(-8, 8, (rows, columns)).astype(np.int8)
    scales = rng.integers(0, 256, (rows, 3)).astype(np.uint8)
    i4 = np.frombuffer(lay.pack_matrix(values, block, scales), np.uint8)
    i8 = np.frombuffer(lay.pack_matrix(values, block), np.int8)
    f32 = np.frombuffer(lay.pack_matrix(values.astype(np.float32), block), np.float32)
    panels = [3, 2]  # of the two blocks
    for row in range(rows):
        panel, r = row // 16, row % 16
        first, width, within = (panel // block) * block, panels[panel // block], panel % block
        i4_start = 64 * (first * 18 + 3 * (first // block))
        for column in range(columns):
            assert f32[16 * (first * columns + column * width + within) + r] == values[row, column]
            line = 64 * (first * 35 + column // 4 * width + within)
            assert i8[line + 4 * r + column % 4] == values[row, column]
            line = i4_start + 64 * (column // 8 * width + column // 64 + within)
            byte = i4[line + 4 * r + column % 4]
            assert (byte >> 4 if column % 8 >= 4 else byte & 15) == values[row, column] + 8
        for group in range(3):
            lines = min(8 * group + 8, 18)
            assert i4[i4_start + 64 * (lines * width + group) + 16 * within + r] == scales[row, group]


@pytest.mark.parametrize("code", [Code.LSTM, Code.GRU])
@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_recurrent_round_trip(code, weights):
    program = recurrent_program(code, weights=weights)
    data = write(program)
    back = read(data)
    assert write(back) == data and back.ops == program.ops
    (a,), (b,) = program.tensors, back.tensors
    assert np.array_equal(a.values, b.values) and a.block == b.block == GATES[code]
    assert (a.group_scale is None) == (b.group_scale is None)
    assert a.group_scale is None or np.array_equal(a.group_scale, b.group_scale)


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF, 1e-40])
@pytest.mark.parametrize("tensor", [0, 1])
def test_scales_must_be_finite_and_positive(bad, tensor):
    program = small_program()
    scale = program.tensors[tensor].scale.copy()
    scale[1] = bad
    program.tensors[tensor] = replace(program.tensors[tensor], scale=scale)
    with pytest.raises(ValueError, match="out of range"):
        write(program)


def test_weights_of_minus_128_are_refused():
    program = small_program()
    program.tensors[1].values[0, 0] = -128
    with pytest.raises(ValueError, match="out of range"):
        write(program)


@pytest.mark.parametrize("at", [3, 8, 63])  # the fourth of three columns, the third of two rows, the last
def test_panels_are_padded_with_zeros(at):
    data = write(small_program())
    place = data.index(np.array([1, -2, 3, 0, 4, 5, -6, 0], np.int8).tobytes())
    damaged = bytearray(data)
    damaged[place + at] = 1
    with pytest.raises(ModelFileError, match="padding is not zero"):
        Engine(repair(damaged))


@pytest.mark.parametrize("index", [-2, 2, 2**31 - 1])
def test_gather_indices_are_checked(index):
    program = small_program()
    program.tensors[3].values[2] = index
    with pytest.raises(ValueError, match="out of range"):
        write(program)


def with_json(data: bytes, text: bytes) -> bytes:
    """The file with another JSON section, filled up with blanks to the same length."""
    at = data.index(b'{"inputs"')
    end = at + int(np.frombuffer(data, lay.HEADER, 1)["metadata_bytes"][0])
    assert len(text) <= end - at
    return repair(bytearray(data[:at] + text.ljust(end - at) + data[end:]))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b'{"inputs":["x"],"outputs":["y"]}',
        b'{"inputs":["x"],"outputs":["y"],"metadata":[]}',
        b'{"inputs":["x"],"outputs":["y"],"metadata":{"a":NaN}}',
        b'{"inputs":["x"],"outputs":["y"],"metadata":{"a":1,"a":2}}',
        b'{"inputs":[],"outputs":["y"],"metadata":{}}',
        b'{"inputs":["x"],"outputs":[1],"metadata":{}}',
        b"[" * 60,
        b'{"inputs":["x"],"outputs":["y"],"metadata":{},"once":[0]}',
        b'{"inputs":["x"],"outputs":["y"],"metadata":{},"once":[1]}',
        b'{"inputs":["x"],"outputs":["y"],"metadata":{},"once":{}}',
    ],
)
def test_json_is_checked(text):
    with pytest.raises(ModelFileError, match="JSON"):
        Engine(with_json(write(small_program()), text))


def test_deep_json_is_refused():
    program = small_program()
    program.metadata = {"a": "x" * 200_000}
    deep = b'{"a":' * 30_000 + b"1" + b"}" * 30_000
    with pytest.raises(ModelFileError, match="JSON"):
        Engine(with_json(write(program), deep))


def test_foreign_files_are_refused(tmp_path):
    for content in (b"", b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00.", os.urandom(300)):
        path = tmp_path / "foreign.crnn"
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"foreign\.crnn: not a compactrnn model file"):
            Engine(path)
    with pytest.raises(FileNotFoundError):
        Engine(tmp_path / "missing.crnn")


def test_metadata_has_a_limit_and_is_plain_json():
    program = small_program()
    for wrong, error in (({"a": "x" * (17 << 20)}, ValueError), ({"a": NAN}, ValueError), ({"a": b""}, TypeError)):
        program.metadata = wrong
        with pytest.raises(error):
            write(program)


def test_save_replaces_whole_files(tmp_path):
    path = tmp_path / "model.crnn"
    save(b"old", path)
    save(b"new and longer", path)
    assert path.read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["model.crnn"]
    with pytest.raises(TypeError):
        save("not bytes", path)
    assert path.read_bytes() == b"new and longer" and os.listdir(tmp_path) == ["model.crnn"]


def test_mistakes_of_a_writer_are_named():
    program = small_program()
    double = replace(program, tensors=[Tensor(t.values.astype(np.float64)) for t in program.tensors])
    with pytest.raises(ValueError, match="float64"):
        write(double)
    no_scale = replace(program, tensors=[replace(t, scale=None) for t in program.tensors])
    with pytest.raises(ValueError, match="scale"):
        write(no_scale)
    into_input = replace(
        program, segments=[Segment("forward", (*program.ops, Op(Code.UNARY, Ref(0), 1, a=Ref(5), fn=Unary.COPY)))]
    )
    with pytest.raises(ValueError, match="writes where it must not"):
        write(into_input)
    unwritten = replace(program, segments=[Segment("forward", program.ops[1:])])
    with pytest.raises(ValueError, match=r"reads numbers that nothing has written before \(operation 0\)"):
        write(unwritten)
    with pytest.raises(ValueError, match=r"reads numbers that nothing has written before \(output 0\)"):
        write(replace(program, segments=[Segment("forward", program.ops[:4])]))
