"""Everything in a model that belongs to one hidden unit, as one group per unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..cells.base import AbstractCell
from ..graph.trace import Leaf, Trace
from ..graph.units import Units
from ..layers import cells_of
from ..weights.base import AbstractWeight


@dataclass
class Part:
    """Slices along `axis` of a matrix: slice i belongs to unit `units[i]` of the group, or to none (-1)."""

    weight: AbstractWeight | nn.Parameter
    axis: int
    units: Tensor

    def matrix(self) -> Tensor:
        """The matrix (or kernel) itself."""
        return self.weight.dense() if isinstance(self.weight, AbstractWeight) else self.weight

    def squares(self, count: int) -> Tensor:
        """Sum of squares per unit, (count,)."""
        sums = self.matrix().square()
        if others := [d for d in range(sums.dim()) if d != self.axis]:
            sums = sums.sum(others)
        valid = self.units >= 0
        if valid.all() and len(self.units) == count and torch.equal(self.units, torch.arange(count)):
            return sums
        return sums.new_zeros(count).index_add(0, self.units[valid], sums[valid])

    @torch.no_grad()
    def scale_(self, factors: Tensor) -> None:
        """Multiply the slices of unit k by `factors[k]` in place."""
        padded = torch.cat([factors, factors.new_ones(1)])[self.units]
        if isinstance(self.weight, AbstractWeight):
            self.weight.scale_(out=padded) if self.axis == 0 else self.weight.scale_(inp=padded)
        else:
            self.weight.mul_(padded.view([-1 if d == self.axis else 1 for d in range(self.weight.dim())]))


@dataclass
class Group:
    """The units of one unit set of one layer (both directions of it), their writers and their readers."""

    leaf: Leaf
    layer: int
    set_name: str
    labels: range
    writers: list[Part] = field(default_factory=list)
    biases: list[Part] = field(default_factory=list)
    readers: list[Part] = field(default_factory=list)
    reader_names: list[str] = field(default_factory=list)
    escaped: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    shifted: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    reason: str = ""

    @property
    def name(self) -> str:
        """Layer name, layer number and unit set, for messages."""
        return f"{self.leaf.name or 'model'}[{self.layer}].{self.set_name}"

    @property
    def count(self) -> int:
        """How many units."""
        return len(self.labels)

    def squares(self) -> Tensor:
        """Sum of squares of each unit's group: rows of its writers and columns of its readers, without biases."""
        return torch.stack([p.squares(self.count) for p in (*self.writers, *self.readers)]).sum(0)

    @torch.no_grad()
    def importance(self) -> Tensor:
        """Norm of each unit's readers; of its whole group where those are not all known."""
        heard = sum((p.squares(self.count) for p in self.readers), torch.zeros(self.count))
        return torch.where(self.escaped, self.squares(), heard).sqrt()

    @torch.no_grad()
    def fade_(self, factors: Tensor) -> None:
        """Multiply what makes unit k felt by `factors[k]`: its readers; where those are not all known, its writers."""
        plain = torch.where(self.escaped, 1.0, factors)
        for part in self.readers:
            part.scale_(plain)
        if self.escaped.any():
            inward = torch.where(self.escaped, factors, 1.0)
            for part in (*self.writers, *self.biases):
                part.scale_(inward)


def find_groups(model: nn.Module, trace: Trace, units: Units) -> list[Group]:
    """The groups of `model`, over its live parameters; `trace` and `units` come from a copy of it."""
    groups = {}
    cells: dict[int, list[list[AbstractCell]]] = {}
    for key, leaf in trace.leaves.items():
        cells[key] = cells_of(original(model, leaf))
        for layer, row in enumerate(cells[key]):
            for unit_set in row[0].active_units():
                labels = units.ranges[key, layer, unit_set.name]
                group = Group(leaf, layer, unit_set.name, labels)
                group.escaped = torch.tensor([label in units.escaped for label in labels])
                group.shifted = torch.tensor([label in units.shifted for label in labels])
                group.reason = next((units.reasons[k] for k in labels if k in units.reasons), "")
                for cell in row:
                    _own_parts(group, cell)
                groups[key, layer, unit_set.name] = group
    for group in groups.values():
        for part, name in _outer_readers(model, group, units, cells):
            group.readers.append(part)
            group.reader_names.append(name)
    return list(groups.values())


def original(model: nn.Module, leaf: Leaf) -> nn.Module:
    """The layer of `model` that `leaf`, found in a copy, stands for."""
    return model if leaf.alone else model.get_submodule(leaf.name)


def _own_parts(group: Group, cell: AbstractCell) -> None:
    unit_set = cell.unit_set(group.set_name)
    own = torch.arange(group.count)
    for name in unit_set.written_by:
        weight = getattr(cell, name, None)
        if isinstance(weight, AbstractWeight):
            group.writers.append(Part(weight, 0, own.repeat(weight.gates)))
        elif weight is not None:
            group.biases.append(Part(weight, 0, own.repeat(weight.numel() // group.count)))
    for name in unit_set.read_by:
        group.readers.append(Part(getattr(cell, name), 1, own))


def _outer_readers(
    model: nn.Module, group: Group, units: Units, cells: dict[int, list[list[AbstractCell]]]
) -> Iterator[tuple[Part, str]]:
    """The next layer of the stack, other recurrent layers, and weights of the model."""
    first, key = group.labels[0], group.leaf.key
    row = cells[key][group.layer]
    outputs = [(u, row[0].unit_count(u)) for u in row[0].output_units()]
    if group.layer + 1 < len(cells[key]) and group.set_name in {u.name for u, _ in outputs}:
        parts = [torch.arange(n) if u.name == group.set_name else torch.full((n,), -1) for u, n in outputs]
        columns = torch.cat(parts).repeat(len(row))
        yield from _inputs(cells[key][group.layer + 1], columns, f"{group.leaf.name}[{group.layer + 1}]")

    def own(labels: Tensor) -> Tensor:
        return torch.where((labels >= first) & (labels <= group.labels[-1]), labels - first, -1)

    for consumer in units.consumers:
        if (columns := own(consumer.labels)).max() >= 0:
            yield from _inputs(cells[consumer.leaf.key][0], columns, consumer.leaf.name)
    seen = set()
    for reader in units.readers:
        columns = own(reader.labels)
        if columns.max() >= 0 and (reader.name, tuple(columns.tolist())) not in seen:
            seen.add((reader.name, tuple(columns.tolist())))
            yield Part(model.get_parameter(reader.name), reader.axis, columns), reader.name


def _inputs(row: list[AbstractCell], columns: Tensor, name: str) -> Iterator[tuple[Part, str]]:
    for cell in row:
        for attribute in cell.reads_input:
            yield Part(getattr(cell, attribute), 1, columns), f"{name}.{attribute}"
