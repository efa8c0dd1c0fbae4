"""Recurrent layers behind a front end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from torch import Tensor

from .base import AbstractModel
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import give_thresholds_
from .sequence_model import SequenceModel, SequenceModelOptions


class AbstractFeaturedModel(AbstractModel):
    """A `SequenceModel` that reads `features` of the inputs.

    A subclass makes its front end, then calls `add_layers_`. In the options' `weights` names begin with the part of the
    model, as in `"sequence_model.layers.1.weight_ih_l0"`.
    """

    options: SequenceModelOptions
    sequence_model: SequenceModel

    def add_layers_(self, size: int, outputs: int, options: SequenceModelOptions, every_step: bool) -> None:
        """Make the recurrent layers for features of this size, and give all parts the weights of the options."""
        own = {field.name: getattr(options, field.name) for field in fields(SequenceModelOptions)}
        core = SequenceModelOptions(**{**own, "weights": {}, "delta": False})
        self.sequence_model = SequenceModel(size, outputs, core, every_step)
        self.options = options
        give_weights_(self, options.weights)
        give_thresholds_(self.sequence_model.layers, options)

    @abstractmethod
    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the recurrent layers read."""

    def adjust(self, options: Any) -> None:
        """Use the adjustable `options` from now on."""
        self.sequence_model.adjust(options)

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer, in each direction."""
        return self.sequence_model.layer_sizes()

    def size_options(self) -> dict[str, Any]:
        return {**self.sequence_model.size_options(), "weights": weight_tables(self, self.options)}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return self.sequence_model.recurrent_parameters()

    def update_statistics(self, batches: Iterable[Any]) -> None:
        """Batch-norm statistics; see `SequenceModel.update_statistics`."""
        self.sequence_model.update_statistics((self.features(*arguments), *arguments[1:]) for arguments in batches)
