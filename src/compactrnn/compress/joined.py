"""Matrices that multiply the same vector, with one factor for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..layers.matrices import ModelMatrix
from ..weights.base import AbstractWeight
from ..weights.low_rank import LowRank, LowRankWeight
from .factor_item import Item


@dataclass(frozen=True, eq=False)
class Joined(ModelMatrix):
    """The recurrent matrix of a layer above the input matrix of the next one: both multiply h.

        [U_l; W_{l+1}] = [Z_h; Z_x] P

    In place of them stand two weights of low rank, `Z_h P` and `Z_x P`, which share P.

    Sources: Prabhavalkar et al., "On the compression of recurrent neural networks with an application to LVCSR acoustic
    modeling for embedded speech recognition", 2016, where P is that of U_l alone; Lu et al., 2016, section 3.2.
    """

    joined: ClassVar = True
    parts: tuple[ModelMatrix, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def gates(self) -> int:
        return 1

    @property
    def held(self) -> None:
        return None

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def dense(self) -> Tensor:
        return torch.cat([part.dense() for part in self.parts])

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for part in self.parts for parameter in part.parameters()]

    def macs(self, weight: AbstractWeight | None = None) -> int:
        """As of two products; a run time that notices makes P h once."""
        if not isinstance(weight, LowRankWeight):
            return sum(part.macs() for part in self.parts)
        return weight.left.numel() + len(self.parts) * weight.right.numel()

    def put(self, weight: AbstractWeight) -> None:
        assert isinstance(weight, LowRankWeight)
        rows = weight.left.split([part.shape[0] for part in self.parts])
        for part, left in zip(self.parts, rows, strict=True):
            own = LowRankWeight.of(left, weight.right, part.gates)
            own.left.requires_grad_(weight.left.requires_grad)
            own.right = weight.right
            part.put(own)


def join(items: Sequence[Item]) -> list[Item]:
    """The items, with those pairs as one of which both matrices get low rank in the same way.

    They are pairs of `torch.nn.LSTM`, `GRU` and `RNN`, and of this package's, in one direction.
    """
    places = {(id(i.matrix.places[0].module), i.matrix.places[0].attribute): i for i in items}
    pairs: dict[int, tuple[Item, Item]] = {}
    for (module, attribute), item in places.items():
        layer = item.matrix.places[0].module
        if not isinstance(layer, nn.RNNBase) or layer.bidirectional or not attribute.startswith("weight_hh_l"):
            continue
        number = int(attribute.removeprefix("weight_hh_l"))
        other = places.get((module, f"weight_ih_l{number + 1}"))
        if other is not None and _alike(item, other):
            pairs[id(item)] = item, other
    second = {id(other) for _, other in pairs.values()}
    return [_joined(*pairs[id(i)]) if id(i) in pairs else i for i in items if id(i) not in second]


def _alike(one: Item, other: Item) -> bool:
    free = not one.reason and not other.reason and one.wanted == other.wanted
    single = len(one.matrix.places) == len(other.matrix.places) == 1
    same_input = one.matrix.shape[1] == other.matrix.shape[1]  # not behind a projection
    return free and single and same_input and isinstance(one.wanted, LowRank | None)


def _joined(one: Item, other: Item) -> Item:
    matrix = Joined((*one.matrix.places, *other.matrix.places), "", (one.matrix, other.matrix))
    return replace(one, matrix=matrix, named=one.named or other.named)
