"""Masks over frames and bands of a spectrogram while a model is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Masks(nn.Module):
    """In training set `count` random stretches of bands and one of frames to zero, in each sequence:
    (batch, frames, bands) to the same.

    A mask is 0 to `bands_masked` bands wide, or 0 to `frames_masked` frames long. Zero is the mean of normalized
    energies. In evaluation nothing is changed.

    >>> masks = Masks(bands_masked=4, frames_masked=3)
    >>> x = torch.ones(2, 10, 8)
    >>> bool((masks(x) == 0).any()), masks.eval()(x) is x
    (True, True)

    Park, Chan, Zhang, Chiu, Zoph, Cubuk, Le: SpecAugment: A simple data augmentation method for automatic speech
    recognition, 2019, without its warping of time.
    """

    def __init__(self, bands_masked: int, frames_masked: int, count: int = 2):
        super().__init__()
        self.bands_masked, self.frames_masked, self.count = bands_masked, frames_masked, count

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not (self.bands_masked or self.frames_masked):
            return x
        masked = _stretches(len(x), x.shape[1], self.frames_masked).unsqueeze(-1)
        for _ in range(self.count):
            masked = masked | _stretches(len(x), x.shape[2], self.bands_masked).unsqueeze(1)
        return x.masked_fill(masked.to(x.device), 0.0)


def _stretches(count: int, size: int, longest: int) -> Tensor:
    """A random stretch of 0 to `longest` of `size` places, in each of `count` rows: bool (count, size)."""
    places = torch.arange(size)
    start = torch.randint(size, (count, 1))
    return (places >= start) & (places < start + torch.randint(longest + 1, (count, 1)))
