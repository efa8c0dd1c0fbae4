"""LSTM and GRU layers of one direction, from their matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..runtime.gates import gate_rows
from ..runtime.program import Code, Ref, Unary
from .builder import LAST, STEP, Builder, Operand


def begin(build: Builder, x: Operand, initial: Sequence[np.ndarray]) -> tuple[Operand, list[Operand]]:
    """`x` as the steps of a layer read it, and the layer's states: what they were after the step before."""
    build.place([x])
    states = []
    for value in initial:
        ref, small = build.buffer(value.size, "state", value), bool((np.abs(value) <= 1).all())
        states.append(Operand(ref, (value.size,), None, STEP, build.segment, small))
    return replace(x, segment=build.segment), states


def finish(build: Builder, x: Operand, y: Operand, states: Sequence[Operand]) -> tuple[Operand, list[Operand]]:
    """`y` along the time axis of `x`, and the states as if the sequence ended at this step."""
    rows = x.shape[1:-1]
    lasts = [replace(s, shape=(*rows, s.width), kind=LAST, segment=build.segment, bounded=False) for s in states]
    return replace(y, shape=(x.shape[0], *rows, y.width), time=0), lasts


def lstm(
    build: Builder,
    x: Operand,
    weight_ih: Sequence[np.ndarray],
    weight_hh: Sequence[np.ndarray],
    bias: np.ndarray | None = None,
    *,
    projection: Sequence[np.ndarray] = (),
    initial: Sequence[np.ndarray] | None = None,
    name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """i, f, g, o = split(W x + U h + b); c = sig(f) c + sig(i) tanh(g); h = sig(o) tanh(c), or P of that.

    Args:
        build: what to write to.
        x: (T, inputs) or (T, 1, inputs), time first.
        weight_ih: the factors of W, (4 n, inputs) together, the gates in torch's order i, f, g, o.
        weight_hh: the factors of U, (4 n, outputs).
        bias: the sum of all biases, (4 n,).
        projection: the factors of P, (outputs, n); none without projection.
        initial: h and c before the first step; zeros without.
        name: gives the name of a matrix in the model: of "input", "hidden" or "projection".

    Returns:
        h at every step, in the form of `x`; and h and c after the last.
    """
    n = weight_ih[0].shape[0] // 4
    size = projection[0].shape[0] if projection else n
    x, (h, c) = begin(build, x, [np.zeros(size), np.zeros(n)] if initial is None else initial)
    gates = _from_input(build, x, weight_ih, bias, 4, name("input"))
    before = replace(h, bounded=h.bounded and not projection)
    out = build.gates(Code.LSTM, n, gates, weight_hh, before, name("hidden"), b=c.ref)
    if projection:
        cells = Operand(out, (n,), None, STEP, build.segment, bounded=True)
        out = build.chain(projection, cells, None, name("projection"))
    build.emit(Code.UNARY, h.ref, size, a=out, fn=int(Unary.COPY))
    y = Operand(out, (size,), None, STEP, build.segment, bounded=not projection)
    return finish(build, x, y, [h, c])


def gru(
    build: Builder,
    x: Operand,
    weight_ih: Sequence[np.ndarray],
    weight_hh: Sequence[np.ndarray],
    bias_ih: np.ndarray | None = None,
    bias_hh: np.ndarray | None = None,
    *,
    initial: Sequence[np.ndarray] | None = None,
    name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """r, z = sig(W x + b + U h + c); n = tanh(Wn x + bn + r (Un h + cn)); h = (1 - z) n + z h.

    The gates are in torch's order r, z, n; of the two biases both are given or none. See `lstm` for the rest.
    """
    n = weight_ih[0].shape[0] // 3
    x, (h,) = begin(build, x, [np.zeros(n)] if initial is None else initial)
    to_gates = to_candidate = None
    if bias_ih is not None and bias_hh is not None:
        to_candidate = bias_hh[2 * n :]
        to_gates = bias_ih + np.concatenate([bias_hh[: 2 * n], np.zeros_like(to_candidate)])
    gates = _from_input(build, x, weight_ih, to_gates, 3, name("input"))
    own = None if to_candidate is None else build.constant(to_candidate)
    out = build.gates(Code.GRU, n, gates, weight_hh, h, name("hidden"), b=own, d=h.ref)
    build.emit(Code.UNARY, h.ref, n, a=out, fn=int(Unary.COPY))
    return finish(build, x, Operand(out, (n,), None, STEP, build.segment, h.bounded), [h])


def _from_input(
    build: Builder, x: Operand, factors: Sequence[np.ndarray], bias: np.ndarray | None, gates: int, name: str
) -> Ref:
    """`bias` + W x, the gates in the order of the kernels."""
    first, *rest = factors
    init = None if bias is None else build.constant(gate_rows(bias, gates))
    return build.chain([gate_rows(first, gates), *rest], x, init, name)
