"""A linear layer on any weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..weights.base import AbstractWeight, WeightSpec
from ..weights.dense import DENSE


class Linear(nn.Module):
    """`y = W x + b`, `torch.nn.Linear` with W stored in any form: (..., in_features) -> (..., out_features).

    `weight` is the `AbstractWeight` that stores W; initial numbers are drawn with the variance of torch's.

    >>> from compactrnn.weights import LowRank
    >>> layer = Linear(64, 10, weight=LowRank(rank=4))
    >>> layer(torch.randn(3, 64)).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([3, 10]), 306)
    """

    weight: AbstractWeight

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        weight: WeightSpec = DENSE,
    ):
        super().__init__()
        self.weight = weight.build(out_features, in_features)
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.to(device=device, dtype=dtype)
        self.reset_parameters()

    @property
    def in_features(self) -> int:
        return self.weight.in_features

    @property
    def out_features(self) -> int:
        return self.weight.out_features

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight(x)
        return y if self.bias is None else y + self.bias

    def reset_parameters(self) -> None:
        """Draw W and b from U(-c, c), c = in_features ** -0.5, or with the same variance."""
        self.weight.reset_parameters()
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(self.in_features**-0.5), self.in_features**-0.5)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
