"""A classifier of audio: log-mel energies, normalization, recurrent layers, one answer for a recording."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._bounds import STRICT, CountFrom0
from .answering_model import AbstractAnsweringModel, AnsweringModelOptions
from .log_mel import LogMel
from .masks import Masks
from .mean_normalization import MeanNormalization, Over


@dataclass(frozen=True)
class AudioModelOptions(AnsweringModelOptions):
    """Those of `AnsweringModelOptions`; the mean and the `prior` of `MeanNormalization`; the widths of `Masks`."""

    mean: Over = "running"
    prior: CountFrom0 = 10
    bands_masked: CountFrom0 = 0
    frames_masked: CountFrom0 = 0
    __pydantic_config__ = STRICT


class AudioModel(AbstractAnsweringModel):
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
        self.add_answering_layers_(bands, outputs, options, every_step)

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.masks(self.normalize(self.log_mel(x), lengths))

    @torch.no_grad()
    def standardize_(self, mean: Tensor, deviation: Tensor) -> AudioModel:
        """Let the model take energies of this mean, (bands,), and standard deviation, a number; returns self."""
        self.normalize.mean.copy_(mean)
        self.normalize.deviation.copy_(deviation)
        return self

    def weight_types(self) -> dict[str, str]:
        return {} if isinstance(self.log_mel, nn.Identity) else {"log_mel": "float32"}
