"""One buffer for what lives only within a step, and one for all constants: files and blocks of memory get smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from . import layout as lay
from .gates import LANES, padded
from .program import Buffer, Op, Program, Ref

_MANY = 64  # buffers of scratch: few cost little, and apart they can be told from each other


def share_buffers(program: Program, many: int = _MANY) -> Program:
    """The same program, bit for bit, with its constants in a shared buffer, in which equal ones stand once.

    So is its scratch where there are `many` buffers of it: that of one segment takes the place of scratch that is not
    read any more. What several segments use, and what outputs are, stays as it is.
    """
    users, outputs = program.users(), {output.ref.buffer for output in program.outputs}
    places: dict[int, Ref] = {}
    buffers = list(program.buffers)
    for number, segment in enumerate(program.segments):
        own = [i for i, by in users.items() if by == {number} and buffers[i].kind == "scratch" and i not in outputs]
        offsets, width = _arranged(segment.ops, {i: buffers[i].width for i in own})
        if many <= len(own) and width <= lay.MAX_WIDTH:
            places |= {i: Ref(len(buffers), offset) for i, offset in offsets.items()}
            buffers.append(Buffer(width))
    constants = [i for i in users if buffers[i].kind == "constant" and i not in outputs]
    if len(constants) > 1:
        found, whole = _joined({i: np.ravel(_init(buffers[i])) for i in constants})
        if whole.size <= lay.MAX_WIDTH:
            places |= {i: Ref(len(buffers), offset) for i, offset in found.items()}
            buffers.append(Buffer(whole.size, "constant", whole))
    return _moved(replace(program, buffers=buffers), places) if places else program


def _arranged(ops: tuple[Op, ...], widths: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """An offset for each buffer, so that those that live at the same time lie apart, and the width of all."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, op in enumerate(ops):
        for ref in op.refs:
            if ref.buffer in widths:
                first.setdefault(ref.buffer, number)
                last[ref.buffer] = number
    offsets: dict[int, int] = {}
    living: list[int] = []
    for buffer in sorted(first, key=first.__getitem__):
        living = sorted((i for i in living if last[i] >= first[buffer]), key=offsets.__getitem__)
        at = 0
        for other in living:
            if at + widths[buffer] <= offsets[other]:
                break
            at = offsets[other] + padded(widths[other])
        offsets[buffer] = at
        living.append(buffer)
    return offsets, max((at + widths[i] for i, at in offsets.items()), default=0)


def _joined(arrays: Mapping[int, np.ndarray]) -> tuple[dict[int, int], np.ndarray]:
    """Where each array is in one that has all of them, equal ones once; those of a vector or more at whole lines."""
    offsets: dict[int, int] = {}
    known: dict[bytes, int] = {}
    parts, at = [], 0
    for number, array in sorted(arrays.items(), key=lambda item: -item[1].size):
        key = np.ascontiguousarray(array, np.float32).tobytes()
        if key not in known:
            size = padded(array.size) if array.size >= LANES else array.size
            parts.append(np.pad(np.asarray(array, np.float32), (0, size - array.size)))
            known[key] = at
            at += size
        offsets[number] = known[key]
    return offsets, np.concatenate(parts)


def _init(buffer: Buffer) -> np.ndarray:
    assert buffer.init is not None
    return buffer.init


def _moved(program: Program, places: Mapping[int, Ref]) -> Program:
    kept = [i for i in range(len(program.buffers)) if i not in places]
    new = {old: number for number, old in enumerate(kept)}

    def move(ref: Ref | None) -> Ref | None:
        if ref is None:
            return None
        place = places.get(ref.buffer, Ref(ref.buffer))
        return Ref(new[place.buffer], place.offset + ref.offset)

    def change(op: Op) -> Op:
        dst = move(op.dst)
        assert dst is not None
        return replace(op, dst=dst, a=move(op.a), b=move(op.b), c=move(op.c), d=move(op.d))

    return replace(
        program.map_ops(change),
        buffers=[program.buffers[i] for i in kept],
        inputs=[replace(i, buffer=new[i.buffer]) for i in program.inputs],
        outputs=[replace(o, ref=Ref(new[o.ref.buffer], o.ref.offset)) for o in program.outputs],
        states=[replace(s, buffer=new[s.buffer]) for s in program.states],
    )
