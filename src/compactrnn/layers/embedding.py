"""An embedding with a low-rank table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..weights.base import AbstractWeight, WeightSpec
from ..weights.dense import DENSE, Dense
from ..weights.low_rank import LowRank, LowRankWeight
from ..weights.quantized import Quantized, QuantizedWeight


class Embedding(nn.Module):
    """Row t of W for each token t: `torch.nn.Embedding` with W, (num_embeddings, embedding_dim), dense or low rank.

    With `LowRank`, `W = Z P`, row t of the smaller table Z is looked up and multiplied by P. The row `padding_idx` of Z
    starts at zero and gets no gradient.

    >>> from compactrnn.weights import LowRank
    >>> layer = Embedding(1000, 64, weight=LowRank(rank=8))
    >>> layer(torch.tensor([[3, 999]])).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([1, 2, 64]), 8512)

    Source: Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations", 2020,
    section 3.1.

    Raises:
        ValueError: a weight of another kind, of which rows cannot be looked up.
    """

    weight: AbstractWeight

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        weight: WeightSpec = DENSE,
    ):
        super().__init__()
        if not isinstance(weight, Dense | LowRank | Quantized):
            raise invalid("weight", got=weight, expected="LowRank, Dense or Quantized, of which rows can be looked up")
        self.weight = weight.build(num_embeddings, embedding_dim)
        # torch's own checks, and its reading of negative numbers
        self.padding_idx = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device="meta").padding_idx
        self.to(device=device, dtype=dtype)
        self.reset_parameters()

    @property
    def num_embeddings(self) -> int:
        return self.weight.out_features

    @property
    def embedding_dim(self) -> int:
        return self.weight.in_features

    def forward(self, tokens: Tensor) -> Tensor:
        weight = self.weight
        if isinstance(weight, QuantizedWeight):
            return weight.lookup(tokens, self.padding_idx)
        if not isinstance(weight, LowRankWeight):
            return nn.functional.embedding(tokens, weight.dense(), self.padding_idx)
        rows = nn.functional.embedding(tokens, weight.left, self.padding_idx)
        return nn.functional.linear(rows, weight.right.T)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw W with the variance of N(0, 1), as torch's table."""
        self.weight.reset_parameters(3**0.5)
        if self.padding_idx is not None:
            self.weight.scale_(out=torch.ones(self.num_embeddings).index_fill(0, torch.tensor(self.padding_idx), 0))

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
