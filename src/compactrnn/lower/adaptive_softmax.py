"""The adaptive softmax without writes into parts of a tensor and without branches on data."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError


class AdaptiveLogSoftmax(nn.AdaptiveLogSoftmaxWithLoss):
    """What torch's layer gives from `log_prob` and `predict`, from the same parameters.

    A token of cluster i has the logarithm of `softmax(head x)[cluster i] softmax(tail_i x)[token]`.

    Source: Grave, Joulin, Cisse, Grangier, Jegou, "Efficient softmax approximation for GPUs", 2017.
    """

    @classmethod
    def of(cls, layer: nn.AdaptiveLogSoftmaxWithLoss) -> AdaptiveLogSoftmax:
        """One with the modules of `layer`.

        Raises:
            UnsupportedModelError: the input of a cluster is projected to no numbers at all.
        """
        for number, (projection, _) in enumerate(layer.tail):  # pyright: ignore[reportGeneralTypeIssues]
            if not projection.out_features:
                raise UnsupportedModelError(
                    f"AdaptiveLogSoftmaxWithLoss: cluster {number} has projections of 0 numbers, in_features="
                    f"{layer.in_features} divided by div_value={layer.div_value:g} so often; fewer cutoffs or a smaller"
                    " div_value leave some"
                )
        twin = copy.copy(layer)
        twin.__class__ = cls
        return twin  # pyright: ignore[reportReturnType]

    def _get_full_log_prob(self, input: Tensor, head_output: Tensor) -> Tensor:
        head = head_output.log_softmax(1)
        clusters = [
            tail(input).log_softmax(1) + head[:, self.shortlist_size + i, None] for i, tail in enumerate(self.tail)
        ]
        return torch.cat([head[:, : self.shortlist_size], *clusters], 1)

    def predict(self, input: Tensor) -> Tensor:
        return self.log_prob(input).argmax(1)
