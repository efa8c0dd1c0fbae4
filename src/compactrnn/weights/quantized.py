"""Quantized weight: it trains with the products of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .._errors import invalid
from .base import AbstractWeight, WeightSpec, take
from .fake_quant import quantize_matrix, quantized_linear

_BOUNDED = 1 / 127  # the engine's steps for numbers from -1 to 1


@dataclass(frozen=True)
class Quantized(WeightSpec):
    """A dense matrix for quantization-aware training: each product is of quantized weights and quantized inputs.

    W is quantized to `type` and x to 255 levels in every product, as the engine does it. What is learned stays in
    float32, and gradients go straight through the quantization. `pack` stores what was multiplied with; of float32 on
    the CPU the engine repeats the products to the bit. With `bounded` the inputs are numbers from -1 to 1, such as the
    hidden state of an LSTM, and are rounded to multiples of 1/127; else to those of a 127th of the largest of the
    vector. An embedding looks up rows that are quantized to `table`: int4 where the rows of an int4 matrix are looked
    up, too, as of an embedding that is tied to the output layer.

    >>> weight = Quantized("int8").build(6, 4)
    >>> largest = weight.weight.abs().amax(1, keepdim=True)
    >>> bool(torch.allclose(weight.dense(), (weight.weight / largest * 127).round() * largest / 127))
    True

    Sources: Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
    Computation", 2013, for the gradient; Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018, for training with quantized numbers.

    Raises:
        ValueError: another type.
    """

    type: Literal["int8", "int4"] = "int8"
    bounded: bool = False
    table: Literal["int8", "int4"] = "int8"

    def __post_init__(self):
        for name in ("type", "table"):
            if getattr(self, name) not in ("int8", "int4"):
                raise invalid(name, got=repr(getattr(self, name)), expected="'int8' or 'int4'")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> QuantizedWeight:
        return QuantizedWeight(self, out_features, in_features, gates)


class QuantizedWeight(AbstractWeight):
    """`weight`, (out_features, in_features), is quantized in each product; not while `enabled` is false."""

    def __init__(self, spec: Quantized, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        self.kind, self.table, self.scale, self.enabled = spec.type, spec.table, _BOUNDED if spec.bounded else 0.0, True
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    @classmethod
    def of(cls, spec: Quantized, matrix: nn.Parameter, gates: int = 1) -> QuantizedWeight:
        """A weight whose `weight` is `matrix` itself, not a copy."""
        with torch.device("meta"):
            weight = cls(spec, matrix.shape[0], matrix.shape[1], gates)
        weight.weight = matrix
        return weight

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return nn.functional.linear(x, self.weight)
        dense, memory = quantize_matrix(self.weight, self.kind)
        return quantized_linear(x, dense, memory, self.kind, self.scale)

    def dense(self) -> Tensor:
        return quantize_matrix(self.weight, self.kind)[0] if self.enabled else self.weight

    def lookup(self, tokens: Tensor, padding_idx: int | None) -> Tensor:
        """The rows of the tokens, quantized."""
        if not self.enabled or self.out_features > tokens.numel():
            rows = nn.functional.embedding(tokens, self.weight, padding_idx)
            return self._quantized_rows(rows.flatten(0, -2)).view(rows.shape) if self.enabled and rows.numel() else rows
        return nn.functional.embedding(tokens, self._quantized_rows(self.weight), padding_idx)

    def _quantized_rows(self, rows: Tensor) -> Tensor:
        return quantize_matrix(rows, self.table)[0]

    def reset_parameters(self, bound: float | None = None) -> None:
        """Draw from U(-bound, bound), bound = in_features ** -0.5 unless given, as torch's layers do."""
        if not self.weight.is_meta:
            limit = float(self.in_features**-0.5 if bound is None else bound)
            nn.init.uniform_(self.weight, -limit, limit)

    def from_dense_(self, matrix: Tensor) -> QuantizedWeight:
        self._check_matrix(matrix)
        with torch.no_grad():
            self.weight.copy_(matrix)
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> QuantizedWeight:
        with torch.no_grad():
            kept = take(take(self.weight, 0, out), 1, inp).clone()
        self.weight = nn.Parameter(kept, requires_grad=self.weight.requires_grad)
        self.out_features, self.in_features = kept.shape
        self.rows = self.out_features // self.gates
        return self

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> QuantizedWeight:
        with torch.no_grad():
            self.weight.mul_(1 if out is None else out.unsqueeze(-1)).mul_(1 if inp is None else inp)
        return self
