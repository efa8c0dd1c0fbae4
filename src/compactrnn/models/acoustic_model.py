"""An acoustic model: a front end, recurrent layers, and log-probabilities of symbols at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .._bounds import STRICT, CountFrom0, ShareBelow1
from .featured_model import AbstractFeaturedModel
from .front_end import FrontEnd, Normalization
from .sequence_model import SequenceModelOptions


@dataclass(frozen=True)
class AcousticModelOptions(SequenceModelOptions):
    """Those of `SequenceModel`; `deltas`, `normalization` and `prior` of `FrontEnd`; dropout of what that gives.

    In `weights` names begin with the part of the model, as in `"sequence_model.layers.1.weight_ih_l0"`.
    """

    adjustable: ClassVar = ("dropout", "input_dropout")
    deltas: Literal[0, 1, 2] = 1
    normalization: Normalization = "utterance"
    prior: CountFrom0 = 30
    input_dropout: ShareBelow1 = 0.0
    __pydantic_config__ = STRICT


class AcousticModel(AbstractFeaturedModel):
    """Log-probabilities of symbols at every step: (batch, steps, stacked * coefficients) to (batch, steps, symbols).

        log_softmax(sequence_model(dropout(front_end(x))))

    With `lengths`, int64 (batch,), sequence i ends after `lengths[i]` steps; what follows is not read.

    >>> options = AcousticModelOptions(hidden=(16,), bidirectional=True)
    >>> model = AcousticModel(13, 28, options).eval()
    >>> chances = model(torch.randn(2, 20, 39), torch.tensor([20, 15])).exp()
    >>> bool((chances.sum(-1)[1, :3] - 1).abs().max() < 1e-5)
    True
    """

    def __init__(self, coefficients: int, symbols: int, options: AcousticModelOptions, stacked: int = 3):
        super().__init__()
        self.front_end = FrontEnd(coefficients, stacked, options.deltas, options.normalization, options.prior)
        self.input_dropout = nn.Dropout(options.input_dropout)
        self.add_layers_(self.front_end.size, symbols, options, every_step=True)

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.front_end(x, lengths)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The log-probabilities of a batch of sequences; those at padding are of no use."""
        x = self.input_dropout(self.features(x, lengths))
        return self.sequence_model(x, lengths).log_softmax(-1)

    @torch.no_grad()
    def standardize_(self, mean: Tensor, deviation: Tensor) -> AcousticModel:
        """Let the front end take frames of this mean and standard deviation, (coefficients,); returns self."""
        self.front_end.mean.copy_(mean)
        self.front_end.deviation.copy_(deviation)
        return self

    def adjust(self, options: AcousticModelOptions) -> None:
        """Use the dropout probabilities of `options` from now on."""
        self.input_dropout.p = options.input_dropout
        super().adjust(options)
