"""Recurrent layers behind a front end, with one answer for a sequence or one a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor

from .._bounds import STRICT
from .base import AbstractModel
from .mean_normalization import count_steps, mean_over_steps
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import give_thresholds_
from .sequence_model import SequenceModel, SequenceModelOptions


@dataclass(frozen=True)
class FeaturedModelOptions(SequenceModelOptions):
    """Those of `SequenceModel`.

    `answer`: the output of the last step, or the mean of those of all steps, where there is one answer for a sequence.
    In `weights` names begin with the part of the model, as in `"sequence_model.layers.1.weight_ih_l0"`.
    """

    answer: Literal["last", "mean"] = "last"
    __pydantic_config__ = STRICT


class AbstractFeaturedModel(AbstractModel):
    """A `SequenceModel` that reads `features` of the inputs.

    A subclass makes its front end, then calls `add_layers_`.
    """

    options: FeaturedModelOptions
    sequence_model: SequenceModel
    mean_of_steps: bool

    def add_layers_(self, size: int, outputs: int, options: FeaturedModelOptions, every_step: bool) -> None:
        """Make the recurrent layers for features of this size, and give all parts the weights of the options."""
        own = {field.name: getattr(options, field.name) for field in fields(SequenceModelOptions)}
        core = SequenceModelOptions(**{**own, "weights": {}, "delta": False})
        self.mean_of_steps = options.answer == "mean" and not every_step
        self.sequence_model = SequenceModel(size, outputs, core, every_step or self.mean_of_steps)
        self.options = options
        give_weights_(self, options.weights)
        give_thresholds_(self.sequence_model.layers, options)

    @abstractmethod
    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the recurrent layers read."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The outputs for a batch of sequences."""
        return self.advance(x, None, lengths)[0]

    def advance(
        self, x: Tensor, states: Any = None, lengths: Tensor | None = None, begins: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """The outputs of sequences that go on from `states`, and their last ones; see `SequenceModel.advance`.

        A mean of the outputs of all steps is of those of this call.
        """
        outputs, states = self.sequence_model.advance(self.features(x, lengths), states, lengths, begins)
        if self.mean_of_steps and lengths is not None:
            outputs = mean_over_steps(outputs, lengths).squeeze(1)
        elif self.mean_of_steps:
            outputs = (outputs.cumsum(1) / count_steps(outputs))[:, -1]  # a running mean, which a packed model streams
        return outputs, states

    def adjust(self, options: Any) -> None:
        """Use the adjustable `options` from now on."""
        self.sequence_model.adjust(options)

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer."""
        return self.sequence_model.layer_sizes()

    def size_options(self) -> dict[str, Any]:
        return {**self.sequence_model.size_options(), "weights": weight_tables(self, self.options)}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return self.sequence_model.recurrent_parameters()

    def update_statistics(self, batches: Iterable[Any]) -> None:
        """Batch-norm statistics; see `SequenceModel.update_statistics`."""
        self.sequence_model.update_statistics((self.features(*arguments), *arguments[1:]) for arguments in batches)
