"""Remove operations that only copy: what they copy is read, or made, in the right place at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from .dead_code import overlap, reads, remove_dead_code, writes
from .operations import OPERATIONS
from .program import Code, Op, Program, Ref, Segment, Unary


def remove_copies(program: Program) -> Program:
    """The same program, bit for bit, without copies of whole rows within a step that make no difference.

    A copy to scratch is left out where its source still is what it was when the copy is read; a copy to a state where
    the source can be made in the state, as nothing asks for what the state was before. A row that is copied into a
    part of another is made there.
    """
    shared = {i for i, by in program.users().items() if len(by) > 1} | {output.ref.buffer for output in program.outputs}
    segments = [_made_in_place(program, segment, shared) for segment in program.segments]
    segments = [_without_copies(program, segment, shared) for segment in segments]
    return remove_dead_code(replace(program, segments=segments))


def _made_in_place(program: Program, segment: Segment, shared: set[int]) -> Segment:
    """The segment without the copies of whole rows to places that nothing else writes."""
    writers: dict[int, list[tuple[int, Ref, int]]] = defaultdict(list)
    readers: dict[int, list[tuple[int, Ref, int]]] = defaultdict(list)
    for number, op in enumerate(segment.ops):
        for users, places in ((writers, writes(op)), (readers, reads(op))):
            for ref, width in places:
                users[ref.buffer].append((number, ref, width))
    moved: dict[int, Ref] = {}
    gone = set()
    for number, op in enumerate(segment.ops):
        if op.code != Code.UNARY or op.fn != Unary.COPY or op.a is None or op.a.buffer == op.dst.buffer:
            continue
        source, copy = op.a.buffer, op.dst.buffer
        if source in moved or source in shared or copy in shared or program.buffers[source].width != op.n:
            continue
        if program.buffers[source].kind != "scratch" or program.buffers[copy].kind != "scratch":
            continue
        again = any(n > number for n, *_ in writers[source])
        taken = any(n != number and overlap(op.dst, op.n, ref, width) for n, ref, width in writers[copy])
        before = any(n < number and overlap(op.dst, op.n, ref, width) for n, ref, width in readers[copy])
        if not (again or taken or before):
            moved[source] = op.dst
            gone.add(number)

    def place(ref: Ref | None) -> Ref | None:
        while ref is not None and ref.buffer in moved:
            ref = Ref(moved[ref.buffer].buffer, moved[ref.buffer].offset + ref.offset)
        return ref

    kept = [op for number, op in enumerate(segment.ops) if number not in gone]
    named = [{name: place(getattr(op, name)) for name in ("dst", "a", "b", "c", "d")} for op in kept]
    return replace(segment, ops=tuple(replace(op, **refs) for op, refs in zip(kept, named, strict=True)))


def _without_copies(program: Program, segment: Segment, shared: set[int]) -> Segment:
    ops = list(segment.ops)
    number = 0
    while number < len(ops):
        change = _change(program, ops, number, shared) if _is_copy(program, ops[number]) else None
        if change is None:
            number += 1
        else:
            ops = [change(op) for n, op in enumerate(ops) if n != number]
            number = 0
    return replace(segment, ops=tuple(ops))


def _is_copy(program: Program, op: Op) -> bool:
    """Whether it copies the whole of one buffer to the whole of another."""
    if op.code != Code.UNARY or op.fn != Unary.COPY or op.a is None:
        return False
    source, copy = program.buffers[op.a.buffer], program.buffers[op.dst.buffer]
    return source.width == copy.width == op.n and op.a.buffer != op.dst.buffer


def _change(program: Program, ops: list[Op], number: int, shared: set[int]) -> Callable[[Op], Op] | None:
    """What to do with the other operations if this copy can go."""
    op = ops[number]
    assert op.a is not None
    source, copy = op.a.buffer, op.dst.buffer
    kinds = program.buffers[source].kind, program.buffers[copy].kind
    if _writers(ops, copy) != [number]:
        return None
    if kinds[1] == "scratch" and kinds[0] in ("scratch", "state") and copy not in shared:
        last = max(_readers(ops, copy), default=number)
        if _readers(ops, copy)[:1] > [number] and not any(number < n <= last for n in _writers(ops, source)):
            return lambda other: _moved(other, copy, source)
    if kinds == ("scratch", "state") and source not in shared and copy not in shared:
        maker, *others = _writers(ops, source)
        between = range(maker + 1, number)
        if not others and maker < number and _may_write(ops[maker], source, copy, program.buffers[copy].width):
            if not any(n in between for n in _readers(ops, copy)):
                return lambda other: _moved(other, source, copy)
    return None


def _writers(ops: list[Op], buffer: int) -> list[int]:
    return [n for n, op in enumerate(ops) if any(ref.buffer == buffer for ref, _ in writes(op))]


def _readers(ops: list[Op], buffer: int) -> list[int]:
    return [n for n, op in enumerate(ops) if any(ref.buffer == buffer for ref, _ in reads(op))]


def _may_write(op: Op, source: int, state: int, width: int) -> bool:
    """Whether an operation may make in `state` what it makes in `source`."""
    operation = OPERATIONS[op.code]
    if [(ref, n) for ref, n in writes(op)] != [(Ref(source), width)] or operation.keeps:
        return False
    places = [(getattr(op, name), operand.in_place) for name, operand in operation.operands.items()]
    return all(ref is None or ref.buffer != state or (in_place and ref == Ref(state)) for ref, in_place in places)


def _moved(op: Op, old: int, new: int) -> Op:
    """The operation with one buffer in another's place."""
    changed = {
        name: Ref(new, ref.offset)
        for name in ("dst", "a", "b", "c", "d")
        if (ref := getattr(op, name)) is not None and ref.buffer == old
    }
    return replace(op, **changed)
