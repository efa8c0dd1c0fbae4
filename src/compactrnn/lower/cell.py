"""Lowering of one direction of a recurrent layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells import AbstractCell, Projected
from ..emit.builder import LAST, STEP, Builder, Operand
from ..emit.factor import Factor
from ..emit.recurrent import apart, gru_step, lstm_step, write_states
from ..runtime.program import Unary
from .factors import factors
from .step import lower_ahead, lower_step
from .visitor import Visitor, array


def lower_cell(
    visitor: Visitor,
    cell: AbstractCell,
    x: Operand,
    initial: list[Tensor],
    name: Callable[[str], str] = str,
    state_name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """The cell run over `x`, (T, 1, input): its output, (T, 1, output), and its states, (1, size) each.

    `name` gives the name in the model of a part of the cell, such as "hidden", `state_name` that of a state.
    """
    builder = visitor.builder
    builder.place([x])
    x = replace(x, segment=builder.segment)
    states = []
    for spec, start, bounded in zip(cell.states, initial, _bounded_states(cell, initial), strict=True):
        ref = builder.state(state_name(spec.name), array(start).ravel(), (start.numel(),), bounded)
        states.append(Operand(ref, (1, start.numel()), None, STEP, builder.segment, bounded))
    y, after = cell_step(visitor, cell, x, states, name, in_place=True)
    y = apart(builder, y, states)
    write_states(builder, states, after)
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
    fused = {"lstm": _lstm, "gru": _gru}.get(cell.kernel)
    if fused is None:
        return _generic(visitor, cell, x, states, name, in_place)
    if cell.kernel == "lstm" and not in_place:
        states = [states[0], visitor.builder.unary(Unary.COPY, states[1])]
    y, after = fused(visitor.builder, cell, x, states, name)
    return replace(y, shape=(x.shape[0], 1, y.width), time=0), after


def _lstm(
    builder: Builder, cell: Any, x: Operand, states: list[Operand], name: Callable[[str], str]
) -> tuple[Operand, list[Operand]]:
    both = None if cell.input_bias is None else array(cell.input_bias + cell.hidden_bias)
    return lstm_step(builder, x, states, factors(cell.input), factors(cell.hidden), both, _projection(cell), name)


def _gru(
    builder: Builder, cell: Any, x: Operand, states: list[Operand], name: Callable[[str], str]
) -> tuple[Operand, list[Operand]]:
    b_ih, b_hh = (None if b is None else array(b) for b in (cell.input_bias, cell.hidden_bias))
    matrices = factors(cell.input), factors(cell.hidden)
    return gru_step(builder, x, states, *matrices, b_ih, b_hh, _projection(cell), name)


def _projection(cell: AbstractCell) -> list[Factor]:
    return factors(cell.projection) if isinstance(cell, Projected) else []


def _bounded_states(cell: AbstractCell, initial: list[Tensor]) -> list[bool]:
    """Which states are proven never to leave [-1, 1]."""
    small = [bool((start.abs() <= 1).all()) for start in initial]
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
    segment = build.segment
    held = [replace(s, shape=(steps, s.width), time=0, kind=STEP, segment=segment, bounded=False) for s in states]
    y, *after = lower_step(visitor, cell, rows, held, name, pushed=in_place)
    if build.segment != segment:
        raise UnsupportedModelError(
            f"{type(cell).__name__}.step: mixes the rows of a batch; each must be computed independently"
        )
    return replace(y, shape=(steps, 1, y.width), time=0), [replace(s, shape=(1, s.width), time=None) for s in after]


def initial_states(cell: AbstractCell, given: list[Tensor] | None) -> list[Tensor]:
    """The cell's states before the first step, (1, size) each."""
    with torch.no_grad():
        return list(cell.initial_states(1)) if given is None else given
