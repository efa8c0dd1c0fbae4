"""Cells over the rows of a step: the same bits as one operation for each row, on every instruction set."""

from dataclasses import replace

import numpy as np
import pytest

from compactrnn import Engine
from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from compactrnn.runtime.file import write
from compactrnn.runtime.gates import gate_rows, padded
from compactrnn.runtime.inventory import inventory
from compactrnn.runtime.program import (
    GATES,
    Buffer,
    Code,
    Input,
    Op,
    Output,
    Over,
    Program,
    Ref,
    Segment,
    Tensor,
    Unary,
)
from compactrnn.runtime.quantize import quantize
from compactrnn.runtime.rounding import quantize_groups, quantize_rows

SINGLE = {Code.LSTM_OVER: Code.LSTM, Code.GRU_OVER: Code.GRU, Code.GRU_EACH: Code.GRU}


def over(code, k, count, whole=False, backwards=False, p0=0.0, bias=True, single=False):
    """A program whose input is rows of gates, and h of each row before where it has one; c of an LSTM starts anew.

    `single`: one operation for each row.
    """
    rng, gates = np.random.default_rng(0), GATES[code]
    wide, each = gates * padded(k), code == Code.GRU_EACH
    values = gate_rows(rng.uniform(-1, 1, (gates * k, k)).astype(np.float32), gates)
    tensor = replace(quantize_rows(values) if whole else Tensor(values), block=gates)
    before = k * count if each else k
    buffers = [Buffer(wide * count + before, "input"), Buffer(k * count), Buffer(k)]
    buffers.append(Buffer(k, "constant", rng.uniform(-1, 1, k)))
    a, h, n = Ref(0), Ref(0, wide * count), k * count
    fields = {"tensor": 0, "p0": p0 if whole else 0.0, "name": "hidden"}
    ops = []
    if code == Code.LSTM_OVER:
        ops.append(Op(Code.UNARY, Ref(2), k, a=Ref(3), fn=Unary.TANH))
        fields["b"] = Ref(2)
    elif bias:
        fields["b"] = Ref(3)
    if not single:
        fn = 0 if each else int(Over.BACKWARD if backwards else Over.FORWARD)
        ops.append(Op(code, Ref(1), n, k, a=a, c=h, fn=fn, **fields))
    for row in (range(count)[:: -1 if backwards else 1]) if single else ():
        place = Ref(1, row * k)
        start = Ref(0, h.offset + row * k) if each else h
        state = {} if code == Code.LSTM_OVER else {"d": start}
        ops.append(Op(SINGLE[code], place, k, k, a=Ref(0, row * wide), c=start, **fields, **state))
        h = h if each else place
    inputs, outputs = [Input("x", 0, (buffers[0].width,))], [Output("y", Ref(1), (n,)), Output("cell", Ref(2), (k,))]
    return Program(
        buffers, [tensor], [Segment("forward", tuple(ops))], inputs, outputs[: 1 + (Ref(2) in [o.dst for o in ops])]
    )


def outputs(program, xs, isa):
    found = Engine(write(program), isa=isa).run(xs)
    return [y.tobytes() for y in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("code", SINGLE)
@pytest.mark.parametrize(("k", "count"), [(1, 1), (4, 33), (8, 7), (16, 3), (17, 5), (40, 4)])
def test_bits_are_those_of_one_operation_for_each_row(isa, code, k, count):
    for whole in (False, True):
        for backwards in (False, True) if code != Code.GRU_EACH else (False,):
            for p0, bias in ((0.0, True), (1 / 127, False)):
                made = [over(code, k, count, whole, backwards, p0, bias, single) for single in (False, True)]
                xs = np.random.default_rng(1).uniform(-1, 1, (3, made[0].buffers[0].width)).astype(np.float32)
                together, apart = (outputs(program, xs, isa) for program in made)
                assert together == apart
                assert together == outputs(made[0], xs, "scalar")


CONTRADICT, OUTSIDE = "contradict", "outside its buffer"
WRONG = [
    ({"n": 34}, CONTRADICT),
    ({"n": 3 * 17 + 17}, OUTSIDE),
    ({"k": 0}, CONTRADICT),
    ({"k": 51}, CONTRADICT),
    ({"fn": 2}, "unknown"),
    ({"a": Ref(0, 60)}, OUTSIDE),
    ({"c": Ref(0, 10_000)}, OUTSIDE),
    ({"c": None}, "expected a place"),
    ({"c": Ref(1)}, "overlap"),
    ({"d": Ref(0)}, "expected none"),
    ({"p0": 1e-40}, "out of range"),
]


@pytest.mark.parametrize("code", SINGLE)
@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_contradicts_or_leaves_a_buffer_is_refused(code, change, message):
    program = over(code, 17, 3, whole=True)
    if code == Code.GRU_EACH and change == {"fn": 2}:
        change = {"fn": 1}
        message = "fn"
    if change == {"n": 34}:  # fewer rows are no fault, but then dst is not written to its end
        message = "nothing has written"
    bad = program.map_ops(lambda op: replace(op, **change) if op.code == code else op)
    with pytest.raises(ValueError, match=message):
        write(bad)


@pytest.mark.parametrize("code", SINGLE)
def test_matrices_of_other_types_and_blocks_are_refused(code):
    program = over(code, 16, 3)
    values = program.tensors[0].values
    for tensor in (quantize_groups(values), Tensor(values, block=1), Tensor(values[:-16], block=GATES[code])):
        with pytest.raises(ValueError, match=CONTRADICT):
            write(replace(program, tensors=[replace(tensor, block=tensor.block)]))


@pytest.mark.parametrize("code", SINGLE)
def test_products_are_counted_and_stored_in_int8_at_most(code):
    program = over(code, 5, 7)
    assert program.macs_per_step() == GATES[code] * 5 * 5 * 7
    for weights, kind in {"float32": "float32", "int8": "int8", "int4": "int8", "auto": "int8"}.items():
        stored = quantize(program, weights)
        (row,) = (row for row in inventory(stored) if row["name"] == "hidden")
        assert (row["stored as"], row["shape"]) == (kind, f"{GATES[code] * 5} x 5")
        assert Engine(write(stored)).macs_per_step == program.macs_per_step()
