"""Steps of the recurrent layers of ONNX: those of torch by their kernels, all others composed of operations.

Equations and the order of gates are those of the ONNX operators LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..emit import pointwise
from ..emit.builder import STEP, Builder, Operand
from ..emit.pointwise import FUNCTIONS, combine, scale
from ..emit.recurrent import gru_step, lstm_step
from ..emit.recurrent_rows import Rows, Step, gru_rows, lstm_rows
from ..runtime.program import Binary, Ref, Unary

Activation = Callable[[Builder, Operand], Operand]


@dataclass(frozen=True)
class Weights:
    """One direction of a layer: W (gates n, inputs), R (gates n, n), both biases (gates n,), peepholes (3, n)."""

    w: np.ndarray
    r: np.ndarray
    w_bias: np.ndarray
    r_bias: np.ndarray
    peepholes: np.ndarray | None
    name: Callable[[str], str]

    @property
    def bias(self) -> np.ndarray:
        return self.w_bias + self.r_bias

    def in_order(self, order: Sequence[int]) -> Weights:
        """With the gates in another order."""

        def moved(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x.reshape(len(order), -1, *x.shape[1:])[i] for i in order])

        return replace(self, w=moved(self.w), r=moved(self.r), w_bias=moved(self.w_bias), r_bias=moved(self.r_bias))


# By the lower-case name: of alpha and beta, where None is the default.
_ACTIVATIONS: dict[str, Callable[[float | None, float | None], Activation]] = {
    "affine": lambda a, b: lambda build, x: scale(build, x, 1.0 if a is None else a, b or 0.0),
    "elu": lambda a, b: lambda build, x: FUNCTIONS["elu"](build, x, 1.0 if a is None else a),  # pyright: ignore
    "hardsigmoid": lambda a, b: (
        lambda build, x: pointwise.clamp(
            build, scale(build, x, 0.2 if a is None else a, 0.5 if b is None else b), 0.0, 1.0
        )
    ),
    "leakyrelu": lambda a, b: lambda build, x: FUNCTIONS["leaky_relu"](build, x, 0.01 if a is None else a),  # pyright: ignore
    "relu": lambda a, b: lambda build, x: pointwise.clamp(build, x, 0.0, None),
    "scaledtanh": lambda a, b: (
        lambda build, x: scale(
            build, build.unary(Unary.TANH, scale(build, x, 1.0 if b is None else b)), 1.0 if a is None else a
        )
    ),
    "sigmoid": lambda a, b: lambda build, x: build.unary(Unary.SIGMOID, x, bounded=True),
    "softplus": lambda a, b: lambda build, x: FUNCTIONS["softplus"](build, x),  # pyright: ignore
    "softsign": lambda a, b: (
        lambda build, x: combine(build, Binary.DIV, x, scale(build, build.unary(Unary.ABS, x), 1.0, 1.0))
    ),
    "tanh": lambda a, b: lambda build, x: build.unary(Unary.TANH, x, bounded=True),
}
_ALPHA = ("affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh")
_BETA = ("affine", "hardsigmoid", "scaledtanh")


def activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation] | None:
    """The functions of these names, which take their parameters in order; None for an unknown name."""
    alpha, beta, found = list(alphas), list(betas), []
    for name in (n.lower() for n in names):
        if name not in _ACTIVATIONS:
            return None
        a = alpha.pop(0) if name in _ALPHA and alpha else None
        b = beta.pop(0) if name in _BETA and beta else None
        found.append(_ACTIVATIONS[name](a, b))
    return found


def is_lstm(clip: float, coupled: bool, functions: list[Activation] | None, weights: Weights) -> bool:
    """Whether it is the LSTM that the core has."""
    return functions is None and not clip and not coupled and weights.peepholes is None


def is_gru(clip: float, linear: bool, functions: list[Activation] | None) -> bool:
    """Whether it is the GRU that the core has."""
    return functions is None and not clip and linear


def rows_of_lstm(weights: Weights) -> Rows:
    """The LSTM that the core has, over the rows of a step."""
    ordered = weights.in_order([0, 2, 3, 1])  # i, o, f, g in ONNX
    return partial(lstm_rows, weight_ih=ordered.w, weight_hh=ordered.r, bias=ordered.bias, name=weights.name)


def rows_of_gru(weights: Weights) -> Rows:
    """The GRU that the core has, over the rows of a step."""
    ordered = weights.in_order([1, 0, 2])  # z, r, h in ONNX
    biases = {"bias_ih": ordered.w_bias, "bias_hh": ordered.r_bias}
    return partial(gru_rows, weight_ih=ordered.w, weight_hh=ordered.r, name=weights.name, **biases)


def lstm(weights: Weights, clip: float, coupled: bool, functions: list[Activation] | None) -> Step:
    """i = f(W x + R h + b + p c), f alike, g = g(...), c' = f c + i g, o = f(... + p c'), h' = o h(c').

    `functions` is None for sigmoid, tanh and tanh; `coupled` is f = 1 - i.
    """
    if is_lstm(clip, coupled, functions, weights):
        ordered = weights.in_order([0, 2, 3, 1])  # i, o, f, g in ONNX
        w, r, bias = [ordered.w], [ordered.r], ordered.bias
        return lambda build, x, states: lstm_step(build, x, states, w, r, bias, name=weights.name)
    of_gate, of_input, of_cell = functions or [_ACTIVATIONS[n](None, None) for n in ("sigmoid", "tanh", "tanh")]
    peepholes = weights.peepholes

    def step(build: Builder, x: Operand, states: list[Operand]) -> tuple[Operand, list[Operand]]:
        h, c = (_vector(s) for s in states)
        sums = _sums(build, weights, x, h, weights.bias)
        i, o, f, g = (_part(sums, 4, number) for number in range(4))
        if peepholes is not None:
            i, f = _peep(build, i, c, peepholes[0]), _peep(build, f, c, peepholes[2])
        i = of_gate(build, _clipped(build, i, clip))
        f = scale(build, i, -1.0, 1.0) if coupled else of_gate(build, _clipped(build, f, clip))
        g = of_input(build, _clipped(build, g, clip))
        after = combine(build, Binary.ADD, combine(build, Binary.MUL, f, c), combine(build, Binary.MUL, i, g))
        if peepholes is not None:
            o = _peep(build, o, after, peepholes[1])
        o = of_gate(build, _clipped(build, o, clip))
        y = combine(build, Binary.MUL, o, of_cell(build, after))
        return y, [_new(states[0], y), _new(states[1], after)]

    return step


def gru(weights: Weights, clip: float, linear: bool, functions: list[Activation] | None) -> Step:
    """z = f(W x + R h + b), r alike, h' = (1 - z) g(W x + R (r h) + b) + z h.

    `linear` is r (R h + b) in place of R (r h) + b, as in torch.
    """
    if is_gru(clip, linear, functions):
        ordered = weights.in_order([1, 0, 2])  # z, r, h in ONNX
        w, r, biases = [ordered.w], [ordered.r], (ordered.w_bias, ordered.r_bias)
        return lambda build, x, states: gru_step(build, x, states, w, r, *biases, name=weights.name)
    of_gate, of_input = functions or [_ACTIVATIONS[n](None, None) for n in ("sigmoid", "tanh")]
    n = weights.r.shape[1]

    def step(build: Builder, x: Operand, states: list[Operand]) -> tuple[Operand, list[Operand]]:
        h = _vector(states[0])
        from_input = _product(build, weights.w, x, weights.w_bias, weights.name("input"))
        of_gates = _product(build, weights.r[: 2 * n], h, weights.r_bias[: 2 * n], weights.name("hidden"))
        both = combine(build, Binary.ADD, _slice(from_input, 0, 2 * n), of_gates)
        z, r = (of_gate(build, _clipped(build, _part(both, 2, number), clip)) for number in range(2))
        read = h if linear else combine(build, Binary.MUL, r, h)
        own = _product(build, weights.r[2 * n :], read, weights.r_bias[2 * n :], weights.name("candidate"))
        own = combine(build, Binary.MUL, r, own) if linear else own
        new = of_input(build, _clipped(build, combine(build, Binary.ADD, _slice(from_input, 2 * n, n), own), clip))
        kept = combine(build, Binary.MUL, z, h)
        y = combine(build, Binary.ADD, combine(build, Binary.MUL, scale(build, z, -1.0, 1.0), new), kept)
        return y, [_new(states[0], y)]

    return step


def rnn(weights: Weights, clip: float, functions: list[Activation] | None) -> Step:
    """h' = f(W x + R h + b)."""
    (function,) = functions or [_ACTIVATIONS["tanh"](None, None)]

    def step(build: Builder, x: Operand, states: list[Operand]) -> tuple[Operand, list[Operand]]:
        y = function(build, _clipped(build, _sums(build, weights, x, _vector(states[0]), weights.bias), clip))
        return y, [_new(states[0], y)]

    return step


def _product(build: Builder, matrix: np.ndarray, x: Operand, bias: np.ndarray, name: str) -> Operand:
    return _computed(build, build.chain([matrix], x, build.constant(bias), name), len(matrix))


def _sums(build: Builder, weights: Weights, x: Operand, h: Operand, bias: np.ndarray) -> Operand:
    """W x + R h + bias."""
    gates = build.chain([weights.w], x, build.constant(bias), weights.name("input"))
    return _computed(build, build.chain([weights.r], h, gates, weights.name("hidden")), len(weights.w))


def _peep(build: Builder, x: Operand, cell: Operand, weight: np.ndarray) -> Operand:
    return combine(build, Binary.ADD, x, build.binary(Binary.MUL, cell, build.constant(weight)))


def _clipped(build: Builder, x: Operand, limit: float) -> Operand:
    return pointwise.clamp(build, x, -limit, limit) if limit else x


def _computed(build: Builder, ref: Ref, width: int) -> Operand:
    return Operand(ref, (width,), None, STEP, build.segment)


def _slice(x: Operand, start: int, width: int) -> Operand:
    return replace(x, ref=Ref(x.ref.buffer, x.ref.offset + start), shape=(width,), time=None)


def _part(x: Operand, parts: int, number: int) -> Operand:
    return _slice(x, number * (x.width // parts), x.width // parts)


def _vector(state: Operand) -> Operand:
    return replace(state, shape=(state.width,), time=None)


def _new(state: Operand, value: Operand) -> Operand:
    return replace(state, ref=value.ref, kind=STEP, bounded=False)
