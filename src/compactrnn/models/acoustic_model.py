"""An acoustic model: a front end, recurrent layers, and log-probabilities of symbols at every step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._bounds import STRICT, CountFrom0, ShareBelow1
from .base import AbstractModel
from .front_end import FrontEnd, Normalization
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import give_thresholds_
from .sequence_model import SequenceModel, SequenceModelOptions


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


class AcousticModel(AbstractModel):
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
        own = {field.name: getattr(options, field.name) for field in fields(SequenceModelOptions)}
        core = SequenceModelOptions(**{**own, "weights": {}, "delta": False})
        self.sequence_model = SequenceModel(self.front_end.size, symbols, core, every_step=True)
        self.options = options
        give_weights_(self, options.weights)
        give_thresholds_(self.sequence_model.layers, options)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The log-probabilities of a batch of sequences; those at padding are of no use."""
        x = self.input_dropout(self.front_end(x, lengths))
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
        self.sequence_model.adjust(options)

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer, in each direction."""
        return self.sequence_model.layer_sizes()

    def size_options(self) -> dict[str, Any]:
        return {**self.sequence_model.size_options(), "weights": weight_tables(self, self.options)}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return self.sequence_model.recurrent_parameters()

    def update_statistics(self, batches: Any) -> None:
        """Batch-norm statistics; see `SequenceModel.update_statistics`."""
        self.sequence_model.update_statistics((self.front_end(*arguments), *arguments[1:]) for arguments in batches)
