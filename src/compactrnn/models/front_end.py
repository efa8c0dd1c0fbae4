"""Front end of an acoustic model: from frames of features to normalized vectors with deltas."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Normalization = Literal["utterance", "running", "none"]
_SLOPE = (-0.2, -0.1, 0.0, 0.1, 0.2)  # of a line through five points, by least squares
_LEAST_VARIANCE = 0.01


class FrontEnd(nn.Module):
    """Normalize frames that come `stacked` a step, and add their deltas: (batch, steps, stacked * coefficients) to
    (batch, steps, (1 + deltas) * stacked * coefficients).

        x = (frame - mean) / deviation                      mean and deviation of the training data
        x = (x - m) / s                                     m and s of the sequence, by `normalization`
        delta_t = sum over k = 1, 2 of k (x_(t - 2 + k) - x_(t - 2 - k)) / 10

    A delta is the slope of the last five frames, so that no later frame is needed: it belongs to the frame two before.
    With `deltas = 2` the slope of the deltas follows. Before the first frame all x are 0.

    With "utterance" m and s are those of the whole sequence, so that the model runs offline. With "running" they are
    those of the steps up to this one and of `prior` steps more, of mean 0 and variance 1: the statistics of the
    training data, which a longer sequence overrules. Variances are at least 0.01.

    With `lengths`, int64 (batch,), the padding of sequence i after `lengths[i]` steps is in no statistics.

    >>> front = FrontEnd(13, deltas=1, normalization="running").eval()
    >>> x = torch.randn(2, 20, 39)
    >>> front(x).shape, torch.allclose(front(x)[:, :8], front(x[:, :8]), atol=1e-5)
    (torch.Size([2, 20, 78]), True)

    Furui: Speaker-independent isolated word recognition using dynamic features of speech spectrum, 1986; Viikki,
    Laurila: Cepstral domain segmental feature vector normalization for noise robust speech recognition, 1998.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        coefficients: int,
        stacked: int = 3,
        deltas: int = 1,
        normalization: Normalization = "utterance",
        prior: int = 30,
    ):
        super().__init__()
        self.coefficients, self.stacked, self.deltas = coefficients, stacked, deltas
        self.normalization, self.prior = normalization, prior
        self.size = (1 + deltas) * stacked * coefficients
        self.register_buffer("mean", torch.zeros(coefficients))
        self.register_buffer("deviation", torch.ones(coefficients))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The vectors of a batch of sequences; those at padding are of no use."""
        x = x.unflatten(-1, (self.stacked, self.coefficients))
        x = (x - self.mean) * self.deviation.reciprocal()
        if self.normalization == "utterance":
            x = _normalized(x, lengths)
        elif self.normalization == "running":
            x = self._normalized_so_far(x)
        parts = [x]
        for _ in range(self.deltas):
            parts.append(_slopes(parts[-1]))
        return torch.cat([part.flatten(-2) for part in parts], -1)

    def _normalized_so_far(self, x: Tensor) -> Tensor:
        """By the mean and the variance up to each step."""
        steps = x[:, :, 0, :1].clamp(1, 1).cumsum(1) + self.prior
        mean = x.mean(2).cumsum(1) / steps
        variance = (x.square().mean(2).cumsum(1) + self.prior) / steps - mean.square()
        return (x - mean.unsqueeze(2)) * variance.clamp(min=_LEAST_VARIANCE).rsqrt().unsqueeze(2)


def _normalized(x: Tensor, lengths: Tensor | None) -> Tensor:
    """By the mean and the variance of each sequence."""
    if lengths is None:
        x = x - x.mean((1, 2), keepdim=True)
        variance = x.square().mean((1, 2), keepdim=True)
    else:
        within = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None, None].to(x)
        frames = (lengths * x.shape[2])[:, None, None, None].to(x)
        x = x - (x * within).sum((1, 2), keepdim=True) / frames
        variance = (x * within).square().sum((1, 2), keepdim=True) / frames
    return x * variance.clamp(min=_LEAST_VARIANCE).rsqrt()


def _slopes(x: Tensor) -> Tensor:
    """Of each frame the slope of the five up to it: (batch, steps, stacked, coefficients) to the same."""
    stacked = x.shape[2]
    reach = -(-(len(_SLOPE) - 1) // stacked)  # in steps
    padded = nn.functional.pad(x, (0, 0, 0, 0, reach, 0))
    frames = torch.cat([padded[:, n : n - reach or None] for n in range(reach + 1)], 2)
    first = frames.shape[2] - stacked - len(_SLOPE) + 1
    taps = [(first + n, tap) for n, tap in enumerate(_SLOPE) if tap]
    return sum((tap * frames[:, :, n : n + stacked] for n, tap in taps), torch.zeros_like(x))
