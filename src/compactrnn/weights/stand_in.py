"""Weights as plain products, for those who trace a step."""

from __future__ import annotations

import copy
import functools
from typing import TypeVar

import torch
from torch import Tensor, nn

from .base import AbstractWeight

M = TypeVar("M", bound=nn.Module)


class Product(nn.Module):
    """Stands in for a weight while its cell is traced: its factors are buffers."""

    def __init__(self, weight: AbstractWeight):
        super().__init__()
        self.out_features, self.in_features = weight.out_features, weight.in_features
        self.gates, self.rows = weight.gates, weight.rows
        for i, factor in enumerate(weight.factors()):
            self.register_buffer(f"factor{i}", factor)

    def factors(self) -> tuple[Tensor, ...]:
        """As `AbstractWeight.factors`."""
        return tuple(self.buffers())

    def dense(self) -> Tensor:
        """W."""
        return functools.reduce(torch.matmul, self.factors())

    def forward(self, x: Tensor) -> Tensor:
        """`W x`."""
        for factor in reversed(self.factors()):
            x = nn.functional.linear(x, factor)
        return x


@torch.no_grad()
def with_products(module: M) -> M:
    """A copy of `module`, on the same parameters, that has products in place of the weights in it."""
    twin = copy.copy(module)
    twin._modules = {name: child and _stand_in(child) for name, child in module._modules.items()}
    return twin


def _stand_in(module: nn.Module) -> nn.Module:
    return Product(module) if isinstance(module, AbstractWeight) else with_products(module)
