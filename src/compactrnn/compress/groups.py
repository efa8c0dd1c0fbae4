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

    def tensors(self) -> list[Tensor]:
        """The parameters (or tensors) that the matrix is made of."""
        return list(self.weight.parameters()) if isinstance(self.weight, AbstractWeight) else [self.weight]

    def units_on(self, device: torch.device) -> Tensor:
        """`units` where the weight is now: a model may be moved after its groups were found."""
        if self.units.device != device:
            self.units = self.units.to(device)
        return self.units

    def matrix(self) -> Tensor:
        """The matrix (or kernel) itself."""
        return self.weight.dense() if isinstance(self.weight, AbstractWeight) else self.weight

    def squares(self, count: int) -> Tensor:
        """Sum of squares per unit, (count,)."""
        matrix = self.matrix()
        sums = (matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix).square()
        if others := [d for d in range(sums.dim()) if d != self.axis]:
            sums = sums.sum(others)
        return self.sum_by_unit(sums, count)

    def sum_by_unit(self, sums: Tensor, count: int) -> Tensor:
        """What each slice adds to its unit, (count,)."""
        # the slices of no unit are added to a place of their own, which is then left out
        places = self.units_on(sums.device) % (count + 1)
        return sums.new_zeros(count + 1).index_add(0, places, sums).narrow(0, 0, count)

    @torch.no_grad()
    def scale_(self, factors: Tensor) -> None:
        """Multiply the slices of unit k by `factors[k]` in place."""
        like = self.tensors()[0]
        factors = factors.to(like)
        places = self.units_on(like.device) % (len(factors) + 1)
        padded = torch.cat([factors, factors.new_ones(1)]).index_select(0, places)
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

    @property
    def device(self) -> torch.device:
        """Where the layer's own weights are."""
        return self.writers[0].tensors()[0].device

    def squares(self) -> Tensor:
        """Sum of squares of each unit's group: rows of its writers and columns of its readers, without biases."""
        return self._sum(self.writers + self.readers)

    @torch.no_grad()
    def importance(self) -> Tensor:
        """Norm of each unit's readers; of its whole group where those are not all known."""
        heard = self._sum(self.readers)
        if not self.escapes:
            return heard.sqrt()
        return torch.where(self.escaped.to(self.device), self.squares(), heard).sqrt()

    @torch.no_grad()
    def fade_(self, factors: Tensor) -> None:
        """Scale the outgoing weights of unit k by `factors[k]`; where not all are known, its incoming ones."""
        escaped = self.escaped.to(factors.device)
        for part in self.readers:
            part.scale_(torch.where(escaped, 1.0, factors))
        if self.escapes:
            for part in (*self.writers, *self.biases):
                part.scale_(torch.where(escaped, factors, 1.0))

    @property
    def escapes(self) -> bool:
        """Whether the readers of any unit are not all known."""
        return True in self.escaped.tolist()

    def _sum(self, parts: list[Part]) -> Tensor:
        """Sum of squares per unit over `parts`, which may be on several devices."""
        sums = [p.squares(self.count).to(self.device) for p in parts]
        return torch.stack(sums).sum(0) if sums else torch.zeros(self.count, device=self.device)


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
