"""Dead-code elimination: drop operations, buffers and tensors that no output depends on."""

from __future__ import annotations

from dataclasses import replace

from .operations import OPERATIONS, WIDTHS
from .program import Op, Output, Program, Ref


def remove_dead_code(program: Program) -> Program:
    """The same program without dead operations, unused buffers and unused tensors."""
    return _drop_unused(drop_dead(program))


def drop_dead(program: Program) -> Program:
    """The same program without operations that neither an output nor a state depends on, its numbers as they were."""
    kinds = [b.kind for b in program.buffers]
    used: dict[int, list[tuple[Ref, int]]] = {}  # by buffer: what later operations and outputs read
    for output in program.outputs:
        used.setdefault(output.ref.buffer, []).append((output.ref, output_width(output)))
    segments = []
    for segment in reversed(program.segments):
        alive = []
        for op in reversed(segment.ops):
            if any(
                kinds[ref.buffer] == "state" or any(overlap(ref, width, *place) for place in used.get(ref.buffer, ()))
                for ref, width in writes(op)
            ):
                alive.append(op)
                for ref, width in reads(op):
                    used.setdefault(ref.buffer, []).append((ref, width))
        segments.append(replace(segment, ops=tuple(reversed(alive))))
    return replace(program, segments=segments[::-1])


def reads(op: Op) -> list[tuple[Ref, int]]:
    """What an operation reads: places and widths."""
    operation, k = OPERATIONS[op.code], op.k or op.n
    places = [(getattr(op, name), operand.width) for name, operand in operation.operands.items()]
    places += [(op.dst, operation.keeps)] if operation.keeps else []
    widths = [(ref, WIDTHS[width](op.n, k)) for ref, width in places if ref is not None]
    return [(ref, width) for ref, width in widths if width]


def writes(op: Op) -> list[tuple[Ref, int]]:
    """What an operation writes: places and widths."""
    operation = OPERATIONS[op.code]
    updated = [(getattr(op, name), operand.width) for name, operand in operation.operands.items() if operand.updated]
    places = [(op.dst, operation.writes), *updated]
    return [(ref, WIDTHS[width](op.n, op.k or op.n)) for ref, width in places if ref is not None]


def overlap(p: Ref, p_width: int, q: Ref, q_width: int) -> bool:
    """Whether two places have a number in common.

    >>> overlap(Ref(0, 0), 4, Ref(0, 3), 1), overlap(Ref(0, 0), 4, Ref(0, 4), 1)
    (True, False)
    """
    return p.buffer == q.buffer and p.offset < q.offset + q_width and q.offset < p.offset + p_width


def output_width(output: Output) -> int:
    """Numbers in one row of an output."""
    width = 1
    for size in output.shape:
        width *= size
    return width


def _drop_unused(program: Program) -> Program:
    buffers = {p.buffer for p in (*program.inputs, *program.states)} | {o.ref.buffer for o in program.outputs}
    tensors = {op.tensor for op in program.ops if op.tensor is not None}
    for op in program.ops:
        buffers |= {ref.buffer for ref in op.refs}
    new_buffer = {old: new for new, old in enumerate(sorted(buffers))}
    new_tensor = {old: new for new, old in enumerate(sorted(tensors))}

    def move(ref: Ref | None) -> Ref | None:
        return None if ref is None else Ref(new_buffer[ref.buffer], ref.offset)

    def change(op: Op) -> Op:
        tensor = None if op.tensor is None else new_tensor[op.tensor]
        dst = Ref(new_buffer[op.dst.buffer], op.dst.offset)
        return replace(op, dst=dst, a=move(op.a), b=move(op.b), c=move(op.c), d=move(op.d), tensor=tensor)

    return replace(
        program.map_ops(change),
        buffers=[program.buffers[i] for i in new_buffer],
        tensors=[program.tensors[i] for i in new_tensor],
        inputs=[replace(i, buffer=new_buffer[i.buffer]) for i in program.inputs],
        outputs=[replace(o, ref=Ref(new_buffer[o.ref.buffer], o.ref.offset)) for o in program.outputs],
        states=[replace(s, buffer=new_buffer[s.buffer]) for s in program.states],
    )
