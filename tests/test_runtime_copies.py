"""Copies that make no difference are removed, and the bits of what a program gives stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.copies import remove_copies
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Binary, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Unary
from compactrnn.testing.programs import random_input, random_program


def copies(program):
    return sum(op.code == Code.UNARY and op.fn == Unary.COPY for op in program.ops)


def check(program, x):
    """The program without copies, after a comparison of what both give."""
    small = remove_copies(program)
    before, after = (cr.Engine(write(p)).run(x) for p in (program, small))
    pairs = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    return small


@given(seed=st.integers(0, 10**6), offline=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_bits_of_any_program_stay_also_with_copies_between_its_operations(seed, offline):
    program, random = random_program(seed, offline=offline), np.random.default_rng(seed)
    buffers, segments = list(program.buffers), []
    for segment in program.segments:
        ops = []
        for op in segment.ops:
            for name in "ab":  # read some operands through a copy
                ref = getattr(op, name)
                if ref is not None and buffers[ref.buffer].kind == "scratch" and random.random() < 0.5:
                    if not any(o.buffer == ref.buffer for o in (op.dst, op.c, op.d) if o is not None):
                        width = buffers[ref.buffer].width
                        buffers.append(Buffer(width))
                        ops.append(Op(Code.UNARY, Ref(len(buffers) - 1), width, a=Ref(ref.buffer), fn=int(Unary.COPY)))
                        op = replace(op, **{name: Ref(len(buffers) - 1, ref.offset)})
            ops.append(op)
        segments.append(replace(segment, ops=tuple(ops)))
    wide = replace(program, buffers=buffers, segments=segments)
    try:
        write(wide)
    except ValueError:
        return  # a copy of a row of which no more than a part was written
    check(wide, random_input(wide, steps=5, seed=seed))


def accumulator(*ops):
    """y_t = x_1 + ... + x_t in a state, buffer 1; `ops` come after the sum in buffer 2 and give buffer 3."""
    buffers = [Buffer(4, "input"), Buffer(4, "state", np.zeros(4, np.float32)), Buffer(4), Buffer(4)]
    add = Op(Code.BINARY, Ref(2), 4, 4, a=Ref(1), b=Ref(0), fn=int(Binary.ADD))
    segment = Segment("forward", (add, *ops))
    return Program(buffers, [], [segment], [Input("x", 0, (4,))], [Output("y", Ref(3), (4,))])


def unary(dst, a, fn=Unary.COPY):
    return Op(Code.UNARY, Ref(dst), 4, a=Ref(a), fn=int(fn))


def test_a_copied_sum_is_made_in_the_state():
    small = check(accumulator(unary(1, 2), unary(3, 2, Unary.TANH)), np.ones((5, 4), np.float32))
    assert len(small.ops) == 2 and copies(small) == 0


@pytest.mark.parametrize(
    "ops",
    [
        (Op(Code.BINARY, Ref(3), 4, 4, a=Ref(1), b=Ref(2), fn=int(Binary.SUB)), unary(1, 2)),  # reads the old state
        (unary(1, 2), unary(3, 1)),  # the copy is the output
    ],
)
def test_a_copy_that_makes_a_difference_stays(ops):
    program = accumulator(*ops)
    assert copies(check(program, np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))) >= 1


def joined(*ops, width=8):
    """Buffers 1 and 2 of 4 numbers, made of the input, copied side by side to buffer 3, whose tanh is the output."""
    buffers = [Buffer(4, "input"), Buffer(4), Buffer(4), Buffer(width), Buffer(width)]
    out = Op(Code.UNARY, Ref(4), width, a=Ref(3), fn=int(Unary.TANH))
    parts = unary(1, 0, Unary.ABS), unary(2, 0, Unary.SIGMOID)
    segment = Segment("forward", (*parts, *ops, out))
    return Program(buffers, [], [segment], [Input("x", 0, (4,))], [Output("y", Ref(4), (width,))])


def part(offset, source):
    return Op(Code.UNARY, Ref(3, offset), 4, a=Ref(source), fn=int(Unary.COPY))


X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("ops", "left"),
    [
        ((part(0, 1), part(4, 2)), 0),
        ((part(0, 1), part(4, 1)), 1),  # twice: made in one place, copied to the other
        ((part(0, 1), part(4, 2), unary(1, 2, Unary.TANH)), 1),  # is written again
        ((part(0, 1), part(4, 2), part(0, 2)), 2),  # another one takes its place
        ((part(0, 0), part(4, 2)), 1),  # an input stays where it is
        ((part(0, 1), part(4, 2), Op(Code.UNARY, Ref(3, 2), 4, a=Ref(3, 2), fn=int(Unary.ABS))), 2),
    ],
)
def test_a_row_is_made_where_it_is_copied_to(ops, left):
    assert copies(check(joined(*ops), X)) == left


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_bits_of_any_program_stay_with_rows_that_are_joined(seed):
    program, random = random_program(seed), np.random.default_rng(seed)
    buffers, segments = list(program.buffers), []
    for segment in program.segments:
        ops = []
        for op in segment.ops:
            ops.append(op)
            ref = op.dst
            if buffers[ref.buffer].kind != "scratch" or buffers[ref.buffer].width != op.n or random.random() < 0.4:
                continue
            before, after = (int(n) for n in random.integers(0, 3, 2))
            place = Ref(len(buffers), before)
            buffers.append(Buffer(before + op.n + after))
            ops.append(Op(Code.UNARY, place, op.n, a=ref, fn=int(Unary.COPY)))
            if random.random() < 0.5:
                ops.append(Op(Code.UNARY, ref, op.n, a=place, fn=int(Unary.COPY)))
        segments.append(replace(segment, ops=tuple(ops)))
    check(replace(program, buffers=buffers, segments=segments), random_input(program, steps=4, seed=seed))


@pytest.mark.parametrize("cell", [cr.FastGRNN, cr.MGU, cr.IndRNN, cr.DuRNN], ids=lambda cell: cell.__name__)
def test_cells_write_their_states_at_once(cell):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.rnn = cr.Recurrent(cell, 3, 5, num_layers=2, batch_first=True)
    program = lower(model.rnn, torch.randn(1, 6, 3))
    small = check(program, np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32))
    assert copies(small) < copies(program)
