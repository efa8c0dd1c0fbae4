"""Quantising and folding: what is stored stands for what was meant."""

from dataclasses import replace

import numpy as np
import pytest

from compactrnn import Engine
from compactrnn.runtime.file import write
from compactrnn.runtime.pack import quantize
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.rounding import quantize_rows
from compactrnn.runtime.tidy import tidy
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
@pytest.mark.parametrize(("weights", "tolerance"), [("float32", 1e-6), ("int8", 0.03)])
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


def test_int8_is_close_and_small():
    program = token_program(vocabulary=40, width=64, size=256, seed=1)
    plain, packed = write(quantize(program, "float32", fold=False)), write(quantize(program, "int8", fold=False))
    assert len(packed) < 0.35 * len(plain)
    a, b = Engine(plain).run(np.arange(40)).ravel(), Engine(packed).run(np.arange(40)).ravel()
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.999


@pytest.mark.parametrize("arguments", [{"weights": "int3"}, {"fold": "always"}])
def test_wrong_options(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: got"):
        quantize(token_program(), **arguments)


def test_the_program_is_not_changed():
    program = token_program()
    before = write(program)
    quantize(program, "int8", fold=True)
    assert write(program) == before


@pytest.mark.parametrize("seed", range(30))
def test_tidying_changes_no_bit(seed):
    program = random_program(seed, 10, offline=seed % 3 == 0)
    tidied = tidy(program)
    assert len(tidied.ops) <= len(program.ops) and len(tidied.buffers) <= len(program.buffers)
    xs = random_input(program, 4)
    first, second = (y if isinstance(y, tuple) else (y,) for y in (Engine(write(p)).run(xs) for p in (program, tidied)))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert write(tidy(tidied)) == write(tidied)


def test_tidying_drops_what_nobody_reads():
    program = token_program(readers=3)
    fewer = tidy(replace(program, outputs=program.outputs[:1]))
    assert len(fewer.ops) == 3 and len(fewer.tensors) == 2 and len(fewer.buffers) == 4
