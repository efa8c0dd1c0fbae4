"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """`average <- d average + (1 - d) weights` after each update, `d = min(decay, (1 + update) / (10 + update))`.

    >>> model = nn.Linear(1, 1)
    >>> average = WeightAverage(model, decay=0.9)
    >>> with average.in_place(model):
    ...     torch.equal(model.bias, average.weights[1])
    True

    Polyak, Juditsky: Acceleration of stochastic approximation by averaging, 1992, in its exponential form.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def follow(self, model: nn.Module, update: int) -> None:
        """Update the average with the weights after update number `update`."""
        decay = min(self.decay, (1 + update) / (10 + update))
        for average, parameter in zip(self.weights, model.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)

    def load(self, weights: list[Tensor], model: nn.Module) -> None:
        """Restore the average of `model`, which has its weights already, from a checkpoint."""
        if [w.shape for w in weights] != [p.shape for p in model.parameters()]:
            raise ValueError("the average is of another model's weights")
        self.weights = weights

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Use the average as the weights of the model within a `with` block."""
        parameters = list(model.parameters())
        with torch.no_grad():
            own = [parameter.clone() for parameter in parameters]
            _copy(self.weights, parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                _copy(own, parameters)


def _copy(source: list[Tensor], target: list[nn.Parameter]) -> None:
    for given, parameter in zip(source, target, strict=True):
        parameter.copy_(given)
