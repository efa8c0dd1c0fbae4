"""Memories that keep the past as a polynomial, by fixed matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._errors import invalid
from .base import AbstractCell

RULES = ("zoh", "bilinear", "backward")


def system(measure: str, order: int) -> tuple[Tensor, Tensor]:
    """A, (order, order), and B, (order,), of `c'(t) = A c + B f`, in doubles, for a window of length 1.

    - "legt": coefficients of orthonormal Legendre polynomials on a window that slides along
    - "lmu": the same memory, of Legendre polynomials as in the LMU
    - "lagt": coefficients of Laguerre polynomials, of a past that counts exponentially less the older it is

    >>> system("lagt", 3)[0]
    tensor([[-0.5000,  0.0000,  0.0000],
            [-1.0000, -0.5000,  0.0000],
            [-1.0000, -1.0000, -0.5000]], dtype=torch.float64)

    Sources: Voelker, Kajic, Eliasmith, "Legendre Memory Units", 2019; Gu et al., "HiPPO", 2020, appendix D.
    """
    n = torch.arange(order, dtype=torch.float64)
    sign = 1 - 2 * (n % 2)
    signs, above = sign[:, None] * sign, n[:, None] < n
    if measure == "lagt":
        return 0.5 * torch.eye(order, dtype=n.dtype) - torch.ones(order, order, dtype=n.dtype).tril(), n * 0 + 1
    if measure == "lmu":
        return (2 * n[:, None] + 1) * torch.where(above, -1.0, -signs), sign * (2 * n + 1)
    root = (2 * n + 1).sqrt()
    return -root[:, None] * root * torch.where(above, signs, 1.0), root


def check_window(window: object) -> float:
    """Return `window` as a number of steps, at least 1."""
    if isinstance(window, bool) or not isinstance(window, int | float) or not 1 <= window < math.inf:
        raise invalid("window", got=repr(window), expected="a number of steps, at least 1")
    return float(window)


def step_matrices(measure: str, order: int, window: float, rule: str) -> tuple[Tensor, Tensor]:
    """A' and B' of `c_t = A' c_(t-1) + B' f_t`, for a window of `window` steps, in doubles.

    `rule` is "zoh" (f is the same over a step), "bilinear" or "backward".
    """
    a, b = system(measure, order)
    a, b = a / window, b[:, None] / window
    eye = torch.eye(order, dtype=a.dtype)
    if rule == "zoh":
        whole = torch.matrix_exp(torch.cat([torch.cat([a, b], 1), torch.zeros(1, order + 1, dtype=a.dtype)]))
        return whole[:order, :order].contiguous(), whole[:order, order]
    share = 0.5 if rule == "bilinear" else 1.0
    before = eye - share * a
    after = torch.linalg.solve(before, torch.cat([eye + (1 - share) * a, b], 1))
    return after[:, :order].contiguous(), after[:, order]


class AbstractPolynomialMemory(AbstractCell):
    """A cell with `order` coefficients of the past, `c' = A' c + B' u`, whose matrices are no parameters.

    There are `memory_size` channels of them; coefficient n of channel m stands at `n * memory_size + m`. A packed model
    has A' in float32.
    """

    reads_input = ("input", "memory_input")
    order: int
    memory_size: int = 1
    window: float
    transition: Tensor
    drive: Tensor

    def fix_matrices_(self, measure: str, rule: str) -> None:
        """Make A' and B' of `step_matrices`, for each channel."""
        self.exact = True
        transition, drive = step_matrices(measure, self.order, self.window, rule)
        every_channel = torch.kron(transition, torch.eye(self.memory_size, dtype=transition.dtype))
        self.register_buffer("transition", every_channel.float(), persistent=False)
        self.register_buffer("drive", drive.repeat_interleave(self.memory_size).float(), persistent=False)

    def remember(self, memory: Tensor, u: Tensor) -> Tensor:
        """The coefficients one step later; u has a number for each, or one for all."""
        return nn.functional.linear(memory, self.transition) + self.drive * u

    def spread(self, u: Tensor) -> Tensor:
        """The numbers of the channels, (batch, memory_size), again for every coefficient."""
        if self.memory_size == 1:
            return u
        while u.shape[1] < self.order * self.memory_size:
            u = torch.cat([u, u], 1)
        return u[:, : self.order * self.memory_size]

    def size_options(self) -> dict[str, int]:
        return {"order": self.order}

    def macs(self) -> int:
        return super().macs() + (self.transition.numel() if self.exact else 0)
