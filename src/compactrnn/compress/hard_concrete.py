"""Hard concrete gates: random numbers in [0, 1] that are exactly 0 or 1 with a probability above zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .gates import AbstractGate

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
SHIFT = BETA * math.log(-GAMMA / ZETA)
LARGEST = math.log(100)  # of |log_alpha|


class HardConcrete(AbstractGate):
    """A gate in [0, 1] for each unit.

        s = sigmoid((log u - log(1 - u) + log_alpha) / beta),  u ~ U(0, 1);    in eval mode s = sigmoid(log_alpha)
        g = min(1, max(0, s (zeta - gamma) + gamma)),  beta = 2/3, gamma = -0.1, zeta = 1.1
        P(g != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))

    `u` is drawn by `draw_`. A gate may be moved by `move_`, which takes no notice of what an optimizer did to it. Once
    `settle_` has decided which units stay, the gates are those of eval mode and train no longer.

    >>> gate = HardConcrete(3)
    >>> gate.settle_(torch.tensor([True, False, True])).eval()().gt(0)
    tensor([ True, False,  True])

    Source: C. Louizos, M. Welling, D. P. Kingma, Learning Sparse Neural Networks through L0 Regularization, ICLR 2018.
    """

    noise: Tensor
    momentum: Tensor
    position: Tensor
    settled: Tensor

    def __init__(self, count: int):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.empty(count).normal_(1.0, 0.1))
        self.register_buffer("noise", torch.zeros(count))
        self.register_buffer("momentum", torch.zeros(count))
        self.register_buffer("position", self.log_alpha.detach().clone())
        self.register_buffer("settled", torch.tensor(False))
        self.draw_()

    def draw_(self) -> None:
        """Draw `log u - log(1 - u)`."""
        self.noise.copy_(torch.rand_like(self.noise).clamp(1e-6, 1 - 1e-6).logit())

    def forward(self) -> Tensor:
        drawn = (self.noise + self.log_alpha) / BETA
        s = torch.sigmoid(
            torch.where(self.settled, self.log_alpha.detach(), drawn) if self.training else self.log_alpha
        )
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def active(self) -> Tensor:
        """`P(g != 0)` of each unit, (count,)."""
        return torch.sigmoid(self.log_alpha - SHIFT)

    @torch.no_grad()
    def move_(self, step: Tensor) -> None:
        """Add `step`, (count,), to `log_alpha` as this left it, and forget its gradient."""
        self.position.add_(step).clamp_(-LARGEST, LARGEST)
        self.log_alpha.copy_(self.position)
        self.log_alpha.grad = None

    @torch.no_grad()
    def settle_(self, kept: Tensor) -> HardConcrete:
        """Let the gates of the units in `kept`, (count,) bool, be above zero, those of the others zero, for good."""
        alpha = self.log_alpha
        gone = torch.full_like(alpha, -LARGEST)
        alpha.copy_(torch.where(kept.to(alpha.device), alpha.clamp(-2.0, LARGEST), gone))
        self.settled.fill_(True)
        return self
