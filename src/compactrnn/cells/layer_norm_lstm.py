"""Long short-term memory with layer normalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet
from .forget_bias import ForgetBias

_EPS = 1e-5  # torch's


class LayerNormLSTM(AbstractCell):
    """LSTM with layer normalization of what comes from the input, of what comes from h, and of the memory.

        i, f, g, o = N(W x) * s + N(U h) * r + b           N over all 4 hidden_size numbers
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(N(c') * q + d)              N over the hidden_size numbers
        N(a) = (a - mean(a)) / sqrt(variance(a) + 1e-5)

    The gates stand in the order i, f, g, o. The gains s, r, q start from 1, the biases b and d from 0, but for that of
    f, which starts at `forget_bias`, a number or "chrono" with `steps`, the longest dependence expected (see
    `ForgetBias`). Units are normalized together, so that none of them can be pruned.

    >>> import torch
    >>> cell = LayerNormLSTM(8, 16)
    >>> y, (h, c) = cell(torch.randn(2, 8))
    >>> y.shape, c.shape, cell.hidden_gain.shape
    (torch.Size([2, 16]), torch.Size([2, 16]), torch.Size([64]))

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, equations 20 to 22 (one bias in the place of two).
    """

    states = (StateSpec("h", products_only=True), StateSpec("c"))
    units = (
        UnitSet(
            "h",
            written_by=("input", "input_gain", "hidden", "hidden_gain", "bias", "memory_gain", "memory_bias"),
            read_by=("hidden",),
            output=True,
            fixed="a layer norm over all units makes each one depend on all others",
        ),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        forget_bias: float | str = 1.0,
        steps: int | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.forget_bias = ForgetBias(forget_bias, steps)
        self.input = input_weight.build(4 * hidden_size, input_size, gates=4)
        self.hidden = hidden_weight.build(4 * hidden_size, hidden_size, gates=4)
        self.input_gain, self.hidden_gain, self.bias = (nn.Parameter(torch.empty(4 * hidden_size)) for _ in range(3))
        self.memory_gain, self.memory_bias = (nn.Parameter(torch.empty(hidden_size)) for _ in range(2))
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """`N(W x) * s + b`."""
        return self._norm(self.input(x), self.input_gain, self.bias)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        i, f, g, o = (projected + self._norm(self.hidden(h), self.hidden_gain)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self._norm(c, self.memory_gain, self.memory_bias))
        return h, (h, c)

    def _norm(self, x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], gain, bias, _EPS)

    def reset_parameters(self) -> None:
        """Matrices as in every cell; gains 1, biases 0, that of the forget gate as `forget_bias` says."""
        super().reset_parameters()
        for gain in (self.input_gain, self.hidden_gain, self.memory_gain):
            nn.init.ones_(gain)
        for bias in (self.bias, self.memory_bias):
            nn.init.zeros_(bias)
        self.forget_bias.draw_(self.bias.detach().chunk(4)[1])
