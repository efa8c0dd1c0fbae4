"""Models of quantization-aware training: their plain form, and what a file must have of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..graph.copy import copy_module
from ..layers.matrices import matrices
from ..runtime.quantize import Trained
from ..weights.dense import DenseWeight
from ..weights.quantized import Quantized, QuantizedWeight


@dataclass(frozen=True)
class TrainedMatrices:
    """Which matrices of a model are quantized: by their number among all, and, as a file is to have them, by name."""

    specs: dict[int, Quantized]
    by_name: dict[str, Trained]

    @staticmethod
    def of(model: nn.Module) -> TrainedMatrices:
        """Those of `model` that are quantized at present."""
        found = {i: m for i, m in enumerate(matrices(model)) if isinstance(m.held, QuantizedWeight) and m.held.enabled}
        by_name = {
            place.name: Trained(m.held.table if place.is_table else m.held.kind, m.held.scale)  # pyright: ignore
            for m in found.values()
            for place in m.places
        }
        return TrainedMatrices({i: m.held.spec for i, m in found.items()}, by_name)  # pyright: ignore

    def quantized(self, plain: nn.Module) -> nn.Module:
        """A copy of a plain form, or of what was made of it, that quantizes as the model does."""
        if not self.specs:
            return plain
        model = copy_module(plain)
        for i, matrix in enumerate(matrices(model)):
            held = matrix.held
            if i in self.specs:
                parameter = held.weight if isinstance(held, DenseWeight) else held
                assert isinstance(parameter, nn.Parameter)
                matrix.put(QuantizedWeight.of(self.specs[i], parameter, matrix.gates))
        return model


def plain_form(model: nn.Module) -> nn.Module:
    """A copy of `model` without quantization; itself where it has none."""
    if not any(isinstance(module, QuantizedWeight) for module in model.modules()):
        return model
    model = copy_module(model)
    for matrix in matrices(model):
        if isinstance(held := matrix.held, QuantizedWeight):
            matrix.put(DenseWeight.of(held.weight, held.gates))
    return model
