"""Scan: a recurrent layer whose step is a graph of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..._errors import UnsupportedModelError
from ...emit.address import LazyView
from ...emit.builder import STEP, Operand
from ...emit.recurrent import Starts, over_sequence
from ...runtime.program import Ref
from ..folded import Folded, Node, layer_steps, scan_axes
from ..model_file import refuse
from ..visitor import Visitor, handles

_MOST_STEPS = 64  # of a Scan within a step, which are written out


@handles("Scan", lazy=True)
def _scan(visitor: Visitor, node: Node, *given: Any) -> list[Any] | None:
    """The states after the last step, and what the body gives at each; its sequences are read along time."""
    body, axes, mover = node.body, scan_axes(node), visitor.mover
    count = len(given) - len(axes)
    starts, sequences = given[:count], given[count:]
    backwards = _backwards(node, len(axes), len(node.outputs) - count)
    if body is None or backwards is None:
        return None
    if mover.steps is None:
        return _within_step(visitor, node, body, starts, sequences, backwards)
    if not all(isinstance(x, Operand | LazyView) and x.time == a for x, a in zip(sequences, axes, strict=True)):
        raise refuse(node.proto, "is taken along the time axis alone")
    made = {*node.given, *(name for one in body.nodes for name in one.outputs)}
    for name in (*(name for one in body.nodes for name in one.inputs if name), *body.outputs):
        if name not in made and not isinstance(body.values[name], np.ndarray):
            raise refuse(node.proto, f"reads {name!r} within its step, which depends on data: give it as a sequence")
    rows = [_rows(visitor, x, axis) for x, axis in zip(sequences, axes, strict=True)]
    x = mover.materialize(mover.move(rows, lambda arrays: np.concatenate(arrays, 1), 0))
    x = mover.backwards(x, f"{visitor.builder.where}: runs backwards") if backwards else x
    step = _Step(visitor, body, node.given, count)
    y, last = over_sequence(visitor.builder, x, _starts(visitor, node, starts), step)
    if mover.missing(x):
        last = [mover.move([mover.unknown(state.shape)], lambda a: a[0], None) for state in last]
    y = mover.backwards(y, visitor.builder.where) if backwards else y
    results: list[Any] = [_shaped(visitor, s, node.given[n], body) for n, s in enumerate(last)]
    made, at = node.get("scan_output_axes", []) or [0] * len(step.widths), 0
    for name, axis, width in zip(body.outputs[count:], made, step.widths, strict=True):
        shape = body.type_of(name).shape
        axis %= len(shape) + 1
        results.append(
            mover.move(
                [y],
                lambda a, s=shape, d=axis, n=at, w=width: np.moveaxis(a[0][:, n : n + w].reshape(-1, *s), 0, d),
                axis,
                rate=y.rate,
            )
        )
        at += width
    return results


class _Step:
    """One step of a Scan, for `over_sequence`; its output is all that the body gives, side by side."""

    def __init__(self, visitor: Visitor, body: Folded, given: tuple[str, ...], states: int):
        self.visitor, self.body, self.given, self.states = visitor, body, given, states
        self.widths = [math.prod(body.type_of(name).shape) for name in body.outputs[states:]]

    def __call__(self, x: Operand, states: list[Operand]) -> tuple[Operand, list[Operand]]:
        build, at, inner = self.visitor.builder, 0, {}
        segment, where = build.segment, build.where
        for number, name in enumerate(self.given):
            shape = self.body.type_of(name).shape
            if number < self.states:
                inner[name] = replace(states[number], shape=shape, time=None, bounded=False)
            else:
                inner[name] = Operand(Ref(x.ref.buffer, x.ref.offset + at), shape, None, STEP, segment)
                at += math.prod(shape)
        within = Visitor(build, self.visitor.file, self.body, self.body)
        results = [_operand(within, value) for value in within.lower(inner)]
        build.where = where
        if build.segment != segment:
            raise UnsupportedModelError(f"{where}: its step reads what is known after the whole sequence")
        after = [replace(y, shape=s.shape) for y, s in zip(results[: self.states], states, strict=True)]
        given = [replace(y, shape=(y.width,), time=None) for y in results[self.states :] or after[:1]]
        return within.mover.join(given, 0), after


def _within_step(visitor: Visitor, node: Node, body: Folded, starts: Any, sequences: Any, backwards: bool) -> list[Any]:
    """One step of the Scan after the other, within a step of the file."""
    axes, mover, where = scan_axes(node), visitor.mover, visitor.builder.where
    count = layer_steps(visitor.folded, node)
    if not 0 < count <= _MOST_STEPS:
        raise refuse(node.proto, f"runs for {count} steps within each step; 1 to {_MOST_STEPS} are taken")
    states, found = [*starts], []
    for place in range(count)[:: -1 if backwards else 1]:
        parts = [
            mover.move([x], lambda a, p=place, d=d: a[0].take(p, d), None) for x, d in zip(sequences, axes, strict=True)
        ]
        within = Visitor(visitor.builder, visitor.file, body, body)
        inner = [_operand(within, value) for value in (*states, *parts)]
        results = [_operand(within, y) for y in within.lower(dict(zip(node.given, inner, strict=True)))]
        states, found = results[: len(starts)], [*found, results[len(starts) :]]
    visitor.builder.where = where
    columns = zip(*found[:: -1 if backwards else 1], strict=True)
    made = node.get("scan_output_axes", []) or [0] * len(found[0])
    stacked = [mover.move(parts, lambda a, d=d: np.stack(a, d), None) for parts, d in zip(columns, made, strict=True)]
    return [*states, *stacked]


def _operand(within: Visitor, value: Any) -> Operand:
    value = within.materialize(value)
    return within.mover.constant(value) if isinstance(value, np.ndarray) else value


def _backwards(node: Node, inputs: int, outputs: int) -> bool | None:
    """Whether all sequences are read and written from the end on; None where some are."""
    ways = [node.get(f"scan_{part}_directions", []) for part in ("input", "output")]
    found = {*(ways[0] or [0] * inputs), *(ways[1] or [0] * outputs)}
    return bool(found.pop()) if len(found) == 1 else None


def _rows(visitor: Visitor, x: Any, axis: int) -> LazyView:
    """(T, numbers of a step)."""
    return visitor.mover.move([x], lambda a: np.moveaxis(a[0], axis, 0).reshape(a[0].shape[axis], -1), 0)


def _starts(visitor: Visitor, node: Node, given: Any) -> Starts | list[Operand]:
    """What the states start from: constants and what is computed, or all of them states of the stream."""
    parts = [o for s in given for o in (s.operands if isinstance(s, LazyView) else [s])]
    kept = [id(part) in visitor.initial for part in parts]
    if any(kept) and not all(kept):
        raise refuse(node.proto, "starts from a state of the stream in one state and not in another")
    if any(kept):
        found = [visitor.mover.materialize(s) if isinstance(s, LazyView) else s for s in given]
        return [replace(s, shape=(s.width,), kind=STEP) for s in found]
    starts: Starts = {}
    base = node.proto.name or node.outputs[0] or "scan"
    for name, start in zip(node.given, given, strict=False):
        value = visitor.materialize(start)
        flat = value.ravel() if isinstance(value, np.ndarray) else replace(value, shape=(value.width,))
        starts[f"{base}.{name}"] = flat, False
    return starts


def _shaped(visitor: Visitor, state: Any, name: str, body: Folded) -> LazyView:
    shape = body.type_of(name).shape
    return visitor.mover.move([state], lambda a: a[0].reshape(shape), None)
