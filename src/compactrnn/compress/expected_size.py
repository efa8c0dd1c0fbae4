"""The size that a model is expected to have once its units are cut, as a function of the chance that each one stays."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..graph.carriers import identity
from ..weights.base import AbstractWeight
from ..weights.low_rank import LowRankWeight
from ..weights.masked import MaskedWeight
from .computed import shape_of
from .groups import Group
from .hard_concrete import HardConcrete
from .part import Part


@dataclass
class _Tensor:
    """A stored tensor of `numbers` numbers; slice i of an axis goes with unit `units[i]` of group number `group`."""

    shape: tuple[int, ...]
    numbers: float
    slices: dict[int, list[tuple[int, Tensor]]] = field(default_factory=dict)

    def add(self, axis: int, group: int, units: Tensor) -> None:
        known = self.slices.setdefault(axis, [])
        if not any(g == group and torch.equal(u, units) for g, u in known):
            known.append((group, units))

    @functools.cached_property
    def shared(self) -> list[tuple[int, Tensor]]:
        """For groups that cut rows and columns: how many entries are in a row and a column of each unit."""
        return [
            (
                group,
                torch.bincount(rows[rows >= 0], minlength=most) * torch.bincount(columns[columns >= 0], minlength=most),
            )
            for group, rows in self.slices.get(0, [])
            for other, columns in self.slices.get(1, [])
            if group == other
            for most in [1 + int(max(rows.max(), columns.max()))]
        ]

    def expected(self, chances: Sequence[Tensor]) -> Tensor:
        """The expected number of numbers; each of `chances` ends with a 1, for slices that go with no unit.

        The units of a group are independent of each other.
        """
        total = chances[0].new_tensor(self.numbers)
        for parts in self.slices.values():
            kept = [chances[group][units] for group, units in parts]
            total = total * functools.reduce(torch.mul, kept).mean()
        # an entry in the row and the column of one unit is there with its chance, not with the square of it
        for group, both in self.shared:
            p = chances[group][: len(both)]
            total = total + self.numbers / (self.shape[0] * self.shape[1]) * (both * (p - p * p)).sum()
        return total


class ExpectedSize:
    """What is counted: "units", "parameters", or "macs", the multiply-accumulates of the recurrent layers in a step.

    Parameters and MACs are linear in the chance that each row, and each column, of a matrix stays: the L0 norm of Wen
    et al., `E |W|_0 = sum_ij P(row i stays) P(column j stays)`. A weight whose structure cannot be cut counts as the
    dense one that it becomes.
    """

    def __init__(self, kind: str, groups: Sequence[Group], total: int):
        self.kind, self.groups = kind, tuple(groups)
        self._tensors = [] if kind == "units" else list(self._stored().values())
        ones = [torch.ones(group.count) for group in groups]
        self.whole = sum(group.count for group in groups) if kind == "units" else total
        self._rest = 0.0
        self._rest = self.whole - float(self.of(ones))

    @functools.cached_property
    def gates(self) -> list[HardConcrete]:
        """The gates of the groups; to find them takes longer than to move them."""
        gates = [group.gate for group in self.groups]
        return [gate for gate in gates if isinstance(gate, HardConcrete)]

    def of(self, chances: Sequence[Tensor]) -> Tensor:
        """The expected size for a chance for each unit of each group, (count,) each."""
        if self.kind == "units":
            return torch.cat(list(chances)).sum()
        one = chances[0].new_ones(1)
        ended = [torch.cat([p, one]) for p in chances]
        sizes = [tensor.expected(ended) for tensor in self._tensors]
        return torch.stack(sizes).sum() + self._rest if sizes else one[0] * self._rest

    def _stored(self) -> dict[tuple[int, ...], _Tensor]:
        found: dict[tuple[int, ...], _Tensor] = {}
        for number, group in enumerate(self.groups):
            vectors = (*group.biases, *group.scalings) if self.kind == "parameters" else ()
            for part in (*group.writers, *group.readers, *vectors):
                if self.kind == "macs" and not part.recurrent:
                    continue
                for key, axis, tensor in _pieces(part):
                    found.setdefault(key, tensor).add(axis, number, part.units.cpu())
        return found


def _pieces(part: Part) -> Iterator[tuple[tuple[int, ...], int, _Tensor]]:
    """The stored tensor that loses slices with the units of a part, with its identity and the axis."""
    held = part.weight
    weight = held.inner if isinstance(held, MaskedWeight) else held
    if isinstance(weight, LowRankWeight):
        factor = weight.right if part.axis else weight.left
        yield (id(factor),), part.axis, _Tensor(tuple(factor.shape), factor.numel())
        return
    shape = shape_of(weight)
    numbers = torch.Size(shape).numel()
    if isinstance(weight, AbstractWeight) and type(weight).scale_ is not AbstractWeight.scale_:
        numbers = weight.stored_parameters()
    yield identity(weight), part.axis, _Tensor(shape, numbers)
