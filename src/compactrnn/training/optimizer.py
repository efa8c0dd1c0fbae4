"""Optimizers by name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .recipe import OptimizerOptions


def build_optimizer(parameters: Iterable[nn.Parameter], options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer of a recipe.

    >>> type(build_optimizer([nn.Parameter(torch.zeros(2))], OptimizerOptions("SGD"))).__name__
    'SGD'
    """
    rate, decay = options.learning_rate, options.weight_decay
    groups: Any = parameters if options.decay == "all" else _matrices_apart(parameters)
    if options.name == "SGD":
        return torch.optim.SGD(groups, lr=rate, weight_decay=decay, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, betas=options.betas, fused=True)


def _matrices_apart(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    given = list(parameters)
    matrices, vectors = [p for p in given if p.dim() > 1], [p for p in given if p.dim() < 2]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
