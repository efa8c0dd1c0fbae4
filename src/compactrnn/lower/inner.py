"""Recurrent layers over an axis within a step, as that of frequency, and over many rows of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells import AbstractCell, DeltaCell, Projected
from ..emit.builder import CONSTANT, HELD, STEP, Builder, Operand
from ..emit.convolution import MOST_ROWS
from ..emit.recurrent import Starts, over_sequence
from ..emit.recurrent_rows import Rows, gru_rows, lstm_each, lstm_rows, over_places
from ..graph.leaf import Leaf
from ..runtime.program import Ref, Unary
from . import cell as cells
from .every_layer import run_layers
from .visitor import Visitor, array

FICTION = 17  # a cell's own step is exported for any number of rows; of these all but one are fiction
Each = Callable[[Builder, Operand, list[Operand]], tuple[Operand, list[Operand]]]


def over_axis(visitor: Visitor, leaf: Leaf, x: Operand, states: Sequence[Operand | Tensor]) -> list[Operand]:
    """A layer over (places, steps or 1, inputs), which starts over at every step: its output, its states after it."""
    places, steps, width = x.shape
    if x.rate > 1:
        raise UnsupportedModelError(
            f"{_called(leaf)}: runs over an axis within each frame, of which a step of the engine has {x.rate}"
        )
    x = replace(x, shape=(places, width), time=None)

    def run(layer: int, direction: int, cell: AbstractCell, x: Operand, given: list) -> tuple[Operand, list[Operand]]:
        name = partial(leaf.part_name, layer, direction)
        if cell.steps_ahead:
            raise UnsupportedModelError(f"{_called(leaf)}: reads later places of an axis within each step")
        starts = [_start(visitor, leaf, cell, x, state, number) for number, state in enumerate(given)]
        one = partial(_one_row, visitor, cell, name)
        return over_places(visitor.mover, x, starts, one, _kernel(cell, name), backwards=direction == 1)

    y, after = run_layers(visitor, leaf, x, states, run)
    time = None if steps == 1 else 1
    last = None if steps == 1 else 0
    return [
        replace(y, shape=(places, steps, y.shape[-1]), time=time),
        *(replace(s, shape=(steps, s.width), time=last) for s in after),
    ]


def rows_over_time(visitor: Visitor, leaf: Leaf, x: Operand, states: Sequence[Operand | Tensor]) -> list[Operand]:
    """A layer over the sequence (T, rows, inputs), of which every row has states of its own."""
    rows = x.shape[1]

    def run(layer: int, direction: int, cell: AbstractCell, x: Operand, given: list) -> tuple[Operand, list[Operand]]:
        where = f"{leaf.name}: bidirectional"
        source = visitor.mover.backwards(x, where) if direction else x
        each = _each(visitor, leaf, cell, rows, partial(leaf.part_name, layer, direction))
        starts: Starts = {}
        for number, (spec, start) in enumerate(zip(cell.states, given, strict=True)):
            shape = rows, start.shape[-1]
            if isinstance(start, Operand):
                value, small = visitor.mover.spread(start, shape, None), start.bounded
            else:
                value = np.broadcast_to(array(start), shape).copy()
                small = bool((np.abs(value) <= 1).all())
            bounded = _is_plain(cell) and number == 0 and small
            starts[leaf.state_name(layer, direction, spec.name)] = value, bounded
        y, last = over_sequence(visitor.builder, source, starts, lambda x, s: each(visitor.builder, _rows(x), s))
        last = visitor.mover.final(y, last)
        return visitor.mover.backwards(y, where) if direction else y, last

    y, after = run_layers(visitor, leaf, x, states, run)
    return [y, *after]


def rows_of_step(visitor: Visitor, leaf: Leaf, x: Operand, states: Sequence[Operand | Tensor]) -> list[Operand]:
    """One step of a layer, (1, rows, inputs), of which every row has states of its own, (rows, n) each."""
    rows = x.shape[1]

    def run(layer: int, direction: int, cell: AbstractCell, x: Operand, given: list) -> tuple[Operand, list[Operand]]:
        each = _each(visitor, leaf, cell, rows, partial(leaf.part_name, layer, direction))
        starts = [_state_rows(visitor, cell, x, state, rows, number) for number, state in enumerate(given)]
        y, after = each(visitor.builder, _rows(x), starts)
        return replace(y, shape=(1, rows, y.shape[-1])), after

    y, after = run_layers(visitor, leaf, x, states, run)
    return [y, *after]


def _is_plain(cell: AbstractCell) -> bool:
    """Whether the core has the cell, as torch does."""
    return cell.kernel in ("lstm", "gru") and not isinstance(cell, Projected | DeltaCell)


@torch.no_grad()
def _matrices(cell: AbstractCell) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of input and state, and their biases."""
    weights = [array(part.dense()) for part in (cell.input, cell.hidden)]  # pyright: ignore
    biases = [cell.input_bias, cell.hidden_bias]
    w_bias, r_bias = (np.zeros(len(weights[0]), np.float32) if b is None else array(b) for b in biases)  # pyright: ignore
    return weights[0], weights[1], w_bias, r_bias


def _kernel(cell: AbstractCell, name: Callable[[str], str]) -> Rows | None:
    """All places of an axis in one operation, where the core has it."""
    if not _is_plain(cell):
        return None
    w, r, b_ih, b_hh = _matrices(cell)
    if cell.kernel == "lstm":
        return partial(lstm_rows, weight_ih=w, weight_hh=r, bias=b_ih + b_hh, name=name)
    return partial(gru_rows, weight_ih=w, weight_hh=r, bias_ih=b_ih, bias_hh=b_hh, name=name)


def _each(visitor: Visitor, leaf: Leaf, cell: AbstractCell, rows: int, name: Callable[[str], str]) -> Each:
    """One step of every row: from (rows, inputs) and states, (rows, n), to outputs and new states."""
    if cell.steps_ahead:
        raise UnsupportedModelError(
            f"{_called(leaf)}: reads later steps, of {rows} rows of each sequence; give each row a layer of its own"
        )
    if rows > MOST_ROWS:
        raise UnsupportedModelError(f"{_called(leaf)}: runs over {rows} rows of each sequence; too many")
    if not _is_plain(cell):
        return partial(_one_by_one, visitor, cell, name)
    w, r, b_ih, b_hh = _matrices(cell)
    if cell.kernel == "lstm":
        return lambda build, x, states: lstm_each(visitor.mover, x, states, w, r, b_ih + b_hh, name=name)
    return partial(gru_rows, weight_ih=w, weight_hh=r, bias_ih=b_ih, bias_hh=b_hh, each=True, name=name)


def _one_row(
    visitor: Visitor,
    cell: AbstractCell,
    name: Callable[[str], str],
    build: Builder,
    x: Operand,
    states: Sequence[Operand],
) -> tuple[Operand, list[Operand]]:
    """One step of any cell for (1, inputs)."""
    y, after = cells.cell_step(visitor, cell, replace(x, shape=(FICTION, 1, x.width), time=0), list(states), name)
    return replace(y, shape=(1, y.width), time=None), [replace(s, shape=(1, s.width), time=None) for s in after]


def _one_by_one(
    visitor: Visitor,
    cell: AbstractCell,
    name: Callable[[str], str],
    build: Builder,
    x: Operand,
    states: Sequence[Operand],
) -> tuple[Operand, list[Operand]]:
    """One step of any cell for each of several rows."""

    def part(value: Operand, row: int) -> Operand:
        width = value.shape[-1]
        ref = Ref(value.ref.buffer, value.ref.offset + row * width)
        return replace(value, ref=ref, shape=(1, width), time=None, bounded=False)

    found = [
        _one_row(visitor, cell, name, build, part(x, row), [part(s, row) for s in states]) for row in range(x.shape[0])
    ]
    kinds = zip(*([y, *after] for y, after in found), strict=True)
    y, *after = (
        visitor.materialize(visitor.mover.move(list(parts), lambda a: np.concatenate(a), None)) for parts in kinds
    )
    return y, after


def _rows(x: Operand) -> Operand:
    """The rows of one step."""
    return replace(x, shape=x.shape[1:], time=None)


def _start(
    visitor: Visitor, leaf: Leaf, cell: AbstractCell, x: Operand, state: Operand | Tensor, number: int
) -> Operand:
    """A state before the first place, (1, n), the same at every step or computed in it."""
    if isinstance(state, Operand):
        if state.kind not in (STEP, HELD, x.kind):
            raise UnsupportedModelError(f"{_called(leaf)}: starts from what is known only after the sequence")
        start = replace(state, shape=(1, state.shape[-1]), time=None)
    else:
        if not bool((state == state[:1]).all()):
            raise UnsupportedModelError(f"{_called(leaf)}: starts from other constants at every step")
        start = _constant(visitor, cell, state[:1], number)
    return _own_cell(visitor, cell, x, start, number)


def _state_rows(
    visitor: Visitor, cell: AbstractCell, x: Operand, state: Operand | Tensor, rows: int, number: int
) -> Operand:
    """The states of all rows before a step, (rows, n)."""
    if not isinstance(state, Operand):
        state = _constant(visitor, cell, state.expand(rows, state.shape[-1]), number)
    return _own_cell(visitor, cell, x, replace(state, shape=(rows, state.shape[-1]), time=None), number)


def _constant(visitor: Visitor, cell: AbstractCell, value: Tensor, number: int) -> Operand:
    bounded = _is_plain(cell) and number == 0 and bool((value.abs() <= 1).all())
    ref = visitor.builder.constant(array(value).ravel())
    return Operand(ref, tuple(value.shape), None, CONSTANT, 0, bounded)


def _own_cell(visitor: Visitor, cell: AbstractCell, x: Operand, state: Operand, number: int) -> Operand:
    """A copy of the cell state of an LSTM, which is overwritten."""
    if not _is_plain(cell) or number != 1:
        return state
    kind = visitor.builder.place([x])
    return replace(visitor.builder.unary(Unary.COPY, state), kind=kind, segment=visitor.builder.segment)


def _called(leaf: Leaf) -> str:
    return leaf.name or type(leaf.module).__name__
