"""Weights as the factors stored in a program."""

from __future__ import annotations

import copy
import functools
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.trace import Trace
from ..runtime import program
from ..runtime.toeplitz import ToeplitzBlocks
from ..weights.base import AbstractWeight
from ..weights.terms import Term, ToeplitzTerm
from .visitor import array

M = TypeVar("M", bound=nn.Module)


def factors(weight: AbstractWeight) -> list[program.Tensor]:
    """F1, F2, ... with `W = F1 F2 ...`: what the engine multiplies with, the last one first."""
    return [factor(term) for term in weight.terms()]


def factor(term: Term) -> program.Tensor:
    """A term as it is stored; the dense matrix of one that the core has no form for."""
    if isinstance(term, ToeplitzTerm):
        vectors = np.stack([array(term.first), array(term.second)])
        return program.Tensor(vectors, toeplitz=ToeplitzBlocks(term.rows, term.gates))
    return program.Tensor(array(term.dense()))


def made_dense(trace: Trace) -> tuple[str, ...]:
    """The names of weights of which more numbers are stored than they have parameters."""
    found = []
    for leaf in trace.leaves.values():
        for layer, row in enumerate(leaf.cells):
            for direction, cell in enumerate(row):
                for name, weight in cell.named_children():
                    if not isinstance(weight, AbstractWeight):
                        continue
                    if sum(f.values.size for f in factors(weight)) > weight.stored_parameters():
                        found.append(leaf.part_name(layer, direction, name))
    return tuple(found)


class _Matrix(nn.Module):
    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)  # pyright: ignore

    def dense(self) -> Tensor:
        return self.weight  # pyright: ignore


class _Toeplitz(nn.Module):
    def __init__(self, term: ToeplitzTerm):
        super().__init__()
        self.rows, self.gates = term.rows, term.gates
        self.register_buffer("first", term.first)
        self.register_buffer("second", term.second)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.compactrnn.toeplitz_like(x, self.first, self.second, self.rows, self.gates)

    def dense(self) -> Tensor:
        return self(torch.eye(self.first.shape[-1], dtype=self.first.dtype)).T  # pyright: ignore


@torch.library.custom_op("compactrnn::toeplitz_like", mutates_args=())
def _toeplitz_like(x: Tensor, first: Tensor, second: Tensor, rows: int, gates: int) -> Tensor:
    return nn.functional.linear(x, ToeplitzTerm(first, second, rows, gates).dense())


@_toeplitz_like.register_fake
def _(x: Tensor, first: Tensor, second: Tensor, rows: int, gates: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)


class Factored(nn.Module):
    """Stands in for a weight while its cell's step is exported: each term is one operation on buffers."""

    def __init__(self, weight: AbstractWeight):
        super().__init__()
        self.out_features, self.in_features = weight.out_features, weight.in_features
        self.gates, self.rows = weight.gates, weight.rows
        for number, term in enumerate(weight.terms()):
            module = _Toeplitz(term) if isinstance(term, ToeplitzTerm) else _Matrix(term.dense())
            self.add_module(f"factor{number}", module)

    def forward(self, x: Tensor) -> Tensor:
        for module in reversed(list(self.children())):
            x = module(x)
        return x

    def dense(self) -> Tensor:
        """W, for a step that takes the matrix itself."""
        return functools.reduce(torch.matmul, (module.dense() for module in self.children()))  # pyright: ignore


@torch.no_grad()
def with_factors(module: M) -> M:
    """A copy of `module`, on the same parameters, that has `Factored` ones in place of the weights in it."""
    twin = copy.copy(module)
    twin._modules = {name: child and _stand_in(child) for name, child in module._modules.items()}
    return twin


def _stand_in(module: nn.Module) -> nn.Module:
    return Factored(module) if isinstance(module, AbstractWeight) else with_factors(module)
