"""Forms of the matrices outside of recurrent layers, as plain values, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .._errors import invalid
from ..layers import Embedding, Linear
from ..layers.matrices import Place
from ..weights.base import AbstractWeight
from ..weights.low_rank import LowRank, LowRankWeight
from ..weights.masked import MaskedWeight
from ..weights.registry import weight_spec, weight_table

_KINDS = {"Linear": (nn.Linear, Linear), "Embedding": (nn.Embedding, Embedding)}


def describe_products(model: nn.Module) -> list[dict[str, Any]]:
    """Every `cr.Linear` and `cr.Embedding` of `model`: where it stands, its sizes and the form of its weight.

    Raises:
        ValueError: a weight is not one of `compactrnn.weights`.
    """
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, Linear | Embedding):
            continue
        weight = module.weight.inner if isinstance(module.weight, MaskedWeight) else module.weight
        if (table := weight_table(weight.spec)) is None:
            raise invalid(
                f"{path}.weight", got=weight.spec, expected="a weight of compactrnn.weights, which has a name"
            )
        found.append(
            {
                "path": path,
                "kind": type(module).__name__,
                "shape": [weight.out_features, weight.in_features],
                "weight": table,
                "masked": isinstance(module.weight, MaskedWeight),
            }
        )
    return found


def rebuild_products(model: nn.Module, stored: list[dict[str, Any]]) -> None:
    """Give the linear layers and embeddings of `model`, as its code built them, the forms that were saved."""
    for entry in stored:
        path, (out, inp) = entry["path"], entry["shape"]
        module = dict(model.named_modules(remove_duplicate=False)).get(path)
        if type(module) not in _KINDS[entry["kind"]]:
            got = "no such module" if module is None else type(module).__name__
            raise invalid(path, got=got, expected=f"a layer as it was saved, {entry['kind']}")
        built: Any = module
        weight = built.weight
        shape = (weight.out_features, weight.in_features) if isinstance(weight, AbstractWeight) else tuple(weight.shape)
        if shape[0] != out or shape[1] < inp:
            raise invalid(path, got=f"shape {shape}, as the code builds it", expected=f"{(out, inp)}, or more columns")
        spec = weight_spec(entry["weight"])
        if isinstance(spec, LowRank):  # also of a rank that a matrix has which lost columns since
            rank = spec.rank or min(out, inp)
            plain: AbstractWeight = LowRankWeight.of(torch.zeros(out, rank), torch.zeros(rank, inp))
            plain.spec = spec
        else:
            plain = spec.build(out, inp)
        like = next(iter(built.parameters()))
        Place(path, built, "weight").put((MaskedWeight(plain) if entry["masked"] else plain).to(like))
