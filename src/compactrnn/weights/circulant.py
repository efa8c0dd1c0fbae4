"""Circulant and block-circulant weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_divides, check_positive
from .base import AbstractWeight, WeightSpec
from .shared_term import CirculantTerm
from .terms import Term


@dataclass(frozen=True)
class Circulant(WeightSpec):
    """`W[i, j] = v[(i - j) mod in]` in every gate: `in` numbers for `in` rows, a product by three Fourier transforms.

    Gates of more rows than columns are square blocks below each other, the last of them cut off; gates of fewer rows
    are one block, cut off.

    >>> Circulant().build(4 * 256, 256, gates=4).stored_parameters()  # in place of 262144
    1024

    Source: Cheng et al., "An exploration of parameter redundancy in deep networks with circulant projections", 2015.
    """

    def build(self, out_features: int, in_features: int, gates: int = 1) -> CirculantWeight:
        return CirculantWeight(self, out_features, in_features, gates, in_features)


@dataclass(frozen=True)
class BlockCirculant(WeightSpec):
    """A grid of circulant blocks of `block` rows and columns in every gate: `out * in / block` numbers.

    >>> BlockCirculant(block=8).build(256, 64).stored_parameters()  # in place of 16384
    2048

    Raises:
        ValueError: by `build`, for sizes that `block` does not divide.

    Source: Wang et al., "C-LSTM: Enabling Efficient LSTM using Structured Compression Techniques on FPGAs", 2018.
    """

    block: int

    def __post_init__(self):
        check_positive(self.block, "block")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> CirculantWeight:
        check_divides(
            check_divides(out_features, gates, "out_features", "gates"), self.block, "out_features per gate", "block"
        )
        check_divides(in_features, self.block, "in_features", "block")
        return CirculantWeight(self, out_features, in_features, gates, self.block)


class CirculantWeight(AbstractWeight):
    """`vectors` has the first column of every block: (gates, blocks below each other, beside each other, block)."""

    def __init__(self, spec: WeightSpec, out_features: int, in_features: int, gates: int, block: int):
        super().__init__(spec, out_features, in_features, gates)
        self.vectors = nn.Parameter(torch.empty(gates, -(-self.rows // block), in_features // block, block))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """By Fourier transforms, or with the dense matrix where many vectors share its cost."""
        if x.numel() > self.in_features**2 // 4:
            return nn.functional.linear(x, self.dense())
        block, vectors = self.vectors.shape[-1], self.vectors
        narrow = x.dtype in (torch.float16, torch.bfloat16)
        parts = x.unflatten(-1, (-1, block))
        spectra = torch.fft.rfft(parts.float() if narrow else parts)
        sums = torch.einsum("gpqf,...qf->...gpf", torch.fft.rfft(vectors.float() if narrow else vectors), spectra)
        return torch.fft.irfft(sums, block).flatten(-2)[..., : self.rows].flatten(-2).to(x.dtype)

    def dense(self) -> Tensor:
        return self.terms()[0].dense()

    def terms(self) -> tuple[Term, ...]:
        """One, of which the core makes the matrix when it opens a file."""
        return (CirculantTerm(self.vectors, self.out_features),)

    def from_dense_(self, matrix: Tensor) -> CirculantWeight:
        """The nearest: the means along the wrapped diagonals of each block."""
        self._check_matrix(matrix)
        _, down, beside, block = self.vectors.shape
        missing = down * block - self.rows
        entries = nn.functional.pad(matrix.detach().unflatten(0, (self.gates, -1)), (0, 0, 0, missing))
        grid = entries.unflatten(2, (beside, block)).unflatten(1, (down, block))  # (gates, down, row, beside, column)
        place = torch.arange(block, device=matrix.device)
        wrapped = (place[:, None] - place) % block  # row i has the diagonal d in column i - d
        diagonals = grid.transpose(2, 3).gather(-1, wrapped.expand(self.gates, down, beside, -1, -1))
        there = torch.full((down,), float(block), dtype=matrix.dtype, device=matrix.device)
        there[-1] -= missing
        with torch.no_grad():
            self.vectors.copy_(diagonals.sum(-2) / there[:, None, None])
        return self
