"""Unitary evolution recurrent network (uRNN), and the complex evolution network (ceRNN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet
from .independent import limit_
from .rotations import once, widened

_SMALL = 1e-10


class URNN(AbstractCell):
    """A complex recurrence whose matrix is unitary and has 7 n numbers, n = hidden_size / 2.

        W = D3 R2 F^-1 D2 P R1 F D1          D = diag(exp(i phase)), R = I - 2 v v* / |v|^2, F Fourier transform,
        z = W h + V x                        P a permutation drawn once
        h' = z max(|z| + b, 0) / |z|         |z| of each complex number, modReLU

    The state h and the output are real: n real parts, then n imaginary parts, hidden_size in all; the weight `input` is
    V. h starts from the parameter `first`. W is made once for a sequence, as a matrix of hidden_size rows, which a
    packed model has in float32.

    `unitary=False` gives the D free sizes, `D = diag(m exp(i phase))`, |m| <= 1 kept by `constrain_`: a ceRNN, after
    the abstract of its paper; how much is forgotten is then learned.

    A unitary W does not forget, and nothing bounds h over a long input: its norm grows as the root of the number of
    steps, and linearly where b is positive. No unit can be pruned: each entry of W depends on all parameters.

    >>> import torch
    >>> cell = URNN(8, 32)
    >>> y, (h,) = cell(torch.randn(2, 8))
    >>> y.shape, cell.phase.shape, cell.reflection.shape
    (torch.Size([2, 32]), torch.Size([3, 16]), torch.Size([2, 32]))

    Raises:
        ValueError: an odd hidden_size.

    Sources: Arjovsky, Shah, Bengio, "Unitary Evolution Recurrent Neural Networks", 2016, and the authors' code,
    amarshah/complex_RNN; Shafran, Bagby, Skerry-Ryan, "Complex Evolution Recurrent Neural Networks (ceRNNs)", 2018, of
    which the equations are inferred.
    """

    states = (StateSpec("h", init="first"),)
    units = (
        UnitSet(
            "h",
            written_by=("input", "first"),
            read_by=(),
            output=True,
            fixed="its recurrent matrix is a product of Fourier transforms, reflections and phases of all units",
        ),
    )
    order: Tensor

    def __init__(self, input_size: int, hidden_size: int, *, input_weight: WeightSpec = DENSE, unitary: bool = True):
        super().__init__(input_size, hidden_size)
        self.exact = True
        if hidden_size % 2:
            raise invalid("hidden_size", got=hidden_size, expected="an even number, real and imaginary parts")
        n = hidden_size // 2
        self.unitary = unitary
        self.input = input_weight.build(hidden_size, input_size)
        self.bias, self.first = nn.Parameter(torch.empty(n)), nn.Parameter(torch.empty(hidden_size))
        self.phase = nn.Parameter(torch.empty(3, n))
        self.magnitude = None if unitary else nn.Parameter(torch.empty(3, n))
        self.reflection = nn.Parameter(torch.empty(2, hidden_size))
        self.register_buffer("order", torch.arange(n))
        self.reset_parameters()

    def transition(self) -> Tensor:
        """W as a real matrix, (hidden_size, hidden_size): [[Re W, -Im W], [Im W, Re W]]."""
        phase, reflection = widened(self.phase), widened(self.reflection)
        size = torch.ones_like(phase) if self.magnitude is None else widened(self.magnitude)
        diagonal = torch.complex(size * torch.cos(phase), size * torch.sin(phase))
        v = torch.complex(*reflection.chunk(2, dim=-1))

        def reflect(v: Tensor, x: Tensor) -> Tensor:
            return x - 2 * v[:, None] * (v.conj() @ x) / v.abs().square().sum()

        x = torch.diag(diagonal[0])
        x = reflect(v[0], torch.fft.fft(x, dim=0, norm="ortho"))
        x = diagonal[1][:, None] * x[self.order]
        x = diagonal[2][:, None] * reflect(v[1], torch.fft.ifft(x, dim=0, norm="ortho"))
        return torch.cat([torch.cat([x.real, -x.imag], 1), torch.cat([x.imag, x.real], 1)]).to(self.phase.dtype)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        re, im = (projected + nn.functional.linear(h, once(self.phase, self.transition))).chunk(2, dim=-1)
        size = torch.sqrt(re * re + im * im + _SMALL)  # whose slope is finite at zero
        share = torch.relu(size + self.bias) / size
        h = torch.cat([share * re, share * im], dim=-1)
        return h, (h,)

    def macs(self) -> int:
        return super().macs() + self.first.numel() ** 2

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the authors: phases from U(-pi, pi), b from U(-0.01, 0.01), first, V and v by their sizes; m = 1."""
        n = len(self.bias)
        self.input.reset_parameters((6 / (self.input_size + 2 * n)) ** 0.5)
        self.bias.uniform_(-0.01, 0.01)
        self.first.uniform_(-((3 / (2 * n)) ** 0.5), (3 / (2 * n)) ** 0.5)
        self.phase.uniform_(-math.pi, math.pi)
        self.reflection.uniform_(-((6 / (2 + 2 * n)) ** 0.5), (6 / (2 + 2 * n)) ** 0.5)
        if self.magnitude is not None:
            self.magnitude.fill_(1.0)
        self.order.copy_(torch.randperm(n, device=self.order.device))

    def constrain_(self) -> None:
        """Clamp the sizes of a ceRNN to 1."""
        if self.magnitude is not None:
            limit_(self.magnitude, 1.0)
