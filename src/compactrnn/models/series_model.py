"""A model of a user's own sequences: raw numbers in, classes or numbers in the units of the data out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .._bounds import STRICT, PositiveOrZero
from .base import AbstractModel
from .mean_normalization import count_steps, mean_over_steps
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import give_thresholds_
from .sequence_model import SequenceModel, SequenceModelOptions
from .series_front_end import SeriesFrontEnd


@dataclass(frozen=True)
class SeriesModelOptions(SequenceModelOptions):
    """Those of `SequenceModel`.

    `answer`: the output of the last step, or the mean of those of all steps, where there is one answer for a sequence.
    `noise` is the deviation of Gaussian noise that is added to the normalized channels in training, `shift` that of a
    number for each channel of a sequence. In `weights` names begin with the part of the model, as in
    `"sequence_model.layers.1.weight_ih_l0"`.
    """

    adjustable: ClassVar = ("dropout", "noise", "shift")
    answer: Literal["last", "mean"] = "last"
    noise: PositiveOrZero = 0.0
    shift: PositiveOrZero = 0.0
    __pydantic_config__ = STRICT


class SeriesModel(AbstractModel):
    """Logits of classes, or numbers in the units of the data, at the last step or at every step:

        deviation * sequence_model(front_end(x)) + mean

    x, (batch, steps, channels), are raw numbers, NaN where one is missing: `SeriesFrontEnd`. Mean and deviation are
    those of the targets; logits have neither. With `lengths`, int64 (batch,), sequence i ends after `lengths[i]` steps;
    what follows is not read.

    >>> model = SeriesModel(SeriesFrontEnd([0, 3], missing=[0]), 2, SeriesModelOptions(hidden=(8,))).eval()
    >>> model(torch.tensor([[[5.0, 2.0], [torch.nan, 0.0]]])).shape
    torch.Size([1, 2])
    """

    target_mean: Tensor
    target_deviation: Tensor

    def __init__(
        self,
        front_end: SeriesFrontEnd,
        outputs: int,
        options: SeriesModelOptions,
        every_step: bool = False,
        scaled: bool = False,
    ):
        super().__init__()
        self.front_end = front_end
        self.front_end.noise, self.front_end.shift = options.noise, options.shift
        own = {field.name: getattr(options, field.name) for field in fields(SequenceModelOptions)}
        core = SequenceModelOptions(**{**own, "weights": {}, "delta": False})
        self.mean_of_steps, self.scaled = options.answer == "mean" and not every_step, scaled
        self.sequence_model = SequenceModel(front_end.size, outputs, core, every_step or self.mean_of_steps)
        if scaled:
            self.register_buffer("target_mean", torch.zeros(outputs))
            self.register_buffer("target_deviation", torch.ones(outputs))
        self.options = options
        give_weights_(self, options.weights)
        give_thresholds_(self.sequence_model.layers, options)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The outputs for a batch of sequences."""
        outputs = self.sequence_model(self.front_end(x), lengths)
        if self.mean_of_steps and lengths is not None:
            outputs = mean_over_steps(outputs, lengths).squeeze(1)
        elif self.mean_of_steps:
            outputs = (outputs.cumsum(1) / count_steps(outputs))[:, -1]  # a running mean, which a packed model streams
        return outputs * self.target_deviation + self.target_mean if self.scaled else outputs

    @torch.no_grad()
    def standardize_(
        self, channels: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor] | None = None
    ) -> SeriesModel:
        """Let the model take channels of numbers, and give targets, of these means and deviations; returns self."""
        self.front_end.mean.copy_(channels[0])
        self.front_end.deviation.copy_(channels[1])
        if targets is not None:
            self.target_mean.copy_(targets[0])
            self.target_deviation.copy_(targets[1])
        return self

    def adjust(self, options: SeriesModelOptions) -> None:
        """Use dropout, noise and shift of `options` from now on."""
        self.front_end.noise, self.front_end.shift = options.noise, options.shift
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
        self.sequence_model.update_statistics((self.front_end(x), *lengths) for x, *lengths in batches)
