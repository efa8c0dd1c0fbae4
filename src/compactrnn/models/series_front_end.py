"""Front end for a user's own numbers: normalization, categories, missing values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SeriesFrontEnd(nn.Module):
    """What recurrent layers read of raw channels: (..., channels) to (..., size).

        z = (x - mean) / deviation     0 where x is missing (NaN), in channels that may lack values
        m = 1 where x is missing, else 0, for each of those channels
        e_k = 1 where x = k, else 0, for each word k of a channel of categories

    `missing` has the numbers of the channels that may lack values, `categories` the number of words of each channel, 0
    for one of numbers. A missing value in any other channel of numbers is NaN in the result; a missing category, or one
    that is not known, is zeros. In training Gaussian noise of deviation `noise` is added to z, and of
    deviation `shift` one number for each channel of a sequence, as between recordings made on different days.

    >>> front_end = SeriesFrontEnd(categories=[0, 3], missing=[0])
    >>> front_end(torch.tensor([[5.0, 2.0], [torch.nan, 0.0]])).tolist()
    [[5.0, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0, 0.0]]

    Lipton, Kale, Wetzel: Modeling missing data in clinical time series with RNNs, 2016.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, categories: Sequence[int], missing: Sequence[int] = ()):
        super().__init__()
        self.noise = self.shift = 0.0
        self.numbers = [n for n, words in enumerate(categories) if not words]
        self.categories = [(n, words) for n, words in enumerate(categories) if words]
        self.missing = [self.numbers.index(n) for n in missing if n in self.numbers]
        self.size = len(self.numbers) + len(self.missing) + sum(words for _, words in self.categories)
        self.register_buffer("mean", torch.zeros(len(self.numbers)))
        self.register_buffer("deviation", torch.ones(len(self.numbers)))

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        if self.numbers:
            numbers = (x[..., self.numbers] if self.categories else x) - self.mean
            numbers = numbers * self.deviation.reciprocal()
            if self.training and self.noise:
                numbers = numbers + self.noise * torch.randn_like(numbers)
            if self.training and self.shift:
                numbers = numbers + self.shift * torch.randn_like(numbers[:, :1])
            if self.missing:
                lacking = numbers[..., self.missing] != numbers[..., self.missing]
                may = torch.zeros(len(self.numbers), dtype=torch.bool, device=x.device)
                may[self.missing] = True
                numbers = torch.where((numbers != numbers) & may, torch.zeros_like(numbers), numbers)
                parts = [numbers, lacking.to(x.dtype)]
            else:
                parts = [numbers]
        for channel, words in self.categories:
            parts.append((x[..., channel : channel + 1] == torch.arange(words, device=x.device)).to(x.dtype))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]
