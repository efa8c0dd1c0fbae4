"""Scalar memory of the xLSTM (sLSTM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .forget_bias import ForgetBias

_NOTHING = -1e4  # log of what the memory holds before the first step: exp of it is 0, in half precision, too


class SLSTM(AbstractCell):
    """LSTM with an exponential input gate and a normalizer: later inputs can outweigh all that is stored.

        i, f, z, o = W x + b + U h
        m' = max(log sigmoid(f) + m, i)                the largest weight in the memory, as a logarithm
        F = exp(log sigmoid(f) + m - m')               I = exp(i - m')
        c' = F * c + I * tanh(z)
        n' = F * n + I                                 the sum of the weights in c, at least 1
        h' = sigmoid(o) * c' / n'

    The paper's `c' = sigmoid(f) c + exp(i) tanh(z)`, with c and n divided by exp(m), so that nothing overflows: c / n
    is a weighted mean, and |h| < 1. The gates stand in the order i, f, z, o. bf starts at `forget_bias`, a number or
    "chrono" with `steps`, the longest dependence expected (see `ForgetBias`). For several heads U is block-diagonal:
    `hidden_weight=BlockDiagonal(heads)`.

    >>> import torch
    >>> from compactrnn.weights import BlockDiagonal
    >>> cell = SLSTM(8, 16, hidden_weight=BlockDiagonal(4))
    >>> y, (h, c, n, m) = cell(torch.randn(2, 8))
    >>> y.shape, bool((n >= 1).all())
    (torch.Size([2, 16]), True)

    Source: Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter, Hochreiter, "xLSTM: Extended Long
    Short-Term Memory", 2024, section 2.2 and appendix A.2, with the sigmoid forget gate.
    """

    states = (
        StateSpec("h", products_only=True),
        StateSpec("c"),
        StateSpec("n"),
        StateSpec("m", init=_NOTHING),
    )
    units = (UnitSet("h", written_by=("input", "input_bias", "hidden"), read_by=("hidden",), output=True),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        bias: bool = True,
        forget_bias: float | str = 1.0,
        steps: int | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.forget_bias = ForgetBias(forget_bias, steps, bias)
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)  # i, f, z, o
        self.input_bias = new_bias(4 * hidden_size, bias)
        self.hidden = hidden_weight.build(4 * hidden_size, hidden_size, gates=4)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c, n, m = states
        i, f, z, o = (projected + self.hidden(h)).chunk(4, dim=-1)
        kept = nn.functional.logsigmoid(f) + m
        m = torch.maximum(kept, i)
        keep, write = torch.exp(kept - m), torch.exp(i - m)
        c = keep * c + write * torch.tanh(z)
        n = keep * n + write
        h = torch.sigmoid(o) * c / n.clamp(min=1)  # n is below 1 only in states that no step makes
        return h, (h, c, n, m)

    def reset_parameters(self) -> None:
        """Matrices as in every cell; biases zero, that of the forget gate as `forget_bias` says."""
        super().reset_parameters()
        if self.input_bias is not None:
            nn.init.zeros_(self.input_bias)
            self.forget_bias.draw_(self.input_bias.detach().chunk(4)[1])
