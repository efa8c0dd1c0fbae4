"""LSTM and GRU layers over the rows of a step, and one step of many rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.gates import gate_rows
from ..runtime.program import GATES, Binary, Code, Over, Ref
from .builder import Builder, Operand
from .factor import interleaved
from .movement import Mover
from .products import linear

Step = Callable[[Builder, Operand, list[Operand]], tuple[Operand, list[Operand]]]
Rows = Callable[..., tuple[Operand, list[Operand]]]  # of the builder, the rows and the states, see `gru_rows`

MOST_PLACES = 4096


def lstm_rows(
    build: Builder,
    x: Operand,
    states: Sequence[Operand],
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray,
    *,
    backwards: bool = False,
    name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """An LSTM over the rows of `x`, (rows, inputs), within one step: its outputs, (rows, n), and its states after them.

    `states` are h and c before the first row, of which c is overwritten; see `lstm_step` for the rest.
    """
    h, c = states
    gates = linear(build, x, [interleaved(weight_ih, 4)], gate_rows(bias, 4), name("input"))
    y = _over_rows(build, Code.LSTM_OVER, gates, h, weight_hh, name, b=c.ref, fn=int(_order(backwards)))
    return y, [_last(y, backwards), c]


def gru_rows(
    build: Builder,
    x: Operand,
    states: Sequence[Operand],
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray,
    bias_hh: np.ndarray,
    *,
    backwards: bool = False,
    each: bool = False,
    name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """A GRU over the rows of `x`, (rows, inputs), within one step: its outputs, (rows, n), and its state after them.

    `states` is h before the first row; with `each` every row has a state of its own, (rows, n). See `gru_step` for the
    rest.
    """
    (h,) = states
    n = weight_hh.shape[1]
    own = build.constant(bias_hh[2 * n :])
    bias = bias_ih + np.concatenate([bias_hh[: 2 * n], np.zeros(n)])
    gates = linear(build, x, [interleaved(weight_ih, 3)], gate_rows(bias, 3), name("input"))
    if each:
        y = _over_rows(build, Code.GRU_EACH, gates, h, weight_hh, name, b=own)
        return y, [y]
    y = _over_rows(build, Code.GRU_OVER, gates, h, weight_hh, name, b=own, fn=int(_order(backwards)))
    return y, [_last(y, backwards)]


def lstm_each(
    mover: Mover,
    x: Operand,
    states: Sequence[Operand],
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray,
    *,
    name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """One step of an LSTM for every row of `x`, (rows, inputs), from states of its own, (rows, n) each.

    The rows are together one LSTM cell of rows n units; see `lstm_step` for the rest.
    """
    build, (h, c) = mover.builder, states
    gates = linear(build, x, [weight_ih], bias, name("input"))
    both = build.binary(Binary.ADD, gates, linear(build, h, [weight_hh], None, name("hidden")))
    count, n = c.shape
    turned = mover.rearrange(both, lambda t: t.reshape(count, 4, n).swapaxes(0, 1), None)
    y = replace(build.lstm_cell(turned, c.ref), shape=(count, n))
    return y, [y, c]


def over_places(
    mover: Mover,
    x: Operand,
    states: Sequence[Operand],
    step: Step,
    rows: Rows | None = None,
    backwards: bool = False,
) -> tuple[Operand, list[Operand]]:
    """A layer over an axis within a step, such as that of frequency, which runs again at every step.

    Args:
        mover: what moves and writes.
        x: (places, inputs).
        states: before the first place, (1, n) each; they may be overwritten.
        step: one place, (1, inputs): its output and new states.
        rows: the same for all places in one operation, if there is one: `lstm_rows`, `gru_rows`.
        backwards: from the last place to the first.

    Returns:
        the outputs, (places, n), and the states after the place that came last, (1, n) each.

    Raises:
        UnsupportedModelError: there are too many places.
    """
    build, places, states = mover.builder, x.shape[0], list(states)
    if places > MOST_PLACES:
        raise UnsupportedModelError(f"{build.where}: runs over {places} places within each step; too many")
    build.place([x])
    x = replace(x, segment=build.segment)
    if rows is not None and places > 1:
        return rows(build, x, states, backwards=backwards)
    outputs = []
    for place in reversed(range(places)) if backwards else range(places):
        one = mover.rearrange(x, lambda t, p=place: t[p : p + 1], None)
        build.place([one])
        y, after = step(build, replace(one, segment=build.segment), states)
        states = [replace(s, shape=(1, s.width), time=None) for s in after]
        outputs.append(replace(y, shape=(1, y.width), time=None))
    joined = mover.move(outputs[::-1] if backwards else outputs, lambda a: np.concatenate(a), None)
    return mover.materialize(joined), states


def _over_rows(
    build: Builder, code: Code, gates: Operand, h: Operand, weight: np.ndarray, name: Callable[[str], str], **fields
) -> Operand:
    count, n = gates.shape[0], weight.shape[1]
    dst, tensor = build.buffer(count * n), build.tensor(interleaved(weight, GATES[code]), block=GATES[code])
    kind, scale = build.place([gates, h]), 1 / 127 if h.bounded else 0.0
    places = {"a": gates.ref, "c": h.ref, "tensor": tensor}
    build.emit(code, dst, count * n, k=n, p0=scale, name=name("hidden"), **places, **fields)
    return Operand(dst, (count, n), None, kind, build.segment, bounded=h.bounded)


def _order(backwards: bool) -> Over:
    return Over.BACKWARD if backwards else Over.FORWARD


def _last(y: Operand, backwards: bool) -> Operand:
    """The row that a layer over the rows came to last."""
    count, n = y.shape
    return replace(y, ref=Ref(y.ref.buffer, y.ref.offset + (0 if backwards else (count - 1) * n)), shape=(1, n))
