"""Move matrix products out of the recurrence, so that they run for many time steps at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from .dead_code import overlap, reads, writes
from .layout import MAX_SEGMENTS
from .program import Code, Op, Program, Ref, Segment, Unary

_SMALLEST = 1024  # products: a smaller matrix costs less to read again than a segment of its own


def hoist(program: Program, smallest: int = _SMALLEST) -> Program:
    """The same program, bit for bit, in which each `AFFINE` outside all recurrences is a segment of its own.

    A segment of one matrix reads it once for several steps of a sequence. Forward segments are split, for matrices of
    `smallest` numbers or more. Operations that use the same state, or scratch that other segments use too, stay
    together, and so do those between them; other scratch that a later part reads becomes a sequence, and so does the
    result of a product that stands alone.
    """
    common = {i for i, by in program.users().items() if len(by) > 1 and program.buffers[i].kind == "scratch"}
    segments: list[Segment] = []
    kept: set[int] = set()
    for segment in program.segments:
        parts = _split(program, segment, common, smallest)
        segments += parts
        kept |= {i for i, by in Program(segments=parts).users().items() if len(by) > 1}
        kept |= {part.ops[0].dst.buffer for part in parts if _is_product(part, smallest)}
    if len(segments) > MAX_SEGMENTS:
        return program
    buffers = [
        replace(b, kind="sequence") if b.kind == "scratch" and i in kept - common else b
        for i, b in enumerate(program.buffers)
    ]
    return replace(program, segments=segments, buffers=buffers)


def _is_product(part: Segment, smallest: int) -> bool:
    return part.kind == "forward" and len(part.ops) == 1 and _is_large(part.ops[0], smallest)


def _split(program: Program, segment: Segment, common: set[int], smallest: int) -> list[Segment]:
    """The parts of a segment, in the order in which they run."""
    if segment.kind != "forward":
        return [segment]
    ops = _read_sources(program, segment)
    looked_up = {op.dst.buffer for op in ops if _is_constant(program, op)}  # cheaper than to keep a row for each step
    together = {i for i, b in enumerate(program.buffers) if b.kind == "state"} | common | looked_up
    after = _order(ops, together)
    parts = _components(after)
    alone = {
        number
        for number, part in enumerate(parts)
        if len(part) == 1 and _is_large(ops[part[0]], smallest) and ops[part[0]].dst.buffer not in together
    }
    groups = _schedule(parts, after, alone) if alone else [list(range(len(ops)))]
    return [Segment("forward", tuple(ops[i] for i in sorted(group))) for group in groups]


def _read_sources(program: Program, segment: Segment) -> tuple[Op, ...]:
    """The operations, reading what was copied to a state in this step where it was copied from.

    So what reads the states of two layers, to give them out side by side, does not tie the layers together.
    """
    source: dict[int, tuple[Ref, int]] = {}  # by state: the place that it is a copy of, and its width
    ops = []
    for op in segment.ops:
        op = replace(op, **{name: _source(op, getattr(op, name), source) for name in "abcd"})
        ops.append(op)
        for ref, width in writes(op):
            source = {b: place for b, place in source.items() if b != ref.buffer and not overlap(*place, ref, width)}
        if op.code == Code.UNARY and op.fn == Unary.COPY and op.a is not None:
            whole = program.buffers[op.dst.buffer]
            if whole.kind == "state" and whole.width == op.n and program.buffers[op.a.buffer].kind == "scratch":
                source[op.dst.buffer] = op.a, op.n
    return tuple(ops)


def _source(op: Op, ref: Ref | None, source: dict[int, tuple[Ref, int]]) -> Ref | None:
    """Where to read `ref` instead; a place that the operation writes, or a copy of it, stays."""
    if ref is None or ref.buffer not in source:
        return ref
    place, width = source[ref.buffer]
    if any(ref.buffer == written.buffer or overlap(place, width, written, n) for written, n in writes(op)):
        return ref
    return Ref(place.buffer, place.offset + ref.offset)


def _is_constant(program: Program, op: Op) -> bool:
    """Whether it looks up the same row at every step."""
    return op.code == Code.EMBED and op.a is not None and program.buffers[op.a.buffer].kind == "constant"


def _is_large(op: Op, smallest: int) -> bool:
    return op.code == Code.AFFINE and op.n * op.k >= smallest


def _order(ops: tuple[Op, ...], together: set[int]) -> list[set[int]]:
    """For each operation those that must not come in an earlier part; both ways for those that stay together.

    These are the writers of a buffer, and all users of the buffers of `together`.
    """
    after: list[set[int]] = [set() for _ in ops]
    readers: dict[int, list[int]] = {}
    writers: dict[int, list[int]] = {}
    for i, op in enumerate(ops):
        for ref, _ in writes(op):
            writers.setdefault(ref.buffer, []).append(i)
        for ref, _ in reads(op):
            readers.setdefault(ref.buffer, []).append(i)
    for buffer, writing in writers.items():
        reading = readers.get(buffer, [])
        for i, j in pairwise(sorted({*writing, *reading}) if buffer in together else writing):
            after[i].add(j)
            after[j].add(i)
        for i in writing:
            for j in reading:
                if i < j:
                    after[i].add(j)
                elif _overwrites(ops[i], ops[j]):
                    after[j].add(i)
    return after


def _overwrites(later: Op, reader: Op) -> bool:
    return any(overlap(*written, *read) for written in writes(later) for read in reads(reader))


def _components(after: list[set[int]]) -> list[list[int]]:
    """The sets of operations that are connected both ways, in an order that keeps `after` (Kosaraju's algorithm)."""
    before: list[set[int]] = [set() for _ in after]
    for i, others in enumerate(after):
        for j in others:
            before[j].add(i)
    seen: set[int] = set()
    finished: list[int] = []
    for start in range(len(after)):
        _visit(start, after, seen, finished)
    seen.clear()
    parts = []
    for start in reversed(finished):
        part: list[int] = []
        _visit(start, before, seen, part)
        if part:
            parts.append(part)
    return parts


def _visit(start: int, edges: list[set[int]], seen: set[int], finished: list[int]) -> None:
    """Depth first from `start`; nodes are added to `finished` when all that they lead to are."""
    if start in seen:
        return
    seen.add(start)
    path = [(start, iter(edges[start]))]
    while path:
        node, rest = path[-1]
        following = next((i for i in rest if i not in seen), None)
        if following is None:
            finished.append(node)
            path.pop()
        else:
            seen.add(following)
            path.append((following, iter(edges[following])))


def _schedule(parts: list[list[int]], after: list[set[int]], alone: set[int]) -> list[list[int]]:
    """Operations by segment: in turn all parts that can run together, and each of `alone` that waits for nothing."""
    part_of = {i: number for number, part in enumerate(parts) for i in part}
    needs: list[set[int]] = [set() for _ in parts]
    for i, others in enumerate(after):
        for j in others:
            if part_of[i] != part_of[j]:
                needs[part_of[j]].add(part_of[i])
    done: set[int] = set()
    groups = []
    while len(done) < len(parts):
        together = []
        for number, part in enumerate(parts):  # in an order in which each comes after what it needs
            if number not in done and number not in alone and needs[number] <= done:
                done.add(number)
                together += part
        if together:
            groups.append(together)
        ready = [number for number in sorted(alone - done) if needs[number] <= done]
        done.update(ready)
        groups += [parts[number] for number in ready]
    return groups
