"""Kronecker-product weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_divides, check_positive, invalid
from .base import AbstractWeight, WeightSpec
from .kronecker_term import KroneckerTerm
from .terms import Term


@dataclass(frozen=True, repr=False)
class Kronecker(WeightSpec):
    """`W = A (x) B` in every gate: an `(a*c, b*d)` map from `a*b + c*d` numbers; B is `out_block` x `in_block`.

    A block size that is not given is the largest divisor up to the square root: of 512 rows in a gate, 16. With `rank`
    r, W is a sum of r such products, of r times as many numbers; every matrix is one, of rank `min(a*b, c*d)` at most.

    >>> Kronecker().build(4 * 256, 256, gates=4).stored_parameters()  # in place of 262144
    2048

    Sources: Jose, Cisse, Fleuret, "Kronecker Recurrent Units", 2018 (there with complex, nearly unitary factors); Van
    Loan, Pitsianis, "Approximation with Kronecker Products", 1993.
    """

    out_block: int | None = None
    in_block: int | None = None
    rank: int = 1

    def __post_init__(self):
        check_positive(self.rank, "rank")

    def __repr__(self) -> str:
        given = {"out_block": self.out_block, "in_block": self.in_block, "rank": None if self.rank == 1 else self.rank}
        return f"Kronecker({', '.join(f'{name}={n}' for name, n in given.items() if n is not None)})"

    def build(self, out_features: int, in_features: int, gates: int = 1) -> KroneckerWeight:
        return KroneckerWeight(self, out_features, in_features, gates)


class KroneckerWeight(AbstractWeight):
    """`left` has the A, (gates, rank, a, b), `right` the B, (gates, rank, out_block, in_block).

    Applies W without forming it: reshape x to a matrix X, return `sum_r A_r X B_r^T`.
    """

    spec: Kronecker

    def __init__(self, spec: Kronecker, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        out_block = _block(spec.out_block, self.rows, "out_features per gate", "out_block")
        in_block = _block(spec.in_block, in_features, "in_features", "in_block")
        tall, wide = self.rows // out_block, in_features // in_block
        most = min(tall * wide, out_block * in_block)
        if spec.rank > most:
            expected = f"at most {most}, the smaller of {tall} x {wide} and {out_block} x {in_block}"
            raise invalid("rank", got=spec.rank, expected=expected, hint="use Dense() for this matrix")
        self.left = nn.Parameter(torch.empty(gates, spec.rank, tall, wide))
        self.right = nn.Parameter(torch.empty(gates, spec.rank, out_block, in_block))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """By the factors, or with the dense matrix where that is less work."""
        count, size = x.numel() // self.in_features, self.out_features * self.in_features
        # a multiplication in a small product takes as long as 8 in a large one, an entry of the matrix as long as 32
        if count * (8 * self.macs() - size) > 32 * size:
            return nn.functional.linear(x, self.dense())
        grid = x.unflatten(-1, (self.left.shape[-1], self.right.shape[-1]))[..., None, None, :, :]
        return (self.left @ grid @ self.right.mT).sum(-3).flatten(-3)

    def dense(self) -> Tensor:
        return KroneckerTerm(self.left, self.right).dense()

    def terms(self) -> tuple[Term, ...]:
        """One, that the core stores as it is."""
        return (KroneckerTerm(self.left, self.right),)

    @torch.no_grad()
    def from_dense_(self, matrix: Tensor) -> KroneckerWeight:
        """The nearest of its rank: with every block of `matrix` as a row, `A (x) B` is the outer product of A and B.

        So A and B are the leading singular vectors of the blocks, each times the root of the singular value.
        """
        self._check_matrix(matrix)
        _, rank, tall, wide = self.left.shape
        _, _, out_block, in_block = self.right.shape
        blocks = matrix.detach().double().reshape(self.gates, tall, out_block, wide, in_block)
        u, s, vt = torch.linalg.svd(blocks.transpose(2, 3).flatten(3).flatten(1, 2), full_matrices=False)
        root = s[:, :rank, None].sqrt()
        self.left.copy_((u.mT[:, :rank] * root).view_as(self.left))
        self.right.copy_((vt[:, :rank] * root).view_as(self.right))
        return self


def _block(given: int | None, total: int, total_name: str, name: str) -> int:
    """The block size `given`, or the largest divisor of `total` up to its square root."""
    if given is not None:
        check_divides(total, given, total_name, name)
        return given
    found = _divisor(total)
    if found == 1 and total > 3:
        raise invalid(
            total_name,
            got=f"{total}, a prime number",
            expected=f"a product of two numbers, of which {name} is one",
            hint=f"the nearest are {total - 1} and {total + 1}; or give {name}=1 or {name}={total}",
        )
    return found


def _divisor(total: int) -> int:
    return next(n for n in range(math.isqrt(total), 0, -1) if total % n == 0)
