"""Dense replacements of weights, for loops that cannot run a weight's own product."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._ordinary import who_looks_on
from ..weights.base import AbstractWeight

MOST_ENTRIES = 1 << 26  # of a matrix that is made in place of a product of far fewer multiplications

_agreed: weakref.WeakKeyDictionary[AbstractWeight, Any] = weakref.WeakKeyDictionary()


def is_too_large(weight: AbstractWeight) -> bool:
    """Whether the dense matrix would fill the memory for what the weight's own product does with little of it."""
    entries = weight.out_features * weight.in_features
    return entries > MOST_ENTRIES and entries > 8 * weight.training_macs()


def is_dense_product(weight: AbstractWeight) -> bool:
    """Whether `forward` agrees with `dense()` on two random vectors; cached while sizes and dtypes stay the same.

    What `forward` raises is raised here. Where numbers cannot be looked at (tracing, `torch.func`, meta tensors), and
    where they are not finite, it is taken for granted.
    """
    tensors = [*weight.parameters(), *weight.buffers()]
    signature = [(t.shape, t.dtype, t.device) for t in tensors]
    if who_looks_on() or any(t.is_meta for t in tensors) or _agreed.get(weight) == signature:
        return True
    like = tensors[0] if tensors else torch.zeros(())
    x = torch.randn(2, weight.in_features, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False), torch.random.fork_rng(devices=[]):
        own, dense = weight(x), nn.functional.linear(x, weight.dense())
        error, size = float((own - dense).norm()), float(dense.norm())
    if error > 4 * torch.finfo(like.dtype).eps ** 0.5 * size:
        return False
    if error == error:
        _agreed[weight] = signature
    return True


def differs(name: str, weight: AbstractWeight) -> str:
    """The message about a weight for which `is_dense_product` is false."""
    return f"{name} ({type(weight).__name__}): forward gives other numbers than the product with dense()"


class DenseForm(nn.Module):
    """Stands in for a weight while its cell is traced: `matrix` is its dense matrix."""

    def __init__(self, weight: AbstractWeight):
        super().__init__()
        self.out_features, self.in_features = weight.out_features, weight.in_features
        self.gates, self.rows = weight.gates, weight.rows
        self.register_buffer("matrix", weight.dense())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dense())

    def dense(self) -> Tensor:
        return self.matrix  # pyright: ignore


@torch.no_grad()
def with_dense_forms(module: nn.Module, weights: Iterable[AbstractWeight] = ()) -> nn.Module:
    """A copy of `module`, on the same parameters, in which each of `weights` is a `DenseForm`.

    A trace puts tensors without numbers in the place of its parameters, which another thread must not find there.
    """
    made: dict[int, nn.Module] = {id(weight): DenseForm(weight) for weight in weights}

    def replaced(module: nn.Module) -> nn.Module:
        if id(module) not in made:
            twin = made[id(module)] = object.__new__(type(module))  # not by copy.copy: parametrized modules refuse it
            twin.__dict__ = dict(module.__dict__)
            twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
            twin._modules = {name: child and replaced(child) for name, child in module._modules.items()}
        return made[id(module)]

    return replaced(module)
