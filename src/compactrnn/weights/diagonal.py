"""Diagonal weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import invalid
from . import terms
from .base import AbstractWeight, WeightSpec, take


@dataclass(frozen=True)
class Diagonal(WeightSpec):
    """`y_i = d_i x_i` in every gate, which has as many rows as columns: `gates * in` numbers.

    >>> Diagonal().build(64, 16, gates=4).stored_parameters()
    64
    >>> import compactrnn as cr
    >>> layer = cr.LSTM(8, 16, hidden_weight=cr.LowRank(4) + Diagonal())

    Raises:
        ValueError: by `build`, for gates that are not square.

    Source: as the recurrence of a layer, Li et al., "Independently Recurrent Neural Network", 2018.
    """

    def build(self, out_features: int, in_features: int, gates: int = 1) -> DiagonalWeight:
        return DiagonalWeight(self, out_features, in_features, gates)


class DiagonalWeight(AbstractWeight):
    """`diagonal` has the d of all gates, (gates, in_features)."""

    def __init__(self, spec: Diagonal, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        if self.rows != in_features:
            raise invalid(
                "out_features per gate",
                got=self.rows,
                expected=f"in_features={in_features}, as a diagonal matrix is square",
                hint="use another weight for this matrix",
            )
        self.diagonal = nn.Parameter(torch.empty(gates, in_features))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.gates == 1 else torch.cat([x] * self.gates, -1)) * self.diagonal.flatten()

    def dense(self) -> Tensor:
        return torch.diag_embed(self.diagonal).flatten(0, 1)

    def terms(self) -> tuple[terms.Term, ...]:
        """The numbers of all gates on one diagonal, and the input once for each gate."""
        if self.gates == 1:
            return (terms.Diagonal(self.diagonal[0]),)
        index = torch.arange(self.in_features, device=self.diagonal.device).repeat(self.gates)
        return terms.Diagonal(self.diagonal.flatten()), terms.Selection(index, self.in_features)

    def from_dense_(self, matrix: Tensor) -> DiagonalWeight:
        """The nearest: its diagonals."""
        self._check_matrix(matrix)
        with torch.no_grad():
            self.diagonal.copy_(matrix.unflatten(0, (self.gates, -1)).diagonal(0, 1, 2))
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> AbstractWeight | None:
        """Where the same units are kept of rows and columns."""
        if out is not None or inp is not None:
            if out is None or inp is None or not torch.equal(out[: len(out) // self.gates].cpu(), inp.cpu()):
                return None
            kept = take(self.diagonal.detach(), 1, inp)
            self.diagonal = nn.Parameter(kept, requires_grad=self.diagonal.requires_grad)
            self.out_features, self.in_features = len(out), len(inp)
            self.rows = self.in_features
        return self

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> DiagonalWeight:
        """Exact."""
        with torch.no_grad():
            if out is not None:
                self.diagonal.mul_(out.unflatten(0, (self.gates, -1)))
            if inp is not None:
                self.diagonal.mul_(inp)
        return self
