"""Group lasso: a penalty on the norm of each unit's group, and a threshold on its entries."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import invalid
from .groups import Group
from .method import AbstractPruningMethod


class ProximalGroupLasso(AbstractPruningMethod):
    """Adds `strength * sum_k norm_k` to the loss and sets entries of magnitude below `threshold` to zero at each step.

    `norm_k` is the Euclidean norm of the group of unit k. A strength belongs to a loss reduction: for a loss summed
    over n time steps where yours is a mean, give `loss_steps=n`.

    Raises:
        ValueError: an argument out of range.

    Source: W. Wen et al., Learning Intrinsic Sparse Structures within Long Short-Term Memory, ICLR 2018.
    """

    def __init__(self, strength: float, *, loss_steps: int = 1, threshold: float = 1e-4):
        super().__init__()
        if not strength >= 0:
            raise invalid("strength", got=strength, expected="a number >= 0")
        if not threshold >= 0 or loss_steps < 1:
            raise invalid(
                "threshold, loss_steps", got=f"{threshold}, {loss_steps}", expected="threshold >= 0, loss_steps >= 1"
            )
        self.strength, self.threshold = strength / loss_steps, threshold
        self.advice = "train longer, or with a larger strength or threshold" if strength else ""

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

    def progress(self, count: int) -> str:
        """How long the penalty has been applied."""
        return f"{count} steps with strength {self.strength:g}"
