"""Recurrent layers behind a front end, with one answer for a sequence or one a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from .._bounds import STRICT
from .featured_model import AbstractFeaturedModel
from .mean_normalization import count_steps, mean_over_steps
from .sequence_model import SequenceModelOptions


@dataclass(frozen=True)
class AnsweringModelOptions(SequenceModelOptions):
    """Those of `SequenceModel`.

    `answer`: the output of the last step, or the mean of those of all steps, where there is one answer for a sequence.
    In `weights` names begin with the part of the model, as in `"sequence_model.layers.1.weight_ih_l0"`.
    """

    answer: Literal["last", "mean"] = "last"
    __pydantic_config__ = STRICT


class AbstractAnsweringModel(AbstractFeaturedModel):
    """A `SequenceModel` that answers by the features of the inputs.

    A subclass makes its front end, then calls `add_answering_layers_`.
    """

    mean_of_steps: bool

    def add_answering_layers_(self, size: int, outputs: int, options: AnsweringModelOptions, every_step: bool) -> None:
        """`add_layers_`, for one answer unless there is one at `every_step`."""
        self.mean_of_steps = options.answer == "mean" and not every_step
        self.add_layers_(size, outputs, options, every_step or self.mean_of_steps)

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
