"""Quantization and folding: stored tensors represent the original ones."""

from dataclasses import replace

import numpy as np
import pytest

from compactrnn import Engine
from compactrnn.runtime import mixed_precision
from compactrnn.runtime.dead_code import remove_dead_code
from compactrnn.runtime.file import write
from compactrnn.runtime.gates import gate_rows, padded
from compactrnn.runtime.inventory import inventory
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.quantize import quantize
from compactrnn.runtime.rounding import quantize_groups, quantize_rows
from compactrnn.testing.programs import random_input, random_program


def token_program(vocabulary=9, width=6, size=8, readers=1, factor=0, seed=0) -> Program:
    """A token's row, through a product (or two factors of it) with bias, `readers` times, and tanh."""
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        return rng.uniform(-1, 1, shape).astype(np.float32)

    buffers = [Buffer(1, "input"), Buffer(width)]
    tensors = [Tensor(numbers(vocabulary, width))]
    ops = [Op(Code.EMBED, Ref(1), width, a=Ref(0), tensor=0)]
    outputs = []
    for reader in range(readers):
        place, k = Ref(1), width
        if factor:
            buffers.append(Buffer(factor))
            tensors.append(Tensor(numbers(factor, k)))
            ops.append(Op(Code.AFFINE, Ref(len(buffers) - 1), factor, k, a=place, tensor=len(tensors) - 1))
            place, k = Ref(len(buffers) - 1), factor
        buffers += [Buffer(size, "constant", numbers(size)), Buffer(size)]
        tensors.append(Tensor(numbers(size, k)))
        dst, bias = Ref(len(buffers) - 1), Ref(len(buffers) - 2)
        ops.append(Op(Code.AFFINE, dst, size, k, a=place, b=bias, tensor=len(tensors) - 1))
        ops.append(Op(Code.UNARY, dst, size, a=dst, fn=Unary.TANH))
        outputs.append(Output(f"y{reader}", dst, (size,)))
    segments = [Segment("forward", tuple(ops))]
    return Program(buffers, tensors, segments, [Input("token", 0, (), vocabulary)], outputs)


def run(program):
    y = Engine(write(program)).run(np.arange(program.inputs[0].vocabulary))
    return np.stack(y) if isinstance(y, tuple) else y


def codes(program):
    return [op.code for op in program.ops]


@pytest.mark.parametrize("options", [{}, {"readers": 3}, {"factor": 2}, {"readers": 2, "factor": 3}])
@pytest.mark.parametrize(("weights", "tolerance"), [("float32", 1e-6), ("int8", 0.03), ("int4", 0.3)])
def test_folded_is_unfolded(options, weights, tolerance):
    program = token_program(**options)
    folded, plain = quantize(program, weights, fold=True), quantize(program, weights, fold=False)
    assert Code.AFFINE not in codes(folded) and codes(plain) == codes(program)
    assert folded.macs_per_step() == 0
    np.testing.assert_allclose(run(folded), run(quantize(program, "float32", fold=False)), atol=tolerance)
    np.testing.assert_allclose(run(plain), run(quantize(program, "float32", fold=False)), atol=tolerance)


def test_folded_tables_are_the_products_in_float64():
    program = token_program()
    table, matrix, bias = program.tensors[0].values, program.tensors[1].values, program.buffers[2].init
    exact = table.astype(np.float64) @ matrix.astype(np.float64).T + bias
    folded = quantize(program, "float32", fold=True)
    assert np.array_equal(folded.tensors[0].values, exact.astype(np.float32))
    stored = quantize(program, "int8", fold=True).tensors[0]
    assert np.all(np.abs(stored.values * stored.scale[:, None].astype(np.float64) - exact) <= stored.scale[:, None] / 2)


def test_automatic_folding_keeps_files_small():
    few = token_program(vocabulary=5, width=6, size=8)
    assert Code.AFFINE not in codes(quantize(few, "float32")) and Code.AFFINE not in codes(quantize(few, "int8"))
    assert len(write(quantize(few, "int8"))) <= len(write(quantize(few, "int8", fold=False)))
    many = token_program(vocabulary=5000, width=6, size=64)  # the table would be ten times as large
    assert Code.AFFINE in codes(quantize(many, "float32")) and Code.AFFINE in codes(quantize(many, "int8"))


def test_only_what_is_read_by_products_alone_folds():
    program = token_program()
    seen = replace(program, outputs=[*program.outputs, Output("row", Ref(1), (6,))])
    buffers = [*program.buffers, Buffer(6)]
    other_reader = replace(
        program,
        buffers=buffers,
        outputs=[*program.outputs, Output("row", Ref(len(buffers) - 1), (6,))],
        segments=[Segment("forward", (*program.ops, Op(Code.UNARY, Ref(len(buffers) - 1), 6, a=Ref(1))))],
    )
    part = replace(program, tensors=[program.tensors[0], Tensor(program.tensors[1].values[:, :5])])
    part = part.map_ops(lambda op: replace(op, k=5) if op.code == Code.AFFINE else op)
    running = program.map_ops(lambda op: replace(op, b=op.dst) if op.code == Code.AFFINE else op)
    for kept in (seen, other_reader, part, running):
        assert Code.AFFINE in codes(quantize(kept, "float32", fold=True))


def test_rows_have_their_own_scale():
    values = np.array([[1e-3, -2.01e-3], [100.0, 50.1], [0.0, 0.0], [1e-40, 0.0]])
    tensor = quantize_rows(values)
    assert tensor.values.dtype == np.int8 and tensor.scale.dtype == np.float32
    assert tensor.values[0].tolist() == [63, -127] and tensor.values[1].tolist() == [127, 64]
    assert tensor.scale[2:].tolist() == [1, 1] and not tensor.values[2:].any()
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            quantize_rows(np.array([[bad]]))


def layers(sizes=(256, 256, 256), inputs=64, outputs=40, seed=0) -> Program:
    """LSTMs on top of each other and a classifier."""
    rng = np.random.default_rng(seed)
    program = Program([Buffer(inputs, "input")], [], [], [Input("x", 0, (inputs,))])
    ops = []

    def buffer(width, kind="scratch"):
        program.buffers.append(Buffer(width, kind))
        return Ref(len(program.buffers) - 1)

    def tensor(rows, columns, gates=1):
        values = (rng.normal(0, 1, (rows * gates, columns)) / np.sqrt(columns)).astype(np.float32)
        program.tensors.append(Tensor(gate_rows(values, gates) if gates > 1 else values))
        return len(program.tensors) - 1

    x, k = Ref(0), inputs
    for n in sizes:
        gates, h, c, y = buffer(4 * padded(n)), buffer(n, "state"), buffer(n, "state"), buffer(n)
        ops.append(Op(Code.AFFINE, gates, 4 * padded(n), k, a=x, tensor=tensor(n, k, 4)))
        ops.append(Op(Code.LSTM, y, n, n, a=gates, b=c, c=h, tensor=tensor(n, n, 4), p0=1 / 127))
        ops.append(Op(Code.UNARY, h, n, a=y, fn=Unary.COPY))
        x, k = y, n
    scores, y = buffer(outputs), buffer(outputs)
    ops.append(Op(Code.AFFINE, scores, outputs, k, a=x, tensor=tensor(outputs, k)))
    ops.append(Op(Code.SOFTMAX, y, outputs, outputs, a=scores))
    program.segments.append(Segment("forward", tuple(ops)))
    program.outputs.append(Output("y", y, (outputs,)))
    return program


def types(program):
    return [row["stored as"] for row in inventory(program)]


def test_products_outside_the_recurrence_have_segments_of_their_own():
    program = quantize(layers(), "int8")
    one, other = [Code.AFFINE], [Code.LSTM, Code.UNARY]
    wanted = [one, other, one, other, one, other, one, [Code.SOFTMAX]]
    assert [[op.code for op in segment.ops] for segment in program.segments] == wanted
    assert not program.offline and not Engine(write(program)).offline


def test_layers_whose_states_are_given_out_together_do_not_stay_together():
    program = layers((40, 40), inputs=40)
    states = [op.dst for op in program.ops if op.code == Code.UNARY]
    program.buffers.append(Buffer(80))
    copies = tuple(
        Op(Code.UNARY, Ref(len(program.buffers) - 1, 40 * i), 40, a=ref, fn=Unary.COPY) for i, ref in enumerate(states)
    )
    program = replace(
        program,
        segments=[Segment("forward", (*program.ops, *copies))],
        outputs=[*program.outputs, Output("states", Ref(len(program.buffers) - 1), (2, 40))],
    )
    split = quantize(program, "float32")
    assert sum(segment.ops[0].code == Code.AFFINE for segment in split.segments) == 3
    xs = random_input(program, 5)
    for a, b in zip(Engine(write(remove_dead_code(program))).run(xs), Engine(write(split)).run(xs), strict=True):
        assert np.array_equal(a, b)


def test_int4_is_close_and_half_as_large():
    program = layers()
    plain, whole, small = (write(quantize(program, weights)) for weights in ("float32", "int8", "int4"))
    assert len(small) < 0.55 * len(whole) < 0.15 * len(plain)
    xs = random_input(program, 20)
    exact, errors = Engine(plain).run(xs).ravel(), []
    for data in (whole, small):
        y = Engine(data).run(xs).ravel()
        errors.append(np.linalg.norm(y - exact) / np.linalg.norm(exact))
    assert errors[0] < 0.005 < errors[1] < 0.05


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 300, 20_000])
def test_int4_is_the_best_of_its_scales(columns):
    rng = np.random.default_rng(columns)
    values = rng.normal(0, 1, (5, columns)) * np.array([1, 1e-3, 1e3, 1e-36, 0])[:, None]
    tensor = quantize_groups(values)
    assert tensor.values.min() >= -8 and tensor.values.max() <= 7
    assert tensor.group_scale.astype(int).sum(axis=1).max() <= 33026
    assert tensor.group_scale[:3].min() >= 1 and not tensor.values[4].any() and not tensor.group_scale[4].any()
    assert np.all(tensor.scale >= 1e-37)
    change = np.linalg.norm(tensor.dense() - values, axis=1)[:3] / np.linalg.norm(values, axis=1)[:3]
    assert np.all(change < 0.13)


def test_automatic_types_follow_the_caches():
    program = layers()  # AFFINE and LSTM of 65,536 and 262,144, then 262,144 each; a classifier of 10,240 weights
    total = 65_536 + 5 * 262_144 + 10_240
    kinds = {
        (total,): ["int8"] * 7,
        (total - 1,): ["int8", "int4"] + ["int8"] * 5,
        (total - 200_000,): ["int8", "int4", "int4"] + ["int8"] * 4,
        (700_000, total): ["int8"] * 7,
        (750_000, total): ["int4"] * 6 + ["int8"],
        (1000, 100_000): ["int4"] * 6 + ["int8"],
    }
    for caches, wanted in kinds.items():
        assert types(quantize(program, "auto", caches=caches)) == wanted
    wide = layers(outputs=5000)  # a classifier stays in int8, however large
    assert types(quantize(wide, "auto", caches=(1,))) == ["int4"] * 6 + ["int8"]
    assert types(quantize(layers(sizes=(64,)), "auto", caches=(1,))) == ["int8"] * 3  # small matrices do, too


def test_automatic_types_follow_the_calibration(monkeypatch):
    program = layers(sizes=(256,))
    options = {"caches": (1,), "calibration": [random_input(program, 20)]}
    assert types(quantize(program, "auto", **options)) == ["int4", "int4", "int8"]
    monkeypatch.setattr(mixed_precision, "MOST_ERROR", 1e-4)
    assert types(quantize(program, "auto", **options)) == ["int8"] * 3
    assert types(quantize(program, "auto", caches=(1,))) == ["int4", "int4", "int8"]


def test_the_inventory_counts_what_the_file_has():
    for weights in ("float32", "int8", "int4"):
        program = quantize(layers(sizes=(40, 24)), weights)
        rows = inventory(program)
        assert sum(row["MACs"] for row in rows) == program.macs_per_step() == Engine(write(program)).macs_per_step
        assert rows[1]["shape"] == "160 x 40" and rows[1]["parameters"] == 6400
        size = len(write(program))
        assert 0.5 * size < sum(row["bytes"] for row in rows) < size
    assert types(quantize(token_program(), "int4", fold=False)) == ["int8", "int4"]


def test_int8_is_close_and_small():
    program = token_program(vocabulary=40, width=64, size=256, seed=1)
    plain, packed = write(quantize(program, "float32", fold=False)), write(quantize(program, "int8", fold=False))
    assert len(packed) < 0.35 * len(plain)
    a, b = Engine(plain).run(np.arange(40)).ravel(), Engine(packed).run(np.arange(40)).ravel()
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.999


@pytest.mark.parametrize("arguments", [{"weights": "int3"}, {"fold": "always"}])
def test_wrong_options(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: expected"):
        quantize(token_program(), **arguments)


def test_the_program_is_not_changed():
    program = token_program()
    before = write(program)
    quantize(program, "int8", fold=True)
    assert write(program) == before


@pytest.mark.parametrize("seed", range(30))
def test_tidying_changes_no_bit(seed):
    program = random_program(seed, 10, offline=seed % 3 == 0)
    cleaned = remove_dead_code(program)
    assert len(cleaned.ops) <= len(program.ops) and len(cleaned.buffers) <= len(program.buffers)
    xs = random_input(program, 4)
    first, second = (
        y if isinstance(y, tuple) else (y,) for y in (Engine(write(p)).run(xs) for p in (program, cleaned))
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert write(remove_dead_code(cleaned)) == write(cleaned)


def test_tidying_drops_what_nobody_reads():
    program = token_program(readers=3)
    fewer = remove_dead_code(replace(program, outputs=program.outputs[:1]))
    assert len(fewer.ops) == 3 and len(fewer.tensors) == 2 and len(fewer.buffers) == 4
