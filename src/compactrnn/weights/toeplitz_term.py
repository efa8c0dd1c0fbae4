"""Blocks of low displacement rank, and the displacement of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime.toeplitz import ToeplitzBlocks
from .terms import Term


@dataclass(frozen=True, eq=False)
class ToeplitzTerm(Term):
    """Square blocks `sum_j Z_1(g_j) Z_-1(h_j)` below each other; see `compactrnn.weights.ToeplitzLike`.

    `first` has the g and `second` the h, both of shape (blocks, rank, in). The `rows` rows in all are those of `gates`
    gates, the last block of each of which may be cut off. A model file stores g and h; the core multiplies with the
    matrix that it makes of them when it opens the file, or by polynomials; see `runtime.toeplitz.ToeplitzBlocks`.
    """

    first: Tensor
    second: Tensor
    rows: int
    gates: int = 1

    def dense(self) -> Tensor:
        """The blocks below each other, O(rank in^2) operations for each."""
        blocks = from_displacement(2 * self.first.mT @ self.second.flip(-1))
        return blocks.unflatten(0, (self.gates, -1)).flatten(1, 2)[:, : self.rows // self.gates].flatten(0, 1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.first.shape[-1]

    @property
    def stored(self) -> int:
        """The entries of g and h."""
        return self.first.numel() + self.second.numel()

    @property
    def read(self) -> int:
        """The entries of the matrix, or of the transforms of g and h."""
        by_polynomials = ToeplitzBlocks(self.rows, self.gates).is_spectral(*self.first.shape[-2:])
        return self.stored if by_polynomials else self.rows * self.first.shape[-1]

    @property
    def macs(self) -> int:
        """Those of the matrix, or of its polynomials."""
        return ToeplitzBlocks(self.rows, self.gates).macs_of(*self.first.shape[-2:])


def displacement(matrix: Tensor) -> Tensor:
    """`Z_1 M - M Z_-1` of square matrices M, (..., n, n).

    Z_f moves every entry of a vector down by one and puts f times the last entry first.
    """
    return matrix.roll(1, -2) - torch.cat([matrix[..., 1:], -matrix[..., :1]], -1)


def from_displacement(difference: Tensor) -> Tensor:
    """The matrices M of which `difference`, (..., n, n), is the `displacement`.

    Along a diagonal, neighbors of M differ by an entry of it: sums along all diagonals, each of which ends at minus
    its start, are all there is to compute.

    >>> m = torch.randn(4, 4, dtype=torch.float64)
    >>> torch.allclose(from_displacement(displacement(m)), m)
    True
    """
    return _FromDisplacement.apply(difference, False)  # pyright: ignore


class _FromDisplacement(torch.autograd.Function):
    """Linear. Its adjoint is itself between reversals of all rows and columns, so it has derivatives of every order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(difference: Tensor, adjoint: bool) -> Tensor:
        blocks = difference.reshape(-1, *difference.shape[-2:]).unbind()  # one by one, which takes little memory
        made = [_matrix(block.flip(0, 1)).flip(0, 1) if adjoint else _matrix(block) for block in blocks]
        return torch.stack(made).view(difference.shape)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.adjoint = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return _FromDisplacement.apply(grad, not ctx.adjoint), None  # pyright: ignore

    @staticmethod
    def jvp(ctx, tangent: Tensor, _: None) -> Tensor:  # pyright: ignore
        return _FromDisplacement.apply(tangent, ctx.adjoint)  # pyright: ignore


def _matrix(difference: Tensor) -> Tensor:
    along = _skewed(difference)  # a diagonal of M in each row
    sums = along.cumsum(-1)
    # a diagonal starts with half of all its differences, as it ends at minus its start
    diagonals = along.sub_(sums).add_(sums[:, -1:], alpha=0.5)
    return _skewed(diagonals.flip(-1)).flip(-1)


def _skewed(matrix: Tensor) -> Tensor:
    """Entry [i, j] is entry [i + j + 1, j] of `matrix`, rows counted modulo n."""
    n = matrix.shape[-1]
    return torch.cat([matrix, matrix]).as_strided((n, n), (n, n + 1), n).contiguous()
