"""Subtract from log energies their mean over the recording, or over what was heard of it so far."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Over = Literal["running", "utterance", "none"]


class MeanNormalization(nn.Module):
    """Remove what a microphone, a room and a level add to every frame: (batch, frames, bands) to the same.

        y_t = (x_t - m_t) / deviation
        "running":   m_t = (prior * mean + x_1 + ... + x_t) / (prior + t)
        "utterance": m_t the mean of the whole recording, so that the model runs offline
        "none":      m_t = mean

    `mean`, (bands,), and `deviation`, a number, are of the training data. With `lengths`, int64 (batch,), the padding
    of recording i after `lengths[i]` frames is in no mean.

    >>> normalize = MeanNormalization(4)
    >>> x = torch.randn(2, 9, 4)
    >>> torch.allclose(normalize(x)[:, :5], normalize(x[:, :5]), atol=1e-6)
    True

    Atal: Effectiveness of linear prediction characteristics of the speech wave for automatic speaker identification and
    verification, 1974.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, bands: int, over: Over = "running", prior: int = 10):
        super().__init__()
        self.over, self.prior = over, prior
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The normalized frames; those at padding are of no use."""
        if self.over == "utterance":
            x = x - mean_over_steps(x, lengths)
        else:
            x = x - self.mean
            if self.over == "running":
                x = x - x.cumsum(1) / (count_steps(x) + self.prior)
        return x * self.deviation.reciprocal()


def count_steps(x: Tensor) -> Tensor:
    """1, 2, 3, ... along the time of x (batch, time, n): (batch, time, 1), in a form that can be packed."""
    return x[..., :1].clamp(1, 1).cumsum(1)


def mean_over_steps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean of each sequence without its padding: (batch, time, n) to (batch, 1, n)."""
    if lengths is None:
        return x.mean(1, keepdim=True)
    within = (torch.arange(x.shape[1]) < lengths[:, None]).unsqueeze(-1).to(x)
    return (x * within).sum(1, keepdim=True) / lengths[:, None, None].to(x)
