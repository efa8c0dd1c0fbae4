"""One direction of one recurrent layer as operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..emit.builder import STEP, Builder, Operand
from ..runtime.gates import gate_rows
from ..runtime.program import Code, Ref, Unary
from ..weights.base import AbstractWeight
from .step import lower_step


def factors(weight: AbstractWeight) -> list[np.ndarray]:
    """What is multiplied at run time, as arrays."""
    return [array(f) for f in weight.factors()]


def array(x: Tensor) -> np.ndarray:
    """A parameter as float32."""
    return x.detach().float().cpu().numpy()


def bias(builder: Builder, parameter: Tensor | None) -> Ref | None:
    """A bias as a constant buffer, None without one."""
    return None if parameter is None else builder.constant(array(parameter))


def lower_cell(
    builder: Builder, cell: AbstractCell, x: Operand, initial: list[Tensor], name: Callable[[str], str] = str
) -> tuple[Operand, list[Operand]]:
    """The cell run over `x`, (T, 1, input): its output, (T, 1, output), and its states, (1, size) each.

    `name` gives the name in the model of a part of the cell, such as "hidden".
    """
    builder.place([x])
    x = replace(x, segment=builder.segment)
    states = [builder.buffer(s.numel(), "state", array(s)) for s in initial]
    small = [bool((s.abs() <= 1).all()) for s in initial]
    fused = {"lstm": _lstm, "gru": _gru}.get(cell.kernel)
    if fused is not None:
        output, bounded = fused(builder, cell, x, states, small, name)
        y = Operand(output, (x.shape[0], 1, cell.output_size), 0, STEP, builder.segment, bounded)
    else:
        y = _generic(builder, cell, x, states, name)
    lasts = [
        Operand(ref, (1, s.numel()), None, "last", builder.segment) for ref, s in zip(states, initial, strict=True)
    ]
    return y, lasts


def _lstm(
    builder: Builder, cell: Any, x: Operand, states: list[Ref], small: list[bool], name: Callable[[str], str]
) -> tuple[Ref, bool]:
    """i, f, g, o = split(b + W x + U h); c = sig(f) c + sig(i) tanh(g); h = sig(o) tanh(c), or P of that."""
    h, c = states
    own = cell.projection is None
    both = None if cell.input_bias is None else cell.input_bias + cell.hidden_bias
    gates = _from_input(builder, cell, x, both, 4, name("input"))
    before = Operand(h, (cell.output_size,), None, STEP, builder.segment, small[0] and own)
    n = builder.program.buffers[c.buffer].width
    out = builder.gates(Code.LSTM, n, gates, factors(cell.hidden), before, name("hidden"), b=c)
    bounded = True
    if not own:
        cells = Operand(out, (n,), None, STEP, builder.segment, True)
        out, bounded = builder.chain(factors(cell.projection), cells, None, name("projection")), False
    builder.emit(Code.UNARY, h, cell.output_size, a=out, fn=int(Unary.COPY))
    return out, bounded


def _gru(
    builder: Builder, cell: Any, x: Operand, states: list[Ref], small: list[bool], name: Callable[[str], str]
) -> tuple[Ref, bool]:
    """r, z = sig(..); n = tanh(Wn x + bn + r (Un h + cn)); h = (1 - z) n + z h."""
    (h,) = states
    n = cell.output_size
    to_gates = to_candidate = None
    if cell.input_bias is not None:
        to_candidate = cell.hidden_bias[2 * n :]
        to_gates = cell.input_bias + torch.cat([cell.hidden_bias[: 2 * n], torch.zeros_like(to_candidate)])
    gates = _from_input(builder, cell, x, to_gates, 3, name("input"))
    before = Operand(h, (n,), None, STEP, builder.segment, small[0])
    own = bias(builder, to_candidate)
    out = builder.gates(Code.GRU, n, gates, factors(cell.hidden), before, name("hidden"), b=own, d=h)
    builder.emit(Code.UNARY, h, n, a=out, fn=int(Unary.COPY))
    return out, small[0]


def _from_input(builder: Builder, cell: Any, x: Operand, both: Tensor | None, gates: int, name: str) -> Ref:
    """`both` + W x, the gates in the order of the kernels."""
    first, *rest = factors(cell.input)
    init = None if both is None else builder.constant(gate_rows(array(both), gates))
    return builder.chain([gate_rows(first, gates), *rest], x, init, name)


def _generic(
    builder: Builder, cell: AbstractCell, x: Operand, states: list[Ref], name: Callable[[str], str]
) -> Operand:
    """Any cell, from its own `project` and `step`."""
    steps = x.shape[0]
    rows = replace(x, shape=(steps, x.width), time=0)
    held = [
        Operand(ref, (steps, builder.program.buffers[ref.buffer].width), 0, STEP, builder.segment) for ref in states
    ]
    y, *after = lower_step(builder, cell, rows, held, name)
    if builder.segment != x.segment:
        raise UnsupportedModelError(
            f"{type(cell).__name__}.step: combines rows of the batch; wanted each apart, as an engine runs one"
        )
    y = _apart(builder, y, states)
    after = [_apart(builder, s, states) for s in after]
    for ref, value in zip(states, after, strict=True):
        builder.emit(Code.UNARY, ref, value.width, a=value.ref, fn=int(Unary.COPY))
    return replace(y, shape=(steps, 1, y.width), time=0)


def _apart(builder: Builder, value: Operand, states: list[Ref]) -> Operand:
    """A copy of what lives in a state, which is about to change."""
    if value.ref.buffer in {s.buffer for s in states}:
        return builder.unary(Unary.COPY, value, bounded=value.bounded)
    return value


def initial_states(cell: AbstractCell, given: list[Tensor] | None) -> list[Tensor]:
    """The cell's states before the first step, (1, size) each."""
    with torch.no_grad():
        return list(cell.initial_states(1)) if given is None else given
