"""Low-rank weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_part, check_positive, invalid
from .base import AbstractWeight, WeightSpec, resize_, take
from .terms import Matrix, Term


@dataclass(frozen=True, repr=False)
class LowRank(WeightSpec):
    """`W = Z P`, Z of shape (out, rank), P of shape (rank, in): `rank * (out + in)` numbers; all gates share P.

    Give `rank`, or `energy`: then the matrix starts at full rank, and `from_dense_` takes the smallest rank r with
    `sum_{i <= r} s_i^2 >= energy * sum_i s_i^2` over the singular values s of what it is given.

    >>> LowRank(rank=4).build(64, 16, gates=4).stored_parameters()
    320
    >>> matrix = torch.diag(torch.tensor([3.0, 1.0, 0.1]))
    >>> LowRank(energy=0.99).build(3, 3).from_dense_(matrix).rank
    2

    Source: Lu, Sindhwani, Sainath, "Learning Compact Recurrent Neural Networks", 2016, section 3.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self):
        if (self.rank is None) == (self.energy is None):
            raise invalid("LowRank", got=f"rank={self.rank}, energy={self.energy}", expected="exactly one of the two")
        if self.rank is not None:
            check_positive(self.rank, "rank")
        else:
            check_part(self.energy, "energy")

    def __repr__(self) -> str:
        return f"LowRank(rank={self.rank})" if self.energy is None else f"LowRank(energy={self.energy})"

    def build(self, out_features: int, in_features: int, gates: int = 1) -> LowRankWeight:
        return LowRankWeight(self, out_features, in_features, gates)


class LowRankWeight(AbstractWeight):
    """`left` is Z, (out_features, rank); `right` is P, (rank, in_features)."""

    spec: LowRank

    def __init__(self, spec: LowRank, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        full = min(out_features, in_features)
        rank = full if spec.rank is None else spec.rank
        if rank > full:
            raise invalid(
                "rank",
                got=rank,
                expected=f"at most {full}, the smaller side of a {out_features} x {in_features} matrix",
                hint="use Dense() for this matrix",
            )
        self.left = nn.Parameter(torch.empty(out_features, rank))
        self.right = nn.Parameter(torch.empty(rank, in_features))
        self.reset_parameters()

    @classmethod
    def of(cls, left: Tensor, right: Tensor, gates: int = 1) -> LowRankWeight:
        """The weight of these factors, (out_features, rank) and (rank, in_features)."""
        with torch.device("meta"):
            weight = cls(LowRank(rank=1), left.shape[0], right.shape[1], gates)
        weight.spec = LowRank(rank=right.shape[0])
        weight._set_factors(left, right)
        return weight

    @property
    def rank(self) -> int:
        """The inner size, an upper bound of the rank of W."""
        return self.right.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.right), self.left)

    def dense(self) -> Tensor:
        return self.left @ self.right

    def terms(self) -> tuple[Term, ...]:
        return Matrix(self.left), Matrix(self.right)

    def from_dense_(self, matrix: Tensor) -> LowRankWeight:
        """The best approximation of its rank: `matrix = U S V^T` cut to r, `Z = U S^(1/2)`, `P = S^(1/2) V^T`."""
        self._check_matrix(matrix)
        left, s, right = principal_factors(matrix)
        rank = self.rank if self.spec.energy is None else rank_of_energy(s, self.spec.energy)
        self._set_factors(left[:, :rank].to(self.left), right[:rank].to(self.right))
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> AbstractWeight | None:
        """Cut the rows of Z and the columns of P, unless a dense matrix is then the smaller one."""
        left, right = take(self.left, 0, out), take(self.right, 1, inp)
        if self.rank > min(left.shape[0], right.shape[1]):
            return None
        self._set_factors(left.detach(), right.detach())
        self.out_features, self.in_features = left.shape[0], right.shape[1]
        self.rows = self.out_features // self.gates
        return self

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> LowRankWeight:
        """Exact: rows of Z, columns of P."""
        with torch.no_grad():
            if out is not None:
                self.left.mul_(out[:, None])
            if inp is not None:
                self.right.mul_(inp)
        return self

    def _set_factors(self, left: Tensor, right: Tensor) -> None:
        if left.shape == self.left.shape and right.shape == self.right.shape and not self.left.is_meta:
            with torch.no_grad():
                self.left.copy_(left)
                self.right.copy_(right)
        else:
            # in the layout that a built weight has, for the same products to the last bit
            left, right = (factor.detach().clone(memory_format=torch.contiguous_format) for factor in (left, right))
            self.left = nn.Parameter(left, requires_grad=self.left.requires_grad)
            self.right = nn.Parameter(right, requires_grad=self.right.requires_grad)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # the rank that an energy led to is known to the state dict alone
        right = state_dict.get(prefix + "right")
        if self.spec.energy is not None and right is not None and right.shape[0] != self.rank:
            resize_(self.left, self.out_features, right.shape[0])
            resize_(self.right, right.shape[0], self.in_features)
        super()._load_from_state_dict(state_dict, prefix, *args)


def principal_factors(matrix: Tensor, moment: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Z, s and P with `matrix = Z P`: the first r columns of Z and rows of P are its best approximation of rank r.

    The error is `|W - Z P|^2` (Frobenius), or with `moment`, E[x x^T] of shape (in, in) or its diagonal (in,), the
    expected error of the product, `E |W x - Z P x|^2`. At rank r it is `sum_{i > r} s_i^2`: s are the singular values
    of `W M^(1/2)`, M the moment, and Z spans the first r principal components of what the product gives. In float64.

    >>> left, s, right = principal_factors(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 9.0]))
    >>> s
    tensor([3., 2.], dtype=torch.float64)

    Source: Izenman, "Reduced-rank regression for the multivariate linear model", 1975.
    """
    w = matrix.detach().double()  # so that a matrix that has this rank is met to the last digits of its own type
    if moment is None:
        scaled = w
    elif moment.dim() == 1:
        scaled = w * moment.to(w).sqrt()
    else:
        values, vectors = torch.linalg.eigh(moment.to(w))
        scaled = w @ (vectors * values.clamp_min(0).sqrt())
    u, s, _ = torch.linalg.svd(scaled, full_matrices=False)
    u = u * w.any(1, keepdim=True)  # a row of zeros, such as a padding token's, is not rounded
    right = u.T @ w
    root = right.norm(dim=1).sqrt()  # both factors are of one size
    return u * root, s, right / root.clamp_min(torch.finfo(w.dtype).tiny)[:, None]


def rank_of_energy(singular_values: Tensor, energy: float) -> int:
    """The smallest r with `sum_{i <= r} s_i^2 >= energy * sum_i s_i^2`, at least 1."""
    explained = singular_values.square().cumsum(0)
    return max(1, int((explained < energy * explained[-1]).sum()) + 1) if explained[-1] > 0 else 1
