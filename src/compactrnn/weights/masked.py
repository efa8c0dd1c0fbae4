"""Row and column masks around a weight whose structure cannot be pruned directly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .base import AbstractWeight


class MaskedWeight(AbstractWeight):
    """`W = diag(rows) V diag(columns)`: V is the wrapped weight with its own parameters, the factors are buffers.

    What a pruner puts around a Kronecker product and its like; cut by `select_`, it becomes dense.
    """

    rows_kept: Tensor
    columns_kept: Tensor

    def __init__(self, inner: AbstractWeight):
        super().__init__(inner.spec, inner.out_features, inner.in_features, inner.gates)
        self.inner = inner
        like = next(inner.parameters())
        self.register_buffer("rows_kept", torch.ones(inner.out_features, dtype=like.dtype, device=like.device))
        self.register_buffer("columns_kept", torch.ones(inner.in_features, dtype=like.dtype, device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.columns_kept) * self.rows_kept

    def dense(self) -> Tensor:
        return self.inner.dense() * self.columns_kept * self.rows_kept.unsqueeze(-1)

    def reset_parameters(self, bound: float | None = None) -> None:
        self.inner.reset_parameters(bound)

    @torch.no_grad()
    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> MaskedWeight:
        """Exact: the factors take it."""
        for name, factors in (("rows_kept", out), ("columns_kept", inp)):
            if factors is not None:
                gated = parametrize.is_parametrized(self, name)
                (self.parametrizations[name].original if gated else getattr(self, name)).mul_(factors)  # pyright: ignore
        return self
