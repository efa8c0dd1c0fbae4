"""LSTM and GRU layers of one direction, from their matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.gates import gate_rows
from ..runtime.program import Code, Ref, Unary
from .builder import LAST, STEP, Builder, Operand
from .factor import Factor, Structured, can_interleave, interleaved

# By the name of a state: what it starts from, and whether it is proven that it stays within [-1, 1].
Starts = dict[str, tuple[np.ndarray | Operand, bool]]


def lstm(
    build: Builder,
    x: Operand,
    weight_ih: Sequence[Factor],
    weight_hh: Sequence[Factor],
    bias: np.ndarray | None = None,
    *,
    projection: Sequence[Factor] = (),
    initial: Sequence[np.ndarray] | None = None,
    name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """An LSTM over the sequence `x`; see `lstm_step`.

    Args:
        build: what to write to.
        x: (T, inputs) or (T, 1, inputs), time first.
        weight_ih: as in `lstm_step`, and so are `weight_hh`, `bias` and `projection`.
        initial: h, (outputs,), and c, (n,), before the first step; zeros without.
        name: gives the name in the model of "input", "hidden", "projection", and of the states "h" and "c".

    Returns:
        h at every step, in the form of `x`; and h and c after the last.
    """
    n = weight_ih[0].shape[0] // 4
    size = projection[0].shape[0] if projection else n
    h, c = [np.zeros(size), np.zeros(n)] if initial is None else initial
    small = not projection and bool((np.abs(h) <= 1).all())
    starts: Starts = {name("h"): (h, small), name("c"): (c, False)}
    return over_sequence(
        build, x, starts, lambda x, states: lstm_step(build, x, states, weight_ih, weight_hh, bias, projection, name)
    )


def gru(
    build: Builder,
    x: Operand,
    weight_ih: Sequence[Factor],
    weight_hh: Sequence[Factor],
    bias_ih: np.ndarray | None = None,
    bias_hh: np.ndarray | None = None,
    *,
    projection: Sequence[Factor] = (),
    initial: Sequence[np.ndarray] | None = None,
    name: Callable[[str], str] = str,
) -> tuple[Operand, list[Operand]]:
    """A GRU over the sequence `x`; see `gru_step` for the weights, `lstm` for the rest."""
    n = weight_ih[0].shape[0] // 3
    sizes = {"h": projection[0].shape[0], "c": n} if projection else {"h": n}
    starts = dict(zip(sizes, initial or [np.zeros(size) for size in sizes.values()], strict=True))
    own = "c" if projection else "h"
    small = bool((np.abs(starts[own]) <= 1).all())
    named: Starts = {name(key): (start, small and key == own) for key, start in starts.items()}
    return over_sequence(
        build,
        x,
        named,
        lambda x, states: gru_step(build, x, states, weight_ih, weight_hh, bias_ih, bias_hh, projection, name),
    )


def over_sequence(
    build: Builder,
    x: Operand,
    initial: Starts | Sequence[Operand],
    step: Callable[[Operand, list[Operand]], tuple[Operand, list[Operand]]],
) -> tuple[Operand, list[Operand]]:
    """A layer of any cell over the sequence `x`, (T, inputs) or (T, 1, inputs).

    Of x, (T, rows, inputs), every row has a state of its own.

    Args:
        build: what to write to.
        x: the sequence.
        initial: by the names of the states what they start from, see `new_states`, or the states themselves where the
            stream has them already.
        step: from the inputs and states of a step to its output and the new states; it may overwrite them.

    Returns:
        the output at every step, in the form of `x`; and the states after the last.
    """
    if isinstance(initial, dict):
        states = [replace(s, shape=(*x.shape[1:-1], s.shape[-1])) for s in new_states(build, x, initial)]
    else:
        build.every_step([x])
        states = [replace(state, segment=build.segment) for state in initial]

    def of_frame(x: Operand) -> Operand:
        y, after = step(x, states)
        y = apart(build, y, states)
        write_states(build, states, after)
        return replace(y, shape=(*x.shape[:-1], y.width // math.prod(x.shape[1:-1])), time=0)

    y = frame_by_frame(build, replace(x, segment=build.segment), of_frame)
    return y, [replace(state, kind=LAST, bounded=False) for state in states]


def new_states(build: Builder, x: Operand, initial: Starts) -> list[Operand]:
    """The states of a layer over the sequence `x`, in a segment that runs at every step.

    Each starts from numbers, (n,), or (rows, n) for several rows, or from a value that was computed before: it takes
    that at the first step, s = first ? value : s. Such a state has no name, as what it is set to before is not read.

    Raises:
        UnsupportedModelError: such a value changes from step to step.
    """
    computed = [value for value, _ in initial.values() if isinstance(value, Operand)]
    if any(value.kind == STEP or value.time is not None for value in computed):
        raise UnsupportedModelError(f"{build.where}: starts from a state that changes from step to step")
    build.every_step([x, *computed], f"{build.where}: starts from a state that is computed from the sequence")
    states = []
    for name, (value, bounded) in initial.items():
        start = np.zeros(value.shape) if isinstance(value, Operand) else value
        named = not isinstance(value, Operand)
        ref = build.state(name, start, start.shape, bounded) if named else build.buffer(start.size, "state", start)
        states.append(Operand(ref, start.shape, None, STEP, build.segment, bounded))
    if computed:
        width = max(value.width for value in computed)
        first = build.buffer(width, "state", np.ones(width))
        for state, (value, _) in zip(states, initial.values(), strict=True):
            if isinstance(value, Operand):
                build.emit(Code.SELECT, state.ref, state.width, a=value.ref, b=state.ref, c=first)
        build.emit(Code.UNARY, first, width, a=build.constant(np.zeros(width)), fn=int(Unary.COPY))
    return states


def at_every_step(build: Builder, x: Operand) -> Operand:
    """A sequence that is the same value at every step, as what an encoder found is for its decoder."""
    build.every_step([x], f"{build.where}: reads a value of the whole sequence at every step")
    ref = build.buffer(x.width)
    build.emit(Code.UNARY, ref, x.width, a=x.ref, fn=int(Unary.COPY))
    return replace(x, ref=ref, kind=STEP, segment=build.segment)


def frame_by_frame(build: Builder, x: Operand, step: Callable[[Operand], Operand]) -> Operand:
    """`step` of the sequence `x`, whose time comes first; of several frames a step one after the other."""
    if x.rate == 1:
        return step(x)
    steps, width = x.shape[0] // x.rate, x.width // x.rate
    found = []
    for number in range(x.rate):
        ref = Ref(x.ref.buffer, x.ref.offset + number * width)
        found.append(step(replace(x, ref=ref, shape=(steps, *x.shape[1:]), rate=1)))
    width, dst = found[0].width, build.buffer(sum(y.width for y in found))
    for number, y in enumerate(found):
        build.emit(Code.UNARY, Ref(dst.buffer, number * width), width, a=y.ref, fn=int(Unary.COPY))
    shape, bounded = (x.shape[0], *found[0].shape[1:]), all(y.bounded for y in found)
    return replace(found[0], ref=dst, shape=shape, rate=x.rate, bounded=bounded)


def lstm_step(
    build: Builder,
    x: Operand,
    states: Sequence[Operand],
    weight_ih: Sequence[Factor],
    weight_hh: Sequence[Factor],
    bias: np.ndarray | None,
    projection: Sequence[Factor] = (),
    name: Callable[[str], str] = str,
    fused: bool = True,
) -> tuple[Operand, list[Operand]]:
    """i, f, g, o = split(W x + U h + b); c = sig(f) c + sig(i) tanh(g); h = sig(o) tanh(c), or P of that.

    Args:
        build: what to write to.
        x: the inputs of a step.
        states: h and c, of which c is overwritten.
        weight_ih: the factors of W, (4 n, inputs) together, the gates in torch's order i, f, g, o.
        weight_hh: the factors of U, (4 n, outputs).
        bias: the sum of all biases, (4 n,).
        projection: the factors of P, (outputs, n); none without projection.
        name: gives the name of a matrix in the model: of "input", "hidden" or "projection".
        fused: whether the product with U may be one operation with the cell.

    Returns:
        h, and both states after the step.
    """
    h, c = states
    before = _vector(h)
    if fused and _fits_kernel(weight_ih, weight_hh, 4):
        gates = _from_input(build, x, weight_ih, bias, 4, name)
        out = build.gates(Code.LSTM, c.width, gates, weight_hh, before, name("hidden"), b=c.ref)
    else:
        gates = build.chain(weight_ih, x, _constant(build, bias), name("input"))
        gates = build.chain(weight_hh, before, gates, name("hidden"))
        out = build.lstm_cell(_computed(build, gates, 4 * c.width), c.ref).ref
    y = _computed(build, out, c.width, bounded=True)
    if projection:
        y = _computed(build, build.chain(projection, y, None, name("projection")), h.width)
    return y, [replace(h, ref=y.ref, kind=y.kind), replace(c, kind=y.kind)]


def gru_step(
    build: Builder,
    x: Operand,
    states: Sequence[Operand],
    weight_ih: Sequence[Factor],
    weight_hh: Sequence[Factor],
    bias_ih: np.ndarray | None,
    bias_hh: np.ndarray | None,
    projection: Sequence[Factor] = (),
    name: Callable[[str], str] = str,
    fused: bool = True,
) -> tuple[Operand, list[Operand]]:
    """r, z = sig(W x + b + U h + c); n = tanh(Wn x + bn + r (Un h + cn)); h = (1 - z) n + z h.

    The gates are in torch's order r, z, n; of the two biases both are given or none. Of `states` U is multiplied with
    the first, and h is the last. With a projection P the first is p = P h, which is the output, too. See `lstm_step`
    for the rest.
    """
    read, h = states[0], states[-1]
    n, before = h.width, _vector(read)
    if fused and _fits_kernel(weight_ih, weight_hh, 3):
        to_gates = to_candidate = None
        if bias_ih is not None and bias_hh is not None:
            to_candidate = bias_hh[2 * n :]
            to_gates = bias_ih + np.concatenate([bias_hh[: 2 * n], np.zeros_like(to_candidate)])
        gates = _from_input(build, x, weight_ih, to_gates, 3, name)
        own = _constant(build, to_candidate)
        out = build.gates(Code.GRU, n, gates, weight_hh, before, name("hidden"), b=own, d=h.ref)
    else:
        from_input = build.chain(weight_ih, x, _constant(build, bias_ih), name("input"))
        from_state = build.chain(weight_hh, before, _constant(build, bias_hh), name("hidden"))
        out = build.gru_cell(_computed(build, from_input, 3 * n), _computed(build, from_state, 3 * n), _vector(h)).ref
    y = _computed(build, out, n, h.bounded)
    after = [replace(h, ref=out, kind=y.kind)]
    if projection:
        y = _computed(build, build.chain(projection, y, None, name("projection")), read.width)
        after = [replace(read, ref=y.ref, kind=y.kind), *after]
    return y, after


def write_states(build: Builder, states: Sequence[Operand], after: Sequence[Operand]) -> None:
    """Write the new states `after`, which may be in other states; a delay line gets its newest row."""
    changed = [(s, apart(build, value, states)) for s, value in zip(states, after, strict=True) if value.ref != s.ref]
    for state, value in changed:
        if value.width < state.width:
            build.emit(Code.DELAY, state.ref, value.width, k=state.width, a=value.ref)
        else:
            build.emit(Code.UNARY, state.ref, state.width, a=value.ref, fn=int(Unary.COPY))


def apart(build: Builder, value: Operand, states: Sequence[Operand]) -> Operand:
    """A copy of a value that is stored in a state about to be written."""
    if value.ref.buffer in {s.ref.buffer for s in states}:
        return build.unary(Unary.COPY, value, bounded=value.bounded)
    return value


def _fits_kernel(weight_ih: Sequence[Factor], weight_hh: Sequence[Factor], gates: int) -> bool:
    """Whether the fused kernel can be used: both matrices can be stored in its row order."""
    return all(can_interleave(factors[0], gates) for factors in (weight_ih, weight_hh))


def _from_input(
    build: Builder, x: Operand, factors: Sequence[Factor], bias: np.ndarray | None, gates: int, name: Callable
) -> Ref:
    """`bias` + W x, the gates in the order of the kernels."""
    first, *rest = factors
    assert not isinstance(first, Structured)
    init = None if bias is None else build.constant(gate_rows(bias, gates))
    return build.chain([interleaved(first, gates), *rest], x, init, name("input"))


def _constant(build: Builder, values: np.ndarray | None) -> Ref | None:
    return None if values is None else build.constant(values)


def _computed(build: Builder, ref: Ref, width: int, bounded: bool = False) -> Operand:
    return Operand(ref, (width,), None, build.place([]), build.segment, bounded)


def _vector(state: Operand) -> Operand:
    return replace(state, shape=(state.width,), time=None)
