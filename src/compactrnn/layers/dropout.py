"""Dropout of whole sequences."""

from torch import Tensor, nn


class LockedDropout(nn.Dropout):
    """`torch.nn.Dropout` that drops the same units at all steps of a sequence: (batch, time, n) -> the same shape.

    >>> import torch
    >>> y = LockedDropout(0.5)(torch.ones(2, 3, 8))
    >>> bool((y == y[:, :1]).all())
    True

    Gal, Ghahramani: A theoretically grounded application of dropout in recurrent neural networks, 2016.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.p):
            return input
        return input * nn.functional.dropout(input.new_ones(len(input), 1, input.shape[-1]), self.p, self.training)
