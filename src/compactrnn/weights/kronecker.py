"""Kronecker-product weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_divides
from .base import AbstractWeight, WeightSpec


@dataclass(frozen=True)
class Kronecker(WeightSpec):
    """`W = A (x) B` in every gate: an `(a*c, b*d)` map from `a*b + c*d` numbers; B is `out_block` x `in_block`.

    >>> Kronecker(out_block=8, in_block=8).build(256, 64).stored_parameters()
    320

    Source: Jose, Cisse, Fleuret, "Kronecker Recurrent Units", 2018 (there with complex, nearly unitary factors).
    """

    out_block: int
    in_block: int

    def build(self, out_features: int, in_features: int, gates: int = 1) -> KroneckerWeight:
        return KroneckerWeight(self, out_features, in_features, gates)


class KroneckerWeight(AbstractWeight):
    """Applies `A (x) B` without forming it: reshape x to a matrix X, return `A X B^T`."""

    def __init__(self, spec: Kronecker, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        tall = check_divides(self.rows, spec.out_block, "out_features per gate", "out_block")
        wide = check_divides(in_features, spec.in_block, "in_features", "in_block")
        self.left = nn.Parameter(torch.empty(gates, tall, wide))
        self.right = nn.Parameter(torch.empty(gates, spec.out_block, spec.in_block))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        grid = x.unflatten(-1, (self.left.shape[-1], self.right.shape[-1])).unsqueeze(-3)
        return (self.left @ grid @ self.right.mT).flatten(-3)

    def dense(self) -> Tensor:
        return torch.cat([torch.kron(a, b) for a, b in zip(self.left, self.right, strict=True)])
