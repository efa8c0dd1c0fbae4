"""One direction of one recurrent layer as operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..emit.builder import LAST, STEP, Builder, Operand, can_interleave, interleaved
from ..runtime.gates import gate_rows
from ..runtime.program import Code, Ref, Unary
from ..runtime.program import Tensor as Stored
from .factors import factors
from .step import lower_step
from .visitor import array


def bias(builder: Builder, parameter: Tensor | None) -> Ref | None:
    """A bias as a constant buffer, None without one."""
    return None if parameter is None else builder.constant(array(parameter))


def lower_cell(
    builder: Builder,
    cell: AbstractCell,
    x: Operand,
    initial: list[Tensor],
    name: Callable[[str], str] = str,
    state_name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """The cell run over `x`, (T, 1, input): its output, (T, 1, output), and its states, (1, size) each.

    `name` gives the name in the model of a part of the cell, such as "hidden", `state_name` that of a state.
    """
    builder.place([x])
    x = replace(x, segment=builder.segment)
    states = []
    for spec, start, bounded in zip(cell.states, initial, _bounded_states(cell, initial), strict=True):
        ref = builder.state(state_name(spec.name), array(start).ravel(), (start.numel(),), bounded)
        states.append(Operand(ref, (1, start.numel()), None, STEP, builder.segment, bounded))
    y, after = cell_step(builder, cell, x, states, name, in_place=True)
    y = apart(builder, y, states)
    write_states(builder, states, after)
    return y, [replace(state, kind=LAST, bounded=False) for state in states]


def cell_step(
    builder: Builder,
    cell: AbstractCell,
    x: Operand,
    states: list[Operand],
    name: Callable[[str], str] = str,
    in_place: bool = False,
) -> tuple[Operand, list[Operand]]:
    """The output, (T, 1, output), and the states after one step from `states`, (1, size) each.

    With `in_place` the states may be written.
    """
    fused = {"lstm": _lstm, "gru": _gru}.get(cell.kernel)
    if fused is None:
        return _generic(builder, cell, x, states, name)
    if cell.kernel == "lstm" and not in_place:
        states = [states[0], builder.unary(Unary.COPY, states[1])]
    output, bounded, after = fused(builder, cell, x, states, name)
    y = Operand(output, (x.shape[0], 1, cell.output_size), 0, STEP, builder.segment, bounded)
    return y, [replace(state, ref=ref, kind=STEP) for state, ref in zip(states, after, strict=True)]


def _bounded_states(cell: AbstractCell, initial: list[Tensor]) -> list[bool]:
    """Which states are proven never to leave [-1, 1]."""
    small = [bool((start.abs() <= 1).all()) for start in initial]
    if cell.kernel == "lstm":
        return [small[0] and cell.projection is None, False]
    return small if cell.kernel == "gru" else [False] * len(small)


def _lstm(
    builder: Builder, cell: Any, x: Operand, states: list[Operand], name: Callable[[str], str]
) -> tuple[Ref, bool, list[Ref]]:
    """i, f, g, o = split(b + W x + U h); c = sig(f) c + sig(i) tanh(g); h = sig(o) tanh(c), or P of that."""
    h, c = states
    both = None if cell.input_bias is None else cell.input_bias + cell.hidden_bias
    before = replace(h, shape=(cell.output_size,), time=None)
    inputs, hidden = factors(cell.input), factors(cell.hidden)
    if _fits_kernel(inputs, hidden, 4):
        gates = _from_input(builder, inputs, x, both, 4, name("input"))
        out = builder.gates(Code.LSTM, c.width, gates, hidden, before, name("hidden"), b=c.ref)
    else:
        gates = builder.chain(inputs, x, bias(builder, both), name("input"))
        gates = builder.chain(hidden, before, gates, name("hidden"))
        out = builder.lstm_cell(Operand(gates, (4 * c.width,), None, STEP, builder.segment), c.ref).ref
    if cell.projection is None:
        return out, True, [out, c.ref]
    cells = Operand(out, (c.width,), None, STEP, builder.segment, True)
    out = builder.chain(factors(cell.projection), cells, None, name("projection"))
    return out, False, [out, c.ref]


def _gru(
    builder: Builder, cell: Any, x: Operand, states: list[Operand], name: Callable[[str], str]
) -> tuple[Ref, bool, list[Ref]]:
    """r, z = sig(..); n = tanh(Wn x + bn + r (Un h + cn)); h = (1 - z) n + z h."""
    (h,) = states
    n = cell.output_size
    before = replace(h, shape=(n,), time=None)
    inputs, hidden = factors(cell.input), factors(cell.hidden)
    if not _fits_kernel(inputs, hidden, 3):
        sums = (
            builder.chain(inputs, x, bias(builder, cell.input_bias), name("input")),
            builder.chain(hidden, before, bias(builder, cell.hidden_bias), name("hidden")),
        )
        from_input, from_state = (Operand(ref, (3 * n,), None, STEP, builder.segment) for ref in sums)
        return (out := builder.gru_cell(from_input, from_state, before).ref), h.bounded, [out]
    to_gates = to_candidate = None
    if cell.input_bias is not None:
        to_candidate = cell.hidden_bias[2 * n :]
        to_gates = cell.input_bias + torch.cat([cell.hidden_bias[: 2 * n], torch.zeros_like(to_candidate)])
    gates = _from_input(builder, inputs, x, to_gates, 3, name("input"))
    own = bias(builder, to_candidate)
    out = builder.gates(Code.GRU, n, gates, hidden, before, name("hidden"), b=own, d=h.ref)
    return out, h.bounded, [out]


def _fits_kernel(inputs: list[Stored], hidden: list[Stored], gates: int) -> bool:
    """Whether the kernel of the whole step can have the rows of both matrices in its order."""
    return all(can_interleave(factors[0], gates) for factors in (inputs, hidden))


def _from_input(builder: Builder, factors: list[Stored], x: Operand, both: Tensor | None, gates: int, name: str) -> Ref:
    """`both` + W x, the gates in the order of the kernels."""
    first, *rest = factors
    init = None if both is None else builder.constant(gate_rows(array(both), gates))
    return builder.chain([interleaved(first, gates), *rest], x, init, name)


def _generic(
    builder: Builder, cell: AbstractCell, x: Operand, states: list[Operand], name: Callable[[str], str]
) -> tuple[Operand, list[Operand]]:
    """Any cell, from its own `project` and `step`."""
    steps = x.shape[0]
    rows = replace(x, shape=(steps, x.width), time=0)
    held = [replace(s, shape=(steps, s.width), time=0, kind=STEP, bounded=False) for s in states]
    y, *after = lower_step(builder, cell, rows, held, name)
    if builder.segment != x.segment:
        raise UnsupportedModelError(
            f"{type(cell).__name__}.step: combines rows of the batch; wanted each apart, as an engine runs one"
        )
    return replace(y, shape=(steps, 1, y.width), time=0), [replace(s, shape=(1, s.width), time=None) for s in after]


def write_states(builder: Builder, states: list[Operand], after: list[Operand]) -> None:
    """Let the states be `after` from now on, which may live in other states."""
    changed = [(s, apart(builder, value, states)) for s, value in zip(states, after, strict=True) if value.ref != s.ref]
    for state, value in changed:
        builder.emit(Code.UNARY, state.ref, state.width, a=value.ref, fn=int(Unary.COPY))


def apart(builder: Builder, value: Operand, states: list[Operand]) -> Operand:
    """A copy of what lives in a state, which is about to change."""
    if value.ref.buffer in {s.ref.buffer for s in states}:
        return builder.unary(Unary.COPY, value, bounded=value.bounded)
    return value


def initial_states(cell: AbstractCell, given: list[Tensor] | None) -> list[Tensor]:
    """The cell's states before the first step, (1, size) each."""
    with torch.no_grad():
        return list(cell.initial_states(1)) if given is None else given
