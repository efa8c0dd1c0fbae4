"""Weights as the factors stored in a program."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..emit import structured
from ..emit.convolved import Convolved
from ..emit.factor import Factor
from ..emit.kronecker import Kronecker
from ..runtime import program
from ..runtime.entries import ENTRIES
from ..runtime.shared import CirculantBlocks, HashedEntries
from ..runtime.sparse import SPARSE
from ..runtime.toeplitz import ToeplitzBlocks
from ..weights import terms
from ..weights.base import AbstractWeight
from ..weights.block_term import Blocks
from ..weights.convolution_term import ConvolutionTerm
from ..weights.kronecker_term import KroneckerTerm
from ..weights.shared_term import CirculantTerm, HashedTerm
from ..weights.sparse_term import SparseTerm
from ..weights.terms import Term, flatten, unflatten
from ..weights.toeplitz_term import ToeplitzTerm
from .visitor import array

M = TypeVar("M", bound=nn.Module)


def factors(weight: AbstractWeight) -> list[Factor]:
    """F1, F2, ... with `W = F1 F2 ...`: what the engine multiplies with, the last one first."""
    return [factor(term) for term in weight.terms()]


@functools.singledispatch
def factor(term: Term) -> Factor:
    """A term as it is stored and multiplied; the dense matrix of one that the core has no form for."""
    return program.Tensor(array(term.dense()))


def is_known(term: Term) -> bool:
    """Whether the core has a form for the term."""
    return factor.dispatch(type(term)) is not factor.dispatch(Term)


@factor.register
def _(term: ToeplitzTerm) -> Factor:
    vectors = np.stack([array(term.first), array(term.second)])
    return program.Tensor(vectors, form=ToeplitzBlocks(term.rows, term.gates))


@factor.register
def _(term: KroneckerTerm) -> Factor:
    return Kronecker(array(term.left), array(term.right))


@factor.register
def _(term: ConvolutionTerm) -> Factor:
    return Convolved(array(term.kernel.flatten(1)), array(term.sources()))


@factor.register
def _(term: SparseTerm) -> Factor:
    return program.Tensor(array(term.dense()), form=ENTRIES if term.is_scattered else SPARSE)


@factor.register
def _(term: terms.Diagonal) -> Factor:
    return structured.Diagonal(array(term.values))


@factor.register
def _(term: terms.Selection) -> Factor:
    return structured.Selection(array(term.index), term.columns)


@factor.register
def _(term: terms.Sum) -> Factor:
    return structured.Sum([[factor(inner) for inner in part] for part in term.parts])


@factor.register
def _(term: CirculantTerm) -> Factor:
    form = CirculantBlocks(*term.shape, gates=len(term.vectors))
    return program.Tensor(array(term.vectors), form=form)


@factor.register
def _(term: HashedTerm) -> Factor:
    form = HashedEntries(*term.shape, gates=len(term.buckets))
    return program.Tensor(array(term.buckets), form=form)


@factor.register
def _(term: Blocks) -> Factor:
    return structured.Blocks(array(term.values), term.count)


def made_dense(weights: Mapping[str, AbstractWeight]) -> tuple[str, ...]:
    """The names of weights of which more numbers are stored than they have parameters."""

    def stored(weight: AbstractWeight) -> int:
        return sum(t.stored if is_known(t) else math.prod(t.shape) for t in weight.terms())

    return tuple(name for name, weight in weights.items() if stored(weight) > weight.stored_parameters())


class _Matrix(nn.Module):
    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)  # pyright: ignore

    def dense(self) -> Tensor:
        return self.weight  # pyright: ignore


class _Term(nn.Module):
    """A term that the core multiplies with in its own way, as one operation on its tensors."""

    def __init__(self, term: Term, dtype: torch.dtype):
        super().__init__()
        tensors, rest = flatten(term)
        self.dtype = dtype
        self.rest, (self.rows, self.columns) = json.dumps(rest), term.shape
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"tensor{number}", tensor)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.compactrnn.multiply(x, list(self.buffers()), self.rest, self.rows)

    def dense(self) -> Tensor:
        return self(torch.eye(self.columns, dtype=self.dtype)).T


@torch.library.custom_op("compactrnn::multiply", mutates_args=())
def _multiply(x: Tensor, tensors: list[Tensor], rest: str, rows: int) -> Tensor:
    return nn.functional.linear(x, unflatten(tensors, json.loads(rest)).dense().to(x.dtype))


@_multiply.register_fake
def _(x: Tensor, tensors: list[Tensor], rest: str, rows: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)


class Factored(nn.Module):
    """Stands in for a weight while its cell's step is exported: each term is one operation on buffers."""

    def __init__(self, weight: AbstractWeight):
        super().__init__()
        self.out_features, self.in_features = weight.out_features, weight.in_features
        self.gates, self.rows = weight.gates, weight.rows
        dtype = next((t.dtype for t in [*weight.parameters(), *weight.buffers()]), torch.get_default_dtype())
        for number, term in enumerate(weight.terms()):
            module = _Term(term, dtype) if is_known(term) else _Matrix(term.dense())
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
