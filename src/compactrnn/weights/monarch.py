"""Monarch weight: two block-diagonal factors and a permutation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_divides, check_positive
from .base import AbstractWeight, WeightSpec
from .block_term import Blocks
from .terms import Selection, Term


@dataclass(frozen=True)
class Monarch(WeightSpec):
    """`W = P L P' R`: L and R have `blocks` = b diagonal blocks, P and P' transpose grids of b columns and b rows:

        W[s b + j, i in / b + t] = L_j[s, i] R_i[j, t],     0 <= i, j < b

    which is `b (out + in)` numbers, those of rank b, but every entry of the output depends on every entry of the input
    and W is in general of full rank. All gates share R.

    >>> Monarch(blocks=16).build(4 * 256, 256, gates=4).stored_parameters()  # in place of 262144
    20480

    Raises:
        ValueError: by `build`, for sizes that `blocks` does not divide.

    Source: Dao et al., "Monarch: Expressive Structured Matrices for Efficient and Accurate Training", 2022, section 3.
    """

    blocks: int

    def __post_init__(self):
        check_positive(self.blocks, "blocks")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> MonarchWeight:
        return MonarchWeight(self, out_features, in_features, gates)


class MonarchWeight(AbstractWeight):
    """`left` has the blocks of L, (b, out_features / b, b), `right` those of R, (b, b, in_features / b)."""

    def __init__(self, spec: Monarch, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        check_divides(self.rows, spec.blocks, "out_features per gate", "blocks")
        wide = check_divides(in_features, spec.blocks, "in_features", "blocks")
        self.left = nn.Parameter(torch.empty(spec.blocks, out_features // spec.blocks, spec.blocks))
        self.right = nn.Parameter(torch.empty(spec.blocks, spec.blocks, wide))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.einsum("ijt,...it->...ji", self.right, x.unflatten(-1, (len(self.right), -1)))
        return torch.einsum("jsi,...ji->...sj", self.left, inner).flatten(-2)

    def dense(self) -> Tensor:
        return torch.einsum("jsi,ijt->sjit", self.left, self.right).reshape(self.out_features, self.in_features)

    def terms(self) -> tuple[Term, ...]:
        count, tall, _ = self.left.shape
        rows = torch.arange(self.out_features, device=self.left.device).view(count, tall).T.flatten()
        inner = torch.arange(count * count, device=self.left.device).view(count, count).T.flatten()
        left, right = Blocks(self.left, count), Blocks(self.right, count)
        return Selection(rows, self.out_features), left, Selection(inner, count * count), right

    def from_dense_(self, matrix: Tensor) -> MonarchWeight:
        """The nearest: of the entries with the same i and j, a matrix over (s, t), the best one of rank one."""
        self._check_matrix(matrix)
        count = len(self.left)
        slices = matrix.detach().double().view(-1, count, count, self.right.shape[2]).permute(1, 2, 0, 3)
        u, s, vt = torch.linalg.svd(slices, full_matrices=False)  # (j, i, ...)
        root = s[..., :1].sqrt()
        with torch.no_grad():
            self.left.copy_((u[..., 0] * root).transpose(1, 2))
            self.right.copy_((vt[..., 0, :] * root).transpose(0, 1))
        return self

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> MonarchWeight:
        """Exact: rows of L, columns of R."""
        count = len(self.left)
        with torch.no_grad():
            if out is not None:
                self.left.mul_(out.view(-1, count).T.unsqueeze(-1))
            if inp is not None:
                self.right.mul_(inp.view(count, 1, -1))
        return self
