"""Lowering of one direction of a recurrent layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells import AbstractCell, DeltaCell, Projected
from ..emit.builder import LAST, Builder, Operand
from ..emit.delta import held
from ..emit.factor import Factor
from ..emit.recurrent import Starts, apart, frame_by_frame, gru_step, lstm_step, new_states, write_states
from ..runtime.program import Unary
from .factors import factors
from .step import lower_ahead, lower_step
from .visitor import Visitor, array


def lower_cell(
    visitor: Visitor,
    cell: AbstractCell,
    x: Operand,
    initial: Sequence[Tensor | Operand],
    name: Callable[[str], str] = str,
    state_name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """The cell run over `x`, (T, 1, input): its output, (T, 1, output), and its states, (1, size) each.

    `name` gives the name in the model of a part of the cell, such as "hidden", `state_name` that of a state.
    """
    builder = visitor.builder
    starts: Starts = {}
    for spec, start, bounded in zip(cell.states, initial, _bounded_states(cell, x, initial), strict=True):
        value = replace(start, shape=(start.width,)) if isinstance(start, Operand) else array(start).ravel()
        starts[state_name(spec.name)] = value, bounded
    states = [replace(state, shape=(1, state.width)) for state in new_states(builder, x, starts)]
    x = replace(x, segment=builder.segment)
    if x.rate > 1 and cell.steps_ahead:
        raise UnsupportedModelError(f"{builder.where}: reads later steps, of which a step of the engine has {x.rate}")

    if cell.steps_ahead and visitor.mover.missing(x):
        raise UnsupportedModelError(
            f"{builder.where}: reads later steps, and gets fewer steps than the sequence has: pad what is before it"
        )

    def of_frame(x: Operand) -> Operand:
        y, after = cell_step(visitor, cell, x, states, name, in_place=True)
        y = apart(builder, y, states)
        write_states(builder, states, after)
        return y

    y = frame_by_frame(builder, x, of_frame)
    return y, [replace(state, kind=LAST, bounded=False) for state in states]


def cell_step(
    visitor: Visitor,
    cell: AbstractCell,
    x: Operand,
    states: list[Operand],
    name: Callable[[str], str] = str,
    in_place: bool = False,
) -> tuple[Operand, list[Operand]]:
    """The output, (T, 1, output), and the states after one step from `states`, (1, size) each.

    With `in_place` the states may be written, and of a delay line that `push` updates there is the new row alone.
    """
    if isinstance(cell, DeltaCell) and cell.plain["kernel"] and len(cell.reads) == 1:
        return _delta(visitor.builder, cell, x, states, name, in_place)
    fused = {"lstm": _lstm, "gru": _gru}.get(cell.kernel)
    if fused is None:
        return _generic(visitor, cell, x, states, name, in_place)
    if cell.kernel == "lstm" and not in_place:
        states = [states[0], visitor.builder.unary(Unary.COPY, states[1])]
    y, after = fused(visitor.builder, cell, x, states, name)
    return replace(y, shape=(x.shape[0], 1, y.width), time=0), after


def _lstm(
    builder: Builder, cell: Any, x: Operand, states: list[Operand], name: Callable[[str], str], fused: bool = True
) -> tuple[Operand, list[Operand]]:
    both = None if cell.input_bias is None else array(cell.input_bias + cell.hidden_bias)
    matrices = factors(cell.input), factors(cell.hidden)
    return lstm_step(builder, x, states, *matrices, both, _projection(cell), name, fused)


def _gru(
    builder: Builder, cell: Any, x: Operand, states: list[Operand], name: Callable[[str], str], fused: bool = True
) -> tuple[Operand, list[Operand]]:
    b_ih, b_hh = (None if b is None else array(b) for b in (cell.input_bias, cell.hidden_bias))
    matrices = factors(cell.input), factors(cell.hidden)
    return gru_step(builder, x, states, *matrices, b_ih, b_hh, _projection(cell), name, fused)


def _delta(
    builder: Builder,
    cell: DeltaCell,
    x: Operand,
    states: list[Operand],
    name: Callable[[str], str],
    in_place: bool,
) -> tuple[Operand, list[Operand]]:
    """An LSTM or GRU whose matrices are multiplied with references, which each product then sees change."""
    of_x, of_h = cell.thresholds.tolist()
    h, *rest = states[:-2]
    row = replace(x, shape=(x.shape[0], x.width), time=0)
    row = held(builder, row, replace(states[-2], shape=row.shape, time=0), of_x)
    read = held(builder, h, states[-1], of_h)
    if cell.plain["kernel"] == "lstm":
        c = rest[0] if in_place else builder.unary(Unary.COPY, rest[0])
        y, after = _lstm(builder, cell.plain_cell(), row, [read, c], name, fused=False)
    else:
        y, after = _gru(builder, cell.plain_cell(), row, [read, h], name, fused=False)
    after += [replace(states[-2], ref=row.ref), replace(states[-1], ref=read.ref)]
    return replace(y, shape=(x.shape[0], 1, y.width), time=0), after


def _projection(cell: AbstractCell) -> list[Factor]:
    return factors(cell.projection) if isinstance(cell, Projected) else []


def _bounded_states(cell: AbstractCell, x: Operand, initial: Sequence[Tensor | Operand]) -> list[bool]:
    """Which states are proven never to leave [-1, 1]."""
    small = [s.bounded if isinstance(s, Operand) else bool((s.abs() <= 1).all()) for s in initial]
    if isinstance(cell, DeltaCell) and len(cell.reads) == 1:
        own = _bounded_states(cell.plain_cell(), x, initial[:-2])
        return [*own, x.bounded, own[0]] if any(own) else [False] * len(small)
    if cell.kernel == "lstm":
        return [small[0] and not isinstance(cell, Projected), False]
    if cell.kernel == "gru":
        return [False, small[1]] if isinstance(cell, Projected) else small
    return [False] * len(small)


def _generic(
    visitor: Visitor, cell: AbstractCell, x: Operand, states: list[Operand], name: Callable[[str], str], in_place: bool
) -> tuple[Operand, list[Operand]]:
    """Any cell, by exporting its `project` and `step`."""
    build, steps = visitor.builder, x.shape[0]
    rows = replace(x, shape=(steps, x.width), time=0)
    if cell.steps_ahead:
        rows = lower_ahead(visitor, cell, rows, name)
        build.place([rows])
    segment, here = build.segment, build.place([])
    held = [replace(s, shape=(steps, s.width), time=0, kind=here, segment=segment, bounded=False) for s in states]
    y, *after = lower_step(visitor, cell, rows, held, name, pushed=in_place)
    if build.segment != segment:
        raise UnsupportedModelError(
            f"{type(cell).__name__}.step: mixes the rows of a batch; each must be computed independently"
        )
    return replace(y, shape=(steps, 1, y.width), time=0), [replace(s, shape=(1, s.width), time=None) for s in after]


def initial_states(cell: AbstractCell, given: list[Tensor]) -> list[Tensor]:
    """The cell's states before the first step, (1, size) each, of which the first may be `given`."""
    with torch.no_grad():
        return [*given, *cell.initial_states(1)[len(given) :]]
