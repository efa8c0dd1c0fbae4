"""Toeplitz-like weight: a matrix of low displacement rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from .base import AbstractWeight, WeightSpec
from .terms import Term
from .toeplitz_term import ToeplitzTerm, displacement


@dataclass(frozen=True)
class ToeplitzLike(WeightSpec):
    """`M = sum_j Z_1(g_j) Z_-1(h_j)`, j = 1 .. rank, in every gate: `2 * rank * in` numbers for `in` rows.

    `Z_f(v)` is the f-circulant matrix with first column v: `Z_f(v)[i, j] = v[i - j]`, and `f v[n + i - j]` for i < j.
    The displacement `Z_1 M - M Z_-1` of such a matrix has the given rank, where Z_f moves a vector's entries down by
    one. That includes every Toeplitz matrix from rank 2 on, and, unlike a matrix of low rank, M is in general of full
    rank, even with `rank=1`. A product takes `2 * rank + 2` Fourier transforms.

    Gates of more rows than columns are square blocks below each other, the last of them cut off, each with numbers of
    its own; gates of fewer rows are one block, cut off.

    >>> ToeplitzLike(rank=4).build(4 * 256, 256, gates=4).stored_parameters()  # in place of 262144
    8192

    Sources: Sindhwani, Sainath, Kumar, "Structured Transforms for Small-Footprint Deep Learning", 2015; Lu, Sindhwani,
    Sainath, "Learning Compact Recurrent Neural Networks", 2016, section 3.
    """

    rank: int

    def __post_init__(self):
        check_positive(self.rank, "rank")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> ToeplitzLikeWeight:
        return ToeplitzLikeWeight(self, out_features, in_features, gates)


class ToeplitzLikeWeight(AbstractWeight):
    """`first` has the vectors g, `second` the h: (blocks, rank, in_features), the blocks of one gate side by side."""

    spec: ToeplitzLike

    def __init__(self, spec: ToeplitzLike, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        if spec.rank > in_features:
            raise invalid(
                "rank", got=spec.rank, expected=f"at most in_features={in_features}", hint="use Dense() for this matrix"
            )
        blocks = gates * -(-self.rows // in_features)
        self.first = nn.Parameter(torch.empty(blocks, spec.rank, in_features))
        self.second = nn.Parameter(torch.empty(blocks, spec.rank, in_features))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """`M x` by Fourier transforms, or with the dense matrix where many vectors share its cost."""
        if x.numel() > self.in_features**2 // 4:
            return nn.functional.linear(x, self.dense())
        y = _product(self.first, self.second, x)
        return y.unflatten(-2, (self.gates, -1)).flatten(-2)[..., : self.rows].flatten(-2)

    def dense(self) -> Tensor:
        """M, from its displacement."""
        return self.terms()[0].dense()

    def terms(self) -> tuple[Term, ...]:
        """One, that the core stores as it is."""
        return (ToeplitzTerm(self.first, self.second, self.out_features, self.gates),)

    def from_dense_(self, matrix: Tensor) -> ToeplitzLikeWeight:
        """Exact for matrices whose displacement is of this rank, from its singular vectors; else least squares."""
        self._check_matrix(matrix)
        target, rank = matrix.detach().double(), self.spec.rank
        u, s, vt = torch.linalg.svd(displacement(self._blocks(target)), full_matrices=False)
        root = (s[:, :rank, None] / 2).sqrt()
        found = root * u[..., :rank].mT, root * vt[:, :rank].flip(-1)
        starts = [self._nearest(target, *pair) for pair in (found, (self.first.double(), self.second.double()))]
        error, first, second = min(starts, key=lambda start: start[0])
        with torch.no_grad():
            self.first.copy_(first)
            self.second.copy_(second)
        if error > 16 * torch.finfo(self.first.dtype).eps * float(target.norm()):
            super().from_dense_(matrix)
        return self

    @torch.no_grad()
    def _nearest(self, matrix: Tensor, first: Tensor, second: Tensor) -> tuple[float, Tensor, Tensor]:
        """The multiple of what the vectors make that is nearest to `matrix`: its distance, and its vectors."""
        made = ToeplitzTerm(first, second, self.out_features, self.gates).dense()
        scale = (made * matrix).sum() / made.square().sum().clamp_min(torch.finfo(made.dtype).tiny)
        return float((scale * made - matrix).norm()), scale * first, second

    def _blocks(self, matrix: Tensor) -> Tensor:
        """The square blocks, (blocks, in, in); rows that were cut off are zero."""
        n = self.in_features
        missing = -self.rows % n
        return nn.functional.pad(matrix.unflatten(0, (self.gates, -1)), (0, 0, 0, missing)).reshape(-1, n, n)


def _product(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
    """`sum_j Z_1(g_j) Z_-1(h_j) x` of every block: (..., n) -> (..., blocks, n).

    A circulant matrix is diagonal in the Fourier basis, a skew-circulant one in the basis that is turned by
    `exp(i pi k / n)`.
    """
    n, dtype = x.shape[-1], x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        first, second, x = first.float(), second.float(), x.float()
    angles = torch.arange(n, dtype=x.dtype, device=x.device) * (math.pi / n)
    turn = torch.polar(torch.ones_like(angles), angles)
    spectrum = torch.fft.fft(turn * second) * torch.fft.fft(turn * x)[..., None, None, :]
    inner = (torch.fft.ifft(spectrum) * turn.conj()).real
    return torch.fft.irfft((torch.fft.rfft(inner) * torch.fft.rfft(first)).sum(-2), n).to(dtype)
