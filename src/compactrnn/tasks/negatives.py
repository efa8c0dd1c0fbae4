"""Negatives of a sampled softmax: which symbols an update compares its targets with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from .batch import Batch


@dataclass(frozen=True, kw_only=True)
class SampledBatch(Batch):
    """A batch with the symbols that all its targets are compared with, and the logarithm of the odds of being drawn.

    `negatives`, int64 (count,), and `log_inclusion`, float32 (count,).
    """

    negatives: Tensor
    log_inclusion: Tensor

    def to(self, device: torch.device | str) -> Self:
        moved = super().to(device)
        return replace(moved, negatives=self.negatives.to(device), log_inclusion=self.log_inclusion.to(device))


class NegativeSampler:
    """Draws `size` different symbols, symbol i with probability p_i = min(1, c n_i ^ power), n_i being its count.

    c is such that the p_i add up to `size`. With p_i the sum of any function over all symbols has an unbiased
    estimate from those drawn, `sum f_i / p_i`. Systematic sampling gives exactly these probabilities: the p_i are laid
    side by side in random order, and what lies at u, u + 1, u + 2, ... is drawn (Madow, On the theory of systematic
    sampling, 1949).

    >>> sampler = NegativeSampler(np.array([1000, 10, 10, 10, 10]), size=3, power=0.5, seed=0)
    >>> sampler.inclusion
    array([1. , 0.5, 0.5, 0.5, 0.5])
    >>> len(set(sampler.draw(0).tolist()))
    3
    """

    def __init__(self, counts: np.ndarray, size: int, power: float, seed: int):
        self.size, self.seed = size, seed
        self.inclusion = inclusion_probabilities(np.maximum(counts, 1) ** power, size)
        self._certain = np.flatnonzero(self.inclusion == 1)
        self._others = np.flatnonzero(self.inclusion < 1)

    def draw(self, *position: int) -> np.ndarray:
        """The symbols of the update at `position`; the same numbers always give the same ones."""
        random = np.random.default_rng((self.seed, *position))
        order = random.permutation(self._others)
        edges = np.cumsum(self.inclusion[order])
        drawn = order[np.searchsorted(edges, random.random() + np.arange(self.size - len(self._certain)))]
        return np.sort(np.concatenate([self._certain, drawn]))

    def sampled(self, batch: Batch, *position: int) -> SampledBatch:
        """`batch` with the negatives of the update at `position`."""
        drawn = self.draw(*position)
        log_inclusion = torch.as_tensor(np.log(self.inclusion[drawn]), dtype=torch.float32)
        return SampledBatch(
            batch.inputs, batch.targets, batch.lengths, negatives=torch.as_tensor(drawn), log_inclusion=log_inclusion
        )


def inclusion_probabilities(weights: np.ndarray, size: int) -> np.ndarray:
    """`min(1, c weights)` with the c for which they add up to `size`."""
    found = np.ones(len(weights))
    free = np.arange(len(weights))
    while len(free):
        left = size - (len(weights) - len(free))
        odds = left * weights[free] / weights[free].sum()
        if odds.max() < 1:
            found[free] = odds
            break
        free = free[odds < 1]
    return found
