"""How the run time multiplies with a weight: `W = T1 T2 ...`, a product of terms."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


class Term(ABC):
    """One factor of a weight's matrix.

    A term that a consumer does not know is made dense, so the costs of a new one are those of its dense matrix until
    the core has an operation for it.
    """

    @abstractmethod
    def dense(self) -> Tensor:
        """The factor itself, (out, in), differentiable."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def stored(self) -> int:
        """How many numbers a model file stores."""
        return self.macs

    @property
    def read(self) -> int:
        """How many numbers the core reads for one product."""
        return self.macs

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of the core for one product with one vector."""
        out, inp = self.shape
        return out * inp


@dataclass(frozen=True, eq=False)
class Matrix(Term):
    """A matrix of which every entry is stored."""

    values: Tensor

    def dense(self) -> Tensor:
        return self.values

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]


@dataclass(frozen=True, eq=False)
class Diagonal(Term):
    """A square matrix with `values`, (n,), on its diagonal."""

    values: Tensor

    def dense(self) -> Tensor:
        return torch.diag(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values), len(self.values)

    @property
    def macs(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Selection(Term):
    """`y[i] = x[index[i]]`, 0 where the index is negative: a permutation, zeros added, entries left out.

    `index` is int64, (out,); x has `columns` entries.
    """

    index: Tensor
    columns: int

    def dense(self) -> Tensor:
        """The matrix of zeros and ones as bool, so that a product with others has their dtype."""
        return self.index[:, None] == torch.arange(self.columns, device=self.index.device)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.columns

    @property
    def stored(self) -> int:
        """None that is learned: the file has `index` as whole numbers."""
        return 0

    @property
    def macs(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Sum(Term):
    """`T1 T2 ... + S1 S2 ... + ...`: each of `parts` has the terms of a summand, as `AbstractWeight.terms` has them."""

    parts: tuple[tuple[Term, ...], ...]

    def dense(self) -> Tensor:
        return functools.reduce(torch.add, (product(terms) for terms in self.parts))

    @property
    def shape(self) -> tuple[int, int]:
        first = self.parts[0]
        return first[0].shape[0], first[-1].shape[1]

    @property
    def stored(self) -> int:
        return sum(term.stored for terms in self.parts for term in terms)

    @property
    def read(self) -> int:
        return sum(term.read for terms in self.parts for term in terms)

    @property
    def macs(self) -> int:
        return sum(term.macs for terms in self.parts for term in terms)


def product(terms: tuple[Term, ...]) -> Tensor:
    """The dense matrix of a product of terms, in the common dtype of their numbers."""
    matrices = [term.dense() for term in terms]
    dtype = functools.reduce(torch.promote_types, (matrix.dtype for matrix in matrices))
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return functools.reduce(torch.matmul, (matrix.to(dtype) for matrix in matrices))


def flatten(term: Term) -> tuple[list[Tensor], Any]:
    """The tensors of a term, and the rest of it as plain values, from which `unflatten` makes the same term again.

    >>> tensors, rest = flatten(Sum(((Matrix(torch.ones(2, 2)),), (Diagonal(torch.ones(2)),))))
    >>> unflatten(tensors, rest).dense()
    tensor([[2., 1.],
            [1., 2.]])
    """
    tensors: list[Tensor] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        if isinstance(value, Term):
            kept = {field.name: plain(getattr(value, field.name)) for field in fields(value)}  # pyright: ignore
            return {"term": type(value).__name__, "fields": kept}
        return value

    return tensors, plain(term)


def unflatten(tensors: list[Tensor], rest: Any) -> Any:
    """The term of which `flatten` gave these."""
    if isinstance(rest, list):
        return tuple(unflatten(tensors, item) for item in rest)
    if isinstance(rest, dict) and "tensor" in rest:
        return tensors[rest["tensor"]]
    if isinstance(rest, dict):
        kind = next(kind for kind in _kinds(Term) if kind.__name__ == rest["term"])
        return kind(**{name: unflatten(tensors, value) for name, value in rest["fields"].items()})
    return rest


def _kinds(base: type[Term]) -> Iterator[type[Term]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
