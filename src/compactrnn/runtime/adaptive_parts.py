"""The parts of a program that ends in an adaptive softmax: the head with all before it, and each cluster of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .._errors import UnsupportedModelError
from .dead_code import drop_dead, output_width, overlap, reads, remove_dead_code, writes
from .program import Binary, Code, Input, Op, Output, Program, Ref, Segment, Unary

_EXPECTED = "expected a model that returns the log_prob of an nn.AdaptiveLogSoftmaxWithLoss at every step"


@dataclass(frozen=True)
class AdaptiveParts:
    """Programs: `head` gives the log probabilities of the `shortlist` and of all clusters, then what `clusters` read.

    Cluster i gives those of its own words. Its inputs are the outputs of the head of the numbers `reads[i]`.
    """

    shortlist: int
    head: Program
    clusters: tuple[Program, ...]
    reads: tuple[tuple[int, ...], ...]


def split(program: Program) -> AdaptiveParts:
    """The parts of a program. Each operation is in one of them, so that what they give has the same bits.

    Raises:
        UnsupportedModelError: it has no such output, or needs whole sequences.
    """
    if program.offline:
        raise UnsupportedModelError(f"{_EXPECTED}, got one that needs whole sequences")
    found = next((found for output in program.outputs if (found := _clusters(program, output))), None)
    if found is None:
        raise UnsupportedModelError(f"{_EXPECTED}, got none among {', '.join(o.name for o in program.outputs)}")
    head, shortlist, results = found
    common = {id(op) for op in drop_dead(replace(program, outputs=[head])).ops}
    taken: list[Ref] = [head.ref]
    clusters, numbers = [], []
    for result in results:
        needed = drop_dead(replace(program, outputs=[result])).ops
        own = tuple(op for op in needed if id(op) not in common)
        read = _read(program, own, common)
        taken += [ref for ref in read if ref not in taken]
        numbers.append(tuple(taken.index(ref) for ref in read))
        clusters.append(_alone(program, own, read, result))
    widths = [program.buffers[ref.buffer].width for ref in taken]
    outputs = [head, *(Output(f"read{i}", ref, (widths[i],)) for i, ref in enumerate(taken) if i)]
    return AdaptiveParts(
        shortlist, remove_dead_code(replace(program, outputs=outputs)), tuple(clusters), tuple(numbers)
    )


def _clusters(program: Program, output: Output) -> tuple[Output, int, list[Output]] | None:
    """The whole output of the head, the length of the shortlist, and the output of each cluster."""
    makers = {op.dst: op for op in program.ops}
    place, n = output.ref, output_width(output)
    copies = [op for op in program.ops if any(overlap(ref, width, place, n) for ref, width in writes(op))]
    copies.sort(key=lambda op: op.dst.offset)
    if len(copies) < 2 or any(op.code != Code.UNARY or op.fn != Unary.COPY for op in copies):
        return None
    at = place.offset
    for op in copies:
        if op.dst.offset != at:
            return None
        at += op.n
    first, *rest = copies
    head = makers.get(first.a) if first.a else None
    if at != place.offset + n or head is None or head.code != Code.LOG_SOFTMAX:
        return None
    if head.n != first.n + len(rest) or head.k != head.n or program.buffers[head.dst.buffer].width != head.n:
        return None
    for number, op in enumerate(rest):
        total = makers.get(op.a) if op.a else None
        if total is None or (total.code, total.fn, total.n, total.k) != (Code.BINARY, Binary.ADD, op.n, 1):
            return None
        tail = makers.get(total.a) if total.a else None
        if tail is None or (tail.code, tail.n, tail.k) != (Code.LOG_SOFTMAX, op.n, op.n):
            return None
        if total.b != Ref(head.dst.buffer, head.dst.offset + first.n + number):
            return None
    results = [Output("log_prob", op.a, (op.n,)) for op in rest if op.a]
    return Output("head", head.dst, (head.n,)), first.n, results


def _read(program: Program, own: tuple[Op, ...], common: set[int]) -> list[Ref]:
    """The buffers of the head that operations read, once they have been written for good."""
    made = {ref.buffer for op in own for ref, _ in writes(op)}
    kinds = [buffer.kind for buffer in program.buffers]
    found = dict.fromkeys(
        Ref(ref.buffer)
        for op in own
        for ref, _ in reads(op)
        if kinds[ref.buffer] != "constant" and ref.buffer not in made
    )
    own_ids, begun = {id(op) for op in own}, set()
    for op in program.ops:
        if id(op) in own_ids:
            begun |= {ref.buffer for ref, _ in reads(op)}
        elif id(op) in common and any(ref.buffer in begun | made for ref, _ in writes(op)):
            raise UnsupportedModelError(f"{_EXPECTED}, got one in which a cluster reads what is then overwritten")
    return list(found)


def _alone(program: Program, own: tuple[Op, ...], read: list[Ref], result: Output) -> Program:
    """The program of one step of these operations, which reads buffers as inputs."""
    given = {ref.buffer for ref in read}
    buffers = [
        replace(b, kind="input", init=None) if i in given else replace(b, kind="scratch") if b.kind == "sequence" else b
        for i, b in enumerate(program.buffers)
    ]
    inputs = [Input(f"read{i}", ref.buffer, (buffers[ref.buffer].width,)) for i, ref in enumerate(read)]
    parts = {"segments": [Segment("forward", own)], "inputs": inputs, "outputs": [result], "states": [], "metadata": {}}
    return remove_dead_code(replace(program, buffers=buffers, **parts))
