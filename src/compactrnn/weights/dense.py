"""Dense weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import AbstractWeight, WeightSpec, take
from .products import linear


@dataclass(frozen=True)
class Dense(WeightSpec):
    """Every entry of W is its own parameter.

    >>> Dense().build(6, 4).stored_parameters()
    24
    """

    def build(self, out_features: int, in_features: int, gates: int = 1) -> DenseWeight:
        return DenseWeight(self, out_features, in_features, gates)


DENSE = Dense()


class DenseWeight(AbstractWeight):
    """`weight` is W, (out_features, in_features)."""

    def __init__(self, spec: Dense, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    @classmethod
    def of(cls, matrix: Tensor, gates: int = 1) -> DenseWeight:
        """A weight whose `weight` is `matrix` itself, not a copy: a parameter, or a buffer if it is another tensor."""
        with torch.device("meta"):
            weight = cls(Dense(), matrix.shape[0], matrix.shape[1], gates)
        del weight.weight
        if isinstance(matrix, nn.Parameter):
            weight.weight = matrix
        else:
            weight.register_buffer("weight", matrix)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)

    def dense(self) -> Tensor:
        return self.weight

    def reset_parameters(self, bound: float | None = None) -> None:
        """Draw from U(-bound, bound), bound = in_features ** -0.5 unless given, as torch's layers do."""
        if self.weight.is_meta:
            return
        limit = float(self.in_features**-0.5 if bound is None else bound)
        nn.init.uniform_(self.weight, -limit, limit)

    def from_dense_(self, matrix: Tensor) -> DenseWeight:
        self._check_matrix(matrix)
        with torch.no_grad():
            self.weight.copy_(matrix)
        return self

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> DenseWeight:
        with torch.no_grad():
            if out is not None:
                self.weight.mul_(out.unsqueeze(-1))
            if inp is not None:
                self.weight.mul_(inp)
        return self


def select(weight: AbstractWeight, out: Tensor | None = None, inp: Tensor | None = None) -> AbstractWeight:
    """`weight` with rows `out` and columns `inp` alone: itself where its structure can be cut, else a dense matrix.

    See `AbstractWeight.select_`. Assign the result: `cell.hidden = select(cell.hidden, out=...)`.

    >>> from compactrnn.weights import Kronecker
    >>> select(Kronecker(2, 2).build(8, 4), out=torch.arange(3))
    DenseWeight(3x4, Dense())
    """
    if (kept := weight.select_(out, inp)) is not None:
        return kept
    matrix = take(take(weight.dense().detach(), 0, out), 1, inp)
    trainable = any(p.requires_grad for p in weight.parameters())
    return DenseWeight.of(nn.Parameter(matrix.clone(), requires_grad=trainable), gates=weight.gates)
