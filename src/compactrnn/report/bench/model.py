"""A recurrent model as plain arrays, from which each framework's version is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .spec import Spec


@dataclass(frozen=True)
class Layer:
    """An LSTM (gates i, f, g, o) or GRU (r, z, n) layer with torch's arrays: (gates * hidden, input), ..."""

    cell: str
    input_weight: np.ndarray
    hidden_weight: np.ndarray
    input_bias: np.ndarray
    hidden_bias: np.ndarray

    @property
    def input_size(self) -> int:
        """Width of the input."""
        return self.input_weight.shape[1]

    @property
    def hidden_size(self) -> int:
        return self.hidden_weight.shape[1]

    @property
    def states(self) -> tuple[str, ...]:
        """Names of its states."""
        return ("h", "c") if self.cell == "lstm" else ("h",)


@dataclass(frozen=True)
class PlainModel:
    """An embedding if the input is a token, recurrent layers, a linear layer (weight, bias) if there is one.

    >>> model = random_model(Spec("gru", 3, (5, 4), vocabulary=7))
    >>> model.embedding.shape, [layer.hidden_weight.shape for layer in model.layers], model.output_size
    ((7, 3), [(15, 5), (12, 4)], 4)
    """

    layers: tuple[Layer, ...]
    embedding: np.ndarray | None = None
    output: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def input_size(self) -> int:
        """Width of the first layer's input."""
        return self.layers[0].input_size

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return self.layers[-1].hidden_size if self.output is None else len(self.output[1])


def random_model(spec: Spec) -> PlainModel:
    """Reproducible random weights for a spec, U(-b, b) with b = 1 / sqrt(hidden) as in torch."""
    random = np.random.default_rng(0)
    gates = 4 if spec.cell == "lstm" else 3

    def draw(bound: float, *shape: int) -> np.ndarray:
        return random.uniform(-bound, bound, shape).astype(np.float32)

    embedding = draw(1.0, spec.vocabulary, spec.input_size) if spec.vocabulary else None
    layers, size = [], spec.input_size
    for hidden in spec.hidden:
        rows, bound = gates * hidden, hidden**-0.5
        arrays = (draw(bound, *shape) for shape in ((rows, size), (rows, hidden), (rows,), (rows,)))
        layers.append(Layer(spec.cell, *arrays))
        size = hidden
    return PlainModel(tuple(layers), embedding)
