"""Scratch and constants in shared buffers: the bits of what a program gives stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compactrnn as cr
from compactrnn.runtime.arena import share_buffers
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Binary, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Unary
from compactrnn.runtime.quantize import quantize
from compactrnn.testing.programs import random_input, random_program


def bits(program, x):
    found = cr.Engine(write(program)).run(x)
    return [y.tobytes() for y in (found if isinstance(found, tuple) else (found,))]


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(["float32", "int8", "int4"]))
@settings(max_examples=60, deadline=None)
def test_the_bits_of_any_program_stay(seed, offline, weights):
    program = quantize(random_program(seed, 15, offline), weights)
    small, x = share_buffers(program, many=2), random_input(program, 5, seed)
    assert bits(small, x) == bits(program, x)
    assert small.macs_per_step() == program.macs_per_step() and small.offline == program.offline
    scratch = [b for b in small.buffers if b.kind == "scratch"]
    assert len(scratch) <= len([b for b in program.buffers if b.kind == "scratch"])


def chain(length, width=20):
    """x + 1 + 1 + ..., each sum in a buffer of its own, each one of a constant of its own."""
    buffers = [Buffer(width, "input"), *(Buffer(width) for _ in range(length))]
    buffers += [Buffer(1, "constant", np.ones(1, np.float32)) for _ in range(length)]
    ops = [
        Op(Code.BINARY, Ref(i + 1), width, 1, a=Ref(i), b=Ref(length + 1 + i), fn=int(Binary.ADD))
        for i in range(length)
    ]
    ports = [Input("x", 0, (width,))], [Output("y", Ref(length), (width,))]
    return Program(buffers, [], [Segment("forward", tuple(ops))], *ports)


@pytest.mark.parametrize("length", [2, 10, 200])
def test_what_is_read_no_more_makes_room(length):
    program, x = chain(length), np.arange(20, dtype=np.float32)[None]
    small = share_buffers(program, many=2)
    assert np.array_equal(cr.Engine(write(small)).run(x), x + length)
    widths = {(b.kind, b.width) for b in small.buffers}
    own = 20 if length == 2 else 32 + 20  # the last sum is the output, whose place stays its own
    assert widths == {("input", 20), ("scratch", 20), ("scratch", own), ("constant", 1)}
    assert len(small.buffers) == 4
    assert len(write(small)) < len(write(program)) - 2 * 32 * (length - 1)


def test_what_is_read_late_keeps_its_place():
    program = chain(100)
    late = Op(Code.BINARY, Ref(len(program.buffers)), 20, 20, a=Ref(1), b=Ref(100), fn=int(Binary.SUB))
    program.buffers.append(Buffer(20))
    program.segments = [
        Segment("forward", (*program.segments[0].ops, late, Op(Code.UNARY, late.dst, 20, a=late.dst, fn=Unary.ABS)))
    ]
    program.outputs = [Output("y", late.dst, (20,))]
    assert (cr.Engine(write(share_buffers(program))).run(np.ones((1, 20))) == 99).all()
