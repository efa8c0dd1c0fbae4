"""Convolutions, as the core multiplies with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .terms import Term


@dataclass(frozen=True, eq=False)
class ConvolutionTerm(Term):
    """A convolution with zeros around the positions, as the matrix of channels x positions.

    `kernel` is (channels out, channels in, *sizes), the sizes odd. The core puts what each entry of the kernel reads
    into a matrix, (channels in * entries, positions), and multiplies it with the kernel's.
    """

    kernel: Tensor
    positions: tuple[int, ...]

    def sources(self) -> Tensor:
        """(entries, positions): the position that each entry of the kernel reads for a position, or -1 outside.

        >>> ConvolutionTerm(torch.ones(1, 1, 3), (4,)).sources()
        tensor([[-1,  0,  1,  2],
                [ 0,  1,  2,  3],
                [ 1,  2,  3, -1]])
        """
        sizes = self.kernel.shape[2:]
        numbers = np.arange(math.prod(self.positions)).reshape(self.positions)
        padded = np.pad(numbers, [(size // 2, size // 2) for size in sizes], constant_values=-1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, sizes)
        return torch.from_numpy(windows.reshape(numbers.size, -1).T.copy())

    def places(self) -> Tensor:
        """(entries, positions, positions): 1 where an entry of the kernel stands in the matrix of two channels."""
        sources = self.sources().to(self.kernel.device)
        columns = torch.arange(math.prod(self.positions), device=self.kernel.device)
        return (sources[..., None] == columns).to(self.kernel.dtype)

    def dense(self) -> Tensor:
        """(channels out * positions, channels in * positions)."""
        return torch.einsum("oit,tpq->opiq", self.kernel.flatten(2), self.places()).flatten(2).flatten(0, 1)

    @property
    def shape(self) -> tuple[int, int]:
        count = math.prod(self.positions)
        return len(self.kernel) * count, self.kernel.shape[1] * count

    @property
    def stored(self) -> int:
        """The kernel's entries."""
        return self.kernel.numel()

    @property
    def read(self) -> int:
        """The same."""
        return self.stored

    @property
    def macs(self) -> int:
        """Each entry of the kernel at each position, those with zeros included."""
        return self.kernel.numel() * math.prod(self.positions)
