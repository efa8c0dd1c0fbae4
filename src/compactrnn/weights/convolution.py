"""Convolutional weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_divides, check_positive, invalid
from .base import AbstractWeight, WeightSpec, take
from .convolution_term import ConvolutionTerm
from .terms import Term

PRODUCTS = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}


@dataclass(frozen=True)
class Convolution(WeightSpec):
    """A convolution in every gate, of stride 1 with zeros around: `C_out * C_in * prod(kernel)` numbers.

    A vector holds channels x positions, the positions of the first channel first, as `x.flatten(1)` of images
    (batch, channels, height, width) has them; with `positions` (height, width), P of them, a matrix of m rows in a gate
    and n columns has `C_out = m / P` and `C_in = n / P`. In a recurrence, every cell becomes a convolutional one:

        GRU(C * P, H * P, input_weight=Convolution((height, width)), hidden_weight=Convolution((height, width)))

    is a ConvGRU of H channels, with the biases of the cell, one for each channel and position.

    Args:
        positions: sizes of the grid, along one to three axes.
        kernel: odd sizes of the kernel, or one for all axes.

    >>> Convolution((8, 8), kernel=3).build(3 * 16 * 64, 4 * 64, gates=3).stored_parameters()  # in place of 786432
    1728

    Raises:
        ValueError: sizes out of range, and by `build` for those that are not whole channels.

    Sources: Shi et al., "Convolutional LSTM Network", 2015; Ballas, Yao, Pal, Courville, "Delving Deeper into
    Convolutional Networks for Learning Video Representations", 2016 (ConvGRU).
    """

    positions: tuple[int, ...]
    kernel: int | tuple[int, ...] = 3

    def __post_init__(self):
        if not isinstance(self.positions, tuple) or len(self.positions) not in PRODUCTS:
            raise invalid("positions", got=repr(self.positions), expected="a tuple of one to three sizes")
        for size in self.positions:
            check_positive(size, "positions")
        if isinstance(self.kernel, tuple) and len(self.kernel) != len(self.positions):
            raise invalid("kernel", got=self.kernel, expected=f"{len(self.positions)} sizes, as positions has")
        for size in self.sizes:
            if check_positive(size, "kernel") % 2 == 0:
                raise invalid("kernel", got=size, expected="an odd size, so that as many positions are left")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the kernel, along each axis."""
        return self.kernel if isinstance(self.kernel, tuple) else (self.kernel,) * len(self.positions)

    def build(self, out_features: int, in_features: int, gates: int = 1) -> ConvolutionWeight:
        return ConvolutionWeight(self, out_features, in_features, gates)


class ConvolutionWeight(AbstractWeight):
    """`kernel` has those of all gates: (gates * C_out, C_in, *sizes)."""

    spec: Convolution

    def __init__(self, spec: Convolution, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        self.count = math.prod(spec.positions)
        channels = gates * check_divides(self.rows, self.count, "out_features per gate", "positions")
        inputs = check_divides(in_features, self.count, "in_features", "positions")
        self.kernel = nn.Parameter(torch.empty(channels, inputs, *spec.sizes))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, bound: float | None = None) -> None:
        """As of every weight, without its dense matrix, which may be millions of times as large."""
        bound = self.in_features**-0.5 if bound is None else bound
        inside = (self._term().sources() >= 0).sum(1).to(self.kernel)  # places of each entry in the matrix
        size = (self.kernel.uniform_(-1, 1).flatten(2).square() @ inside).sum().sqrt()
        self.kernel.mul_(bound * (self.out_features * self.in_features / 3) ** 0.5 / size)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.reshape(-1, self.kernel.shape[1], *self.spec.positions)
        padding = tuple(size // 2 for size in self.spec.sizes)
        y = PRODUCTS[len(padding)](grid, self.kernel, padding=padding)
        return y.reshape(*x.shape[:-1], self.out_features)

    def dense(self) -> Tensor:
        return self._term().dense()

    def terms(self) -> tuple[Term, ...]:
        """One, that the core stores as it is."""
        return (self._term(),)

    @torch.no_grad()
    def from_dense_(self, matrix: Tensor) -> ConvolutionWeight:
        """The nearest: the mean of the places where an entry of the kernel stands."""
        self._check_matrix(matrix)
        places = self._term().places()
        parts = matrix.detach().to(places).unflatten(1, (-1, self.count)).unflatten(0, (-1, self.count))
        sums, counts = torch.einsum("opiq,tpq->oit", parts, places), places.sum((1, 2)).clamp_min(1)
        self.kernel.copy_((sums / counts).view_as(self.kernel))
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> AbstractWeight | None:
        """Cut whole channels; single positions of a channel leave no convolution."""
        rows, columns = self._channels(out), self._channels(inp)
        if (out is not None and rows is None) or (inp is not None and columns is None):
            return None
        kernel = take(take(self.kernel.detach(), 0, rows), 1, columns)
        self.kernel = nn.Parameter(kernel.clone(), requires_grad=self.kernel.requires_grad)
        self.out_features, self.in_features = len(kernel) * self.count, kernel.shape[1] * self.count
        self.rows = self.out_features // self.gates
        return self

    def _channels(self, index: Tensor | None) -> Tensor | None:
        """The channels that `index` has with all their positions, in order; None unless it has no others."""
        if index is None or len(index) % self.count:
            return None
        found = index.view(-1, self.count)
        whole = found[:, :1] // self.count * self.count + torch.arange(self.count, device=index.device)
        return found[:, 0] // self.count if torch.equal(found, whole) else None

    def _term(self) -> ConvolutionTerm:
        return ConvolutionTerm(self.kernel, self.spec.positions)
