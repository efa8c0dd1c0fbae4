"""Large constants in int8: what becomes of a program with them, and when it is done at all."""

import numpy as np
import pytest

from compactrnn import Engine
from compactrnn.runtime.constant_rows import constants_in_rows
from compactrnn.runtime.file import encode, write
from compactrnn.runtime.program import Binary, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.quantize import quantize_measured

WIDTH = 400


def program(*constants, fn=Binary.MUL):
    """x W^T, then one `fn` with each constant after the other."""
    rng = np.random.default_rng(0)
    buffers = [Buffer(4, "input"), Buffer(WIDTH)]
    ops = [Op(Code.AFFINE, Ref(1), WIDTH, 4, a=Ref(0), tensor=0, name="fc")]
    for values in constants:
        buffers += [Buffer(WIDTH, "constant", np.asarray(values, np.float32)), Buffer(WIDTH)]
        before, number = ops[-1].dst, len(buffers)
        ops.append(Op(Code.BINARY, Ref(number - 1), WIDTH, WIDTH, a=before, b=Ref(number - 2), fn=fn))
    tensor = Tensor(rng.normal(size=(WIDTH, 4)).astype(np.float32))
    ports = [Input("x", 0, (4,))], [Output("y", ops[-1].dst, (WIDTH,))]
    return Program(buffers, [tensor], [Segment("forward", tuple(ops))], *ports)


def gains(count):
    return np.random.default_rng(1).normal(size=(count, WIDTH)).astype(np.float32)


def looked_up(of):
    return sum(op.code == Code.EMBED for op in of.ops)


XS = [np.random.default_rng(2).normal(size=(20, 4)).astype(np.float32)]


def test_each_constant_is_a_row_with_a_scale_of_its_own():
    values = gains(3) * np.array([[1], [1e-6], [1e6]], np.float32)
    rows = constants_in_rows(program(*values))
    assert looked_up(rows) == 3 and rows.tensors[-1].values.shape == (3, WIDTH)
    stored, given = rows.tensors[-1].dense(), np.abs(values).max(1, keepdims=True)
    assert (np.abs(stored - values) <= 0.502 * given / 127).all()
    before, after = (Engine(write(p)).run(XS[0]) for p in (program(*values), rows))
    wanted = np.prod([Engine(write(program())).run(XS[0]), *stored[:, None].repeat(20, 1)], axis=0)
    assert np.allclose(after, wanted, rtol=1e-5, atol=1e-12) and not np.array_equal(before, after)


@pytest.mark.parametrize(
    "kept",
    [
        program(),
        program(gains(1)[0], fn=Binary.DIV),
        program(gains(1)[0], fn=Binary.MAX),
        program(np.full(WIDTH, np.inf)),
        program(np.append(gains(1)[0][1:], np.nan)),
    ],
    ids=["none", "divided", "maximum", "infinite", "nan"],
)
def test_what_cannot_be_rounded_stays(kept):
    assert constants_in_rows(kept) is kept


def test_what_something_else_reads_too_stays():
    whole = program(*gains(1))
    op = Op(Code.UNARY, Ref(3), WIDTH, a=Ref(2), fn=Unary.TANH)
    segment = Segment("forward", (*whole.segments[0].ops, op))
    assert (
        constants_in_rows(Program(whole.buffers, whole.tensors, [segment], whole.inputs, whole.outputs)).tensors
        == whole.tensors
    )


@pytest.mark.parametrize(
    ("weights", "options", "count"),
    [
        ("int8", {}, 6),
        ("int4", {}, 6),
        ("float32", {}, 0),
        ({"*": "float32", "fc": "int8"}, {}, 0),
        ("int8", {"improve": False}, 0),
        ("int8", {"calibration": ()}, 0),
    ],
)
def test_it_is_done_with_calibration_data_where_weights_are_in_whole_numbers(weights, options, count):
    small = program(*0.02 * gains(6), fn=Binary.ADD)
    found = quantize_measured(small, weights, **{"calibration": XS, **options})
    assert looked_up(found.program) == count and ("constants" in found.reasons) == (count > 0)


def test_a_constant_that_must_not_be_rounded_is_not():
    """The rounding of a shift that is taken away again would be all that is left."""
    shift = 1e4 * gains(1)[0]
    found = quantize_measured(program(shift, -shift, *gains(6), fn=Binary.ADD), "int8", calibration=XS)
    assert looked_up(found.program) == 0 and "constants" not in found.reasons


def test_a_size_that_types_of_matrices_cannot_give_is_kept_by_constants_in_int8():
    shift = 1e4 * gains(1)[0]
    large = program(shift, -shift, *gains(6), fn=Binary.ADD)
    least = quantize_measured(large, "auto", calibration=XS, max_bytes=1)
    most = len(encode(least.program))
    found = quantize_measured(large, "auto", calibration=XS, max_bytes=most)
    assert looked_up(found.program) == 8 and "constants" in found.reasons
    plain = quantize_measured(large, "int4", calibration=XS, improve=False)
    assert len(encode(found.program)) <= most < len(encode(plain.program))


def test_constants_in_int8_are_taken_before_matrices_in_int4_where_that_costs_less():
    large = program(*0.02 * gains(6), fn=Binary.ADD)
    whole = len(encode(quantize_measured(large, "auto", calibration=XS, improve=False).program))
    found = quantize_measured(large, "auto", calibration=XS, max_bytes=whole - 500)
    assert looked_up(found.program) == 6 and found.program.tensors[0].group_scale is None


def test_a_few_bytes_of_a_large_file_are_left_alone():
    large = program(*gains(1))
    large.tensors.append(Tensor(np.random.default_rng(0).normal(size=(200, WIDTH)).astype(np.float32)))
    buffers = [*large.buffers, Buffer(200)]
    product = Op(Code.AFFINE, Ref(len(buffers) - 1), 200, WIDTH, a=large.ops[-1].dst, tensor=1, name="head")
    wide = Program(
        buffers,
        large.tensors,
        [Segment("forward", (*large.ops, product))],
        large.inputs,
        [Output("y", product.dst, (200,))],
    )
    assert looked_up(quantize_measured(wide, "int8", calibration=XS).program) == 0
