"""A model of a user's own sequences: raw numbers in, classes or numbers in the units of the data out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._bounds import STRICT, PositiveOrZero
from .answering_model import AbstractAnsweringModel, AnsweringModelOptions
from .series_front_end import SeriesFrontEnd


@dataclass(frozen=True)
class SeriesModelOptions(AnsweringModelOptions):
    """Those of `AnsweringModelOptions`.

    `noise` is the deviation of Gaussian noise that is added to the normalized channels in training, `shift` that of a
    number for each channel of a sequence.
    """

    adjustable: ClassVar = ("dropout", "noise", "shift")
    noise: PositiveOrZero = 0.0
    shift: PositiveOrZero = 0.0
    __pydantic_config__ = STRICT


class SeriesModel(AbstractAnsweringModel):
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
        self.scaled = scaled
        if scaled:
            self.register_buffer("target_mean", torch.zeros(outputs))
            self.register_buffer("target_deviation", torch.ones(outputs))
        self.add_answering_layers_(front_end.size, outputs, options, every_step)

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.front_end(x)

    def advance(
        self, x: Tensor, states: Any = None, lengths: Tensor | None = None, begins: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        outputs, states = super().advance(x, states, lengths, begins)
        return (outputs * self.target_deviation + self.target_mean if self.scaled else outputs), states

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
        super().adjust(options)
