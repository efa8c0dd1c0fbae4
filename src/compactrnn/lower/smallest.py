"""Weights with free entries or blocks that are smaller in a file as dense matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from ..cells.base import AbstractCell
from ..graph.copy import copy_module
from ..layers.matrices import Place
from ..runtime import program
from ..runtime.cost import Cost, in_lines, lines_of
from ..runtime.gates import padded
from ..runtime.storage import WeightTypes
from ..weights.base import AbstractWeight
from ..weights.dense import DenseWeight
from ..weights.sparse_term import SparseTerm
from ..weights.terms import Matrix, Sum, Term
from .factors import factor, is_known


@torch.no_grad()
def with_dense(model: nn.Module, weights: str | Mapping[str, str]) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of `model` with the dense matrix of each sparse weight that is not better as it is; and their names.

    `compactrnn.runtime.cost` says what is better in the type that `weights` gives it, as `pack` takes them. A sum of
    weights is dense as a whole. A weight of whose parts one is named stays as it is. Without such weights the model
    itself is returned.
    """
    types = WeightTypes.of(weights)
    if not _chosen(model, types):
        return model, ()
    model = copy_module(model)
    dense: dict[int, DenseWeight] = {}
    names = []
    for place, weight in _chosen(model, types):
        made = dense.setdefault(id(weight), DenseWeight.of(nn.Parameter(weight.dense()), weight.gates))
        place.put(made)
        names.append(place.name)
    return model, tuple(names)


def _chosen(model: nn.Module, types: WeightTypes) -> list[tuple[Place, AbstractWeight]]:
    return [(place, weight) for place, weight in _weights(model) if _is_better_dense(weight, place, types)]


def _weights(model: nn.Module) -> Iterator[tuple[Place, AbstractWeight]]:
    """Every weight, with its place; not those within weights."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if isinstance(module, AbstractWeight):
            inside = (*inside, f"{path}.")
        if isinstance(module, AbstractWeight) or (inside and f"{path}.".startswith(inside)):
            continue
        for attribute, child in module._modules.items():
            if isinstance(child, AbstractWeight):
                name = f"{path}.{attribute}" if path else attribute
                yield Place(name.removesuffix(".weight"), module, attribute, child.gates), child


def _is_better_dense(weight: AbstractWeight, place: Place, types: WeightTypes) -> bool:
    name, terms = place.name, weight.terms()
    if not any(isinstance(part, SparseTerm) for part in _parts(terms)):
        return False
    if any(key.startswith(f"{name}.") for key in types.by_key):
        return False
    asked = types.find(name)[0]
    kind = "int8" if asked == "auto" else asked
    dense = in_lines(_dense_rows(weight, place), weight.in_features, kind)
    return not sum((_cost(part, kind) for part in _parts(terms)), Cost(0, 0)).is_better_than(dense)


def _dense_rows(weight: AbstractWeight, place: Place) -> int:
    """Those of the dense matrix in a file: the kernels of LSTM and GRU have the rows of each gate filled up."""
    module = place.module
    kernel = module.kernel if isinstance(module, AbstractCell) else getattr(module, "mode", "")
    if kernel.lower() in ("lstm", "gru"):
        return weight.gates * padded(weight.rows)
    return padded(weight.out_features)


def _parts(terms: tuple[Term, ...]) -> Iterator[Term]:
    """The terms themselves, and those of sums."""
    for term in terms:
        if isinstance(term, Sum):
            for part in term.parts:
                yield from _parts(part)
        else:
            yield term


def _cost(term: Term, kind: str) -> Cost:
    if isinstance(term, SparseTerm):
        return term.cost("float32" if kind == "float32" else "int8")
    if isinstance(term, Matrix) or not is_known(term):
        return in_lines(padded(term.shape[0]), term.shape[1], kind)
    made = factor(term)
    whole = isinstance(made, program.Tensor) and not made.has_entries
    return lines_of(term.stored, term.shape[0], "float32" if whole else kind)
