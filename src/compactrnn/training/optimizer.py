"""Optimisers by name."""

from collections.abc import Iterable

import torch
from torch import nn

from .recipe import OptimizerOptions


def build_optimizer(parameters: Iterable[nn.Parameter], options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimiser that a recipe asks for.

    >>> type(build_optimizer([nn.Parameter(torch.zeros(2))], OptimizerOptions("SGD"))).__name__
    'SGD'
    """
    rate, decay = options.learning_rate, options.weight_decay
    if options.name == "SGD":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=options.momentum)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=options.betas, fused=True)
