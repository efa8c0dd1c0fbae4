"""Removing units by a penalty on the norm of everything that belongs to them."""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import Group


class NormPenalty:
    """Adds `strength * sum_k norm_k` to the loss, and sets entries below `threshold` to zero after each step.

    Source: W. Wen et al., Learning Intrinsic Sparse Structures within Long Short-Term Memory, ICLR 2018.
    """

    def __init__(self, strength: float, threshold: float, minimum: int):
        self.strength, self.threshold, self.minimum = strength, threshold, minimum
        self.steps = 0
        self.out: dict[str, Tensor] = {}

    def penalty(self, groups: list[Group]) -> Tensor:
        """`strength * sum_k norm_k` over the units of all `groups`."""
        device = groups[0].device if groups else None
        norms = [(g.squares() + 1e-8).sqrt().sum().to(device) for g in groups] if self.strength else []
        return self.strength * torch.stack(norms).sum() if norms else torch.zeros((), device=device)

    def step_(self, groups: list[Group], count: int) -> None:
        """Threshold every trainable entry of the groups."""
        parts = {id(p.weight): p for g in groups for p in (*g.writers, *g.readers)}
        for part in parts.values():
            if not part.frozen:
                part.threshold_(self.threshold)

    def fraction(self, name: str, count: int) -> float:
        """No unit is chosen by its rank."""
        return 1.0

    def wanted(self, group: Group) -> int:
        """How many units are to be left at least."""
        return min(self.minimum, group.count)

    def position(self, count: int) -> str:
        """How long the penalty has been at work, for reports."""
        return f"{count} steps with strength {self.strength:g}"

    def ended(self, count: int) -> bool:
        """A penalty has no end."""
        return True
