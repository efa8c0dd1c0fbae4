"""Batch normalization over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StepNorm(nn.Module):
    """Batch normalization over all steps of all sequences: (time, batch, n) or (steps, n) to the same.

        training:   (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias
        else:       the same with running averages, `momentum` new at each update

    >>> y = StepNorm(3)(torch.randn(50, 8, 3) * 5 + 2)
    >>> bool(y.mean().abs() < 1e-5), bool((y.std() - 1).abs() < 1e-2)
    (True, True)

    Ioffe, Szegedy: Batch normalization, 2015.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, momentum: float = 0.1, epsilon: float = 1e-5):
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            slope = (self.running_var + self.epsilon).rsqrt() * self.weight
            return x * slope + (self.bias - self.running_mean * slope)
        flat = nn.functional.batch_norm(
            x.flatten(0, -2),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum,
            eps=self.epsilon,
        )
        return flat.reshape(x.shape)
