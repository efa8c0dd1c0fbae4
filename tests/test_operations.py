"""The table of operations in Python against that of the native core, and what is derived from it."""

from enum import IntEnum

import numpy as np
import pytest

from compactrnn.runtime import (
    _native,  # pyright: ignore[reportAttributeAccessIssue]
    layout,
    toeplitz,
)
from compactrnn.runtime.file import write
from compactrnn.runtime.operations import OPERATIONS, WIDTHS, Attend, Binary, Code, Matmul, Over, Reduce, Top, Unary
from compactrnn.runtime.program import Buffer, Input, Op, Output, Program, Ref, Segment
from compactrnn.testing.programs import random_program
from operations_page import PAGE, page


def names(*values: str) -> dict[str, int]:
    return {value.upper(): i for i, value in enumerate(values)}


@pytest.mark.parametrize("enum", [Code, Unary, Binary, Reduce, Top, Matmul, Over, Attend])
def test_codes_and_functions_are_those_of_the_core(enum: type[IntEnum]):
    assert {member.name: member.value for member in enum} == _native.enums[enum.__name__]


def test_kinds_and_types_are_those_of_the_core():
    assert names(*layout.KINDS) == _native.enums["kind"]
    assert names(*layout.SEGMENT_KINDS) == _native.enums["segment"]
    assert {kind.name: kind.value for kind in layout.Type} == _native.enums["type"]
    assert float(np.float32(toeplitz.LARGEST)) == _native.MAX_VECTOR


@pytest.mark.parametrize("code", Code)
def test_operations_are_those_of_the_core(code):
    core, ours = dict(_native.operations[code.name]), OPERATIONS[code]
    operands = (ours.a, ours.b, ours.c, ours.d)
    assert core["operands"] == tuple(o and (o.width, o.in_place, o.optional, o.updated, o.all_steps) for o in operands)
    assert core["k"] == ours.k and core["tensor"] == ours.tensor and core["gates"] == ours.gates
    assert core["parameters"] == ours.parameters and core["writes"] == ours.writes
    assert core["functions"] == (len(ours.functions) if ours.functions else 0)
    padded = "Q" if ours.rows else "P"
    rows = {0: "0", 1: "n"}.get(ours.gates, f"{ours.gates} * {padded}")
    assert core["rows"] == rows
    if ours.gates:
        assert core["work"] == ("n * k" if ours.gates == 1 else f"{ours.gates} * n * k")


def test_the_core_has_no_other_operations():
    assert set(_native.operations) == {code.name for code in OPERATIONS} == {code.name for code in Code}
    assert _native.unary_parameters == tuple(fn.parameters for fn in Unary)


@pytest.mark.parametrize("code", Code)
def test_every_width_is_known(code):
    operation = OPERATIONS[code]
    widths = {operand.width for operand in operation.operands.values()} | {operation.writes}
    assert widths | ({operation.keeps} if operation.keeps else set()) <= set(WIDTHS)


def test_the_page_is_that_of_the_list():
    assert PAGE.read_text() == page(), "write it again: python tests/operations_page.py"


def one(op: Op) -> Program:
    buffers = [Buffer(8, "input"), Buffer(8), Buffer(8, "state")]
    return Program(buffers, [], [Segment("forward", (op,))], [Input("x", 0, (8,))], [Output("y", Ref(1), (2,))])


X, Y, S = Ref(0), Ref(1), Ref(2)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op(Code.SOFTMAX, Y, 8, 8), "SOFTMAX.a: expected a place of n numbers, got None"),
        (Op(Code.UNARY, Y, 8, a=X, b=X), "UNARY.b: expected none, got an operand"),
        (Op(Code.GRU_CELL, Y, 2, a=X, c=X), "GRU_CELL.d: expected a place of n numbers, got None"),
        (Op(Code.LSTM_CELL, Y, 2, 3, a=X, b=S), "LSTM_CELL.k: expected none, got 3"),
        (Op(Code.UNARY, Y, 8, a=X, tensor=1), "UNARY.tensor: expected none, got 1"),
        (Op(Code.SELECT, Y, 8, a=X, b=X, c=X, fn=2), "SELECT.fn: expected none, got 2"),
    ],
)
def test_what_an_operation_lacks_or_has_too_much_is_named(op, message):
    with pytest.raises(ValueError, match=message):
        write(one(op))


def test_random_programs_write_what_their_operations_have():
    for seed in range(10):
        for op in random_program(seed, 12).ops:
            given = {name for name in "abcd" if getattr(op, name) is not None}
            needed = {name for name, operand in OPERATIONS[op.code].operands.items() if not operand.optional}
            assert needed <= given <= set(OPERATIONS[op.code].operands)
