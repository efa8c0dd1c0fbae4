"""A classifier of audio: log-mel energies, normalization, recurrent layers, one answer for a recording."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._bounds import STRICT, CountFrom0
from .base import AbstractModel
from .log_mel import LogMel
from .masks import Masks
from .mean_normalization import MeanNormalization, Over, count_steps, mean_over_steps
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import give_thresholds_
from .sequence_model import SequenceModel, SequenceModelOptions


@dataclass(frozen=True)
class AudioModelOptions(SequenceModelOptions):
    """Those of `SequenceModel`; the mean and the `prior` of `MeanNormalization`; the widths of `Masks`.

    `answer`: the logits of the last step, or the mean of those of all steps. In `weights` names begin with the part of
    the model, as in `"sequence_model.layers.1.weight_ih_l0"`.
    """

    mean: Over = "running"
    answer: Literal["last", "mean"] = "last"
    prior: CountFrom0 = 10
    bands_masked: CountFrom0 = 0
    frames_masked: CountFrom0 = 0
    __pydantic_config__ = STRICT


class AudioModel(AbstractModel):
    """Logits of classes, at the last step or at every step:

        sequence_model(masks(normalize(log_mel(x))))

    With `log_mel` x are rows of samples, (batch, frames, hop), else what it would give, (batch, frames, bands). With
    `lengths`, int64 (batch,), sequence i ends after `lengths[i]` frames; what follows is not read.

    >>> options = AudioModelOptions(hidden=(16,), cell="GRU")
    >>> model = AudioModel(LogMel(hop=80), 10, options).eval()
    >>> model(torch.randn(2, 30, 80), torch.tensor([30, 20])).shape
    torch.Size([2, 10])
    """

    def __init__(self, features: LogMel | int, outputs: int, options: AudioModelOptions, every_step: bool = False):
        super().__init__()
        bands = features if isinstance(features, int) else features.size
        self.log_mel = nn.Identity() if isinstance(features, int) else features
        self.normalize = MeanNormalization(bands, options.mean, options.prior)
        self.masks = Masks(options.bands_masked, options.frames_masked)
        own = {field.name: getattr(options, field.name) for field in fields(SequenceModelOptions)}
        core = SequenceModelOptions(**{**own, "weights": {}, "delta": False})
        self.mean_of_steps = options.answer == "mean" and not every_step
        self.sequence_model = SequenceModel(bands, outputs, core, every_step or self.mean_of_steps)
        self.options = options
        give_weights_(self, options.weights)
        give_thresholds_(self.sequence_model.layers, options)

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the recurrent layers read."""
        return self.masks(self.normalize(self.log_mel(x), lengths))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The logits of a batch of sequences."""
        outputs = self.sequence_model(self.features(x, lengths), lengths)
        if not self.mean_of_steps:
            return outputs
        if lengths is not None:
            return mean_over_steps(outputs, lengths).squeeze(1)
        return (outputs.cumsum(1) / count_steps(outputs))[:, -1]  # a running mean, so that a packed model streams

    @torch.no_grad()
    def standardize_(self, mean: Tensor, deviation: Tensor) -> AudioModel:
        """Let the model take energies of this mean, (bands,), and standard deviation, a number; returns self."""
        self.normalize.mean.copy_(mean)
        self.normalize.deviation.copy_(deviation)
        return self

    def weight_types(self) -> dict[str, str]:
        return {} if isinstance(self.log_mel, nn.Identity) else {"log_mel": "float32"}

    def adjust(self, options: AudioModelOptions) -> None:
        """Use the dropout probability of `options` from now on."""
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
