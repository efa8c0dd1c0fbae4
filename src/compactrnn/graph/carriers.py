"""Which parameters of a weight carry its rows, and which its columns."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..weights.base import AbstractWeight
from ..weights.masked import MaskedWeight


def identity(part: Any) -> tuple[int, ...]:
    """The parameters that a weight (or a bias) consists of, by identity."""
    tensors = [part] if isinstance(part, Tensor) else [*part.parameters(), *_plain_tensors(part)]
    return tuple(id(tensor) for tensor in tensors)


def _plain_tensors(module: object) -> list[Tensor]:
    """Tensors that are plain attributes of a module."""
    return [value for value in vars(module).values() if isinstance(value, Tensor)]


@torch.no_grad()
def carriers(part: Any, axis: int) -> tuple[int, ...]:
    """The parameters, by identity, that change when rows (axis 0) or columns (axis 1) of a weight are scaled.

    For the product of two matrices these are the left and the right factor; all of them where the structure cannot
    scale single rows or columns exactly.

    >>> from compactrnn import LowRank
    >>> weight = LowRank(rank=2).build(4, 3)
    >>> carriers(weight, 0) == (id(weight.left),), carriers(weight, 1) == (id(weight.right),)
    (True, True)
    """
    weight = part.inner if isinstance(part, MaskedWeight) else part
    parameters = dict(weight.named_parameters()) if isinstance(weight, AbstractWeight) else {}
    if len(parameters) < 2 or type(weight).scale_ is AbstractWeight.scale_:
        return identity(weight)
    twin = copy.deepcopy(weight)
    for parameter in twin.parameters():
        parameter.fill_(1)
    like = next(twin.parameters())
    factors = like.new_full((weight.in_features if axis else weight.out_features,), 2.0)
    twin.scale_(**{"inp" if axis else "out": factors})
    changed = [n for n, p in twin.named_parameters() if p.shape != parameters[n].shape or bool((p != 1).any())]
    return tuple(id(parameters[n]) for n in changed)
