"""The interface of a model that is trained by a recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..weights import WeightSpec
from ..weights.registry import weight_spec


class AbstractModel(nn.Module, ABC):
    """A network built from options, a frozen dataclass: the section `[model]` of a recipe.

    The class of the options names in `adjustable` those that may differ from phase to phase of the training.
    """

    @abstractmethod
    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each recurrent layer."""

    @abstractmethod
    def size_options(self) -> dict[str, Any]:
        """The options that pruning changes, as they are now: with them the same sizes are built again."""

    @abstractmethod
    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers."""

    @abstractmethod
    def adjust(self, options: Any) -> None:
        """Use the `adjustable` options from now on, the others stay as they were built."""

    def weight_types(self) -> dict[str, str]:
        """Types of weights that the others do not set, by name as in `pack(weights=...)`; default: none."""
        return {}

    def update_statistics(self, batches: Iterable[Any]) -> None:
        """Estimate what only evaluation uses, such as batch-norm statistics, on training batches; default: nothing."""


def weight_specs(options: Any) -> dict[str, WeightSpec]:
    """The weights that options name in the tables `input_weight` and `hidden_weight`, as arguments of a layer."""
    specs = {}
    for name in ("input_weight", "hidden_weight"):
        table: Mapping[str, Any] = getattr(options, name)
        if table:
            try:
                specs[name] = weight_spec(table)
            except ValueError as error:
                raise ValueError(f"model.{name}: {error}") from None
    return specs
