"""Weights of a model by the names of its matrices, as tables of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .._errors import invalid
from ..layers.matrices import matrices
from ..runtime.storage import best_key, matches
from ..weights.base import AbstractWeight
from ..weights.registry import weight_spec, weight_table
from .base import weight_specs


@torch.no_grad()
def give_weights_(model: nn.Module, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Let the matrices that the keys of `tables` name have these weights, drawn with the variance that they had.

    A key is the name of a matrix, a module or a pattern; of several that match the longest counts.

    Raises:
        ValueError: there is no such matrix or weight, or they do not fit.
    """
    if not tables:
        return
    found = matrices(model)
    names = [name for matrix in found for name in matrix.names]
    for key in tables:
        if not any(matches(key, name) for name in names):
            raise invalid("model.weights", got=repr(key), expected=f"the name of a matrix: {', '.join(names)}")
    for matrix in found:
        keys = [key for name in matrix.names if (key := best_key(tables, name)) is not None]
        if not keys:
            continue
        key = max(keys, key=lambda k: (k in matrix.names, len(k)))
        try:
            weight = weight_spec(tables[key]).build(*matrix.shape, matrix.gates)
        except ValueError as error:
            raise ValueError(f"model.weights.{matrix.name}: {error}") from None
        dense = matrix.dense()
        if not dense.is_meta:
            weight.reset_parameters(float(dense.square().mean() * 3) ** 0.5)
        matrix.put(weight)


def weight_tables(model: nn.Module, options: Any) -> dict[str, dict[str, Any]]:
    """The `tables` that give a model of these `options` the weights that it has now."""
    own = {str(spec) for spec in weight_specs(options).values()}
    found = {}
    for matrix in matrices(model):
        held = matrix.held
        if isinstance(held, AbstractWeight) and str(held.spec) not in own | {"Dense()"}:
            table = weight_table(held.spec)
            if table is None:
                raise invalid(matrix.name, got=held.spec, expected="a weight of compactrnn.weights, which has a name")
            found[matrix.name] = table
    return found
