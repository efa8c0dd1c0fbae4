"""Parameter groups: all weights that belong to one hidden unit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..graph.carriers import identity
from ..graph.labels import Units, UnitSetKey
from ..graph.leaf import Leaf
from ..graph.trace import Trace
from ..layers import part_name
from ..weights.base import AbstractWeight
from .computed import shape_of, stored
from .gates import AbstractGate
from .part import Part as Part


@dataclass
class Member:
    """A unit set of a layer (both directions of it); its unit i is unit `units[i]` of the group."""

    leaf: Leaf
    layer: int
    set_name: str
    units: Tensor

    @property
    def key(self) -> tuple[str, int, str]:
        """Layer name, layer number and unit set."""
        return self.leaf.name, self.layer, self.set_name

    @property
    def name(self) -> str:
        """Layer name, layer number and unit set, for messages."""
        return f"{self.leaf.name or 'model'}[{self.layer}].{self.set_name}"


@dataclass
class Group:
    """Units that are ranked together, with the weights that write them (incoming) and read them (outgoing).

    They are those of one unit set of one layer, and of all sets tied to it: sets that share parameters, and a decoder's
    that start from an encoder's. `scalings` scale or shift the units on their way to the readers. Not all readers of
    the units in `untracked` are known; those in `not_zero_preserving` are not zero for their readers when they are
    zero; those in `nonzero_start` may be more than zero without incoming weights.
    """

    members: list[Member]
    labels: list[int]
    writers: list[Part] = field(default_factory=list)
    biases: list[Part] = field(default_factory=list)
    readers: list[Part] = field(default_factory=list)
    reader_names: list[str] = field(default_factory=list)
    scalings: list[Part] = field(default_factory=list)
    untracked: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    not_zero_preserving: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    nonzero_start: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    reason: str = ""
    excluded: bool = False

    @property
    def left_alone(self) -> str:
        """Why no unit of it may be changed or cut; empty if they may."""
        if self.excluded:
            return "excluded"
        own = (*self.writers, *self.biases, *(p for p in self.readers if p.inside))
        return "frozen" if any(part.frozen for part in own) else ""

    @property
    def by_incoming(self) -> Tensor:
        """Units that can only be removed by what writes them: not all of their readers are known, or one is frozen."""
        found = self.untracked
        for part in (*self.readers, *self.scalings):
            if part.frozen and not part.inside:
                found = found.index_fill(0, part.units[part.units >= 0].to(found.device), True)
        return found

    @property
    def name(self) -> str:
        """The names of the unit sets."""
        return " + ".join(member.name for member in self.members)

    @property
    def leaf(self) -> Leaf:
        """The (first) layer."""
        return self.members[0].leaf

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
        """Norm of each unit's readers; of its whole group where it is in `by_incoming`."""
        outgoing, by_incoming = self._sum(self.readers), self.by_incoming
        if True not in by_incoming.tolist():
            return outgoing.sqrt()
        return torch.where(by_incoming.to(self.device), self.squares(), outgoing).sqrt()

    @torch.no_grad()
    def decay_(self, factors: Tensor) -> None:
        """Scale the outgoing weights of unit k by `factors[k]`, or its incoming ones if it is in `by_incoming`.

        Both, where a unit without incoming weights may still be more than zero: it starts from a state that is given.
        """
        for part, scaled in self._scaled():
            part.scale_(factors if scaled is None else torch.where(scaled.to(factors.device), factors, 1.0))

    def gate_(self, model: nn.Module, gate: AbstractGate) -> None:
        """Put a gate with an entry for each unit where `decay_` would scale the weights; `model` is that of the group.

        The groups of the model have to be found again afterwards: its weights are computed from now on.

        Raises:
            UnsupportedModelError: a weight has a factor in common with another one.
        """
        for part, scaled in self._scaled(repeated=True):
            part.gate_(model, gate, torch.ones(self.count, dtype=torch.bool) if scaled is None else scaled)

    @property
    def gate(self) -> AbstractGate | None:
        """The gate on the units, if there is one."""
        gates = (part.gate for part in (*self.readers, *self.writers, *self.biases))
        return next((gate for gate in gates if gate is not None), None)

    def _scaled(self, repeated: bool = False) -> Iterator[tuple[Part, Tensor | None]]:
        """The parts to scale in order to prune units, and for which units; None for all."""
        by_incoming = self.by_incoming
        some = True in by_incoming.tolist()
        for part in self.readers:
            if not part.frozen and (repeated or not part.repeated):
                yield part, ~by_incoming | self.nonzero_start if some else None
        if some:
            for part in (*self.writers, *self.biases):
                if repeated or not part.repeated:
                    yield part, by_incoming

    def keys(self) -> set[int]:
        """The keys of its layers."""
        return {member.leaf.key for member in self.members}

    def places(self, labels: Tensor) -> Tensor:
        """Which unit of the group each label is; -1 for none."""
        table = torch.full((max(0, int(labels.max()), *self.labels) + 1,), -1)
        table[torch.tensor(self.labels)] = torch.arange(self.count)
        return table[labels.clamp_min(0)]

    def _sum(self, parts: list[Part]) -> Tensor:
        """Sum of squares per unit over `parts`, which may be on several devices."""
        sums = [p.squares(self.count).to(self.device) for p in parts]
        return torch.stack(sums).sum(0) if sums else torch.zeros(self.count, device=self.device)


def find_groups(model: nn.Module, trace: Trace, units: Units) -> list[Group]:
    """The groups of `model`, over its live parameters; `trace` and `units` come from a copy of it.

    Layers that no unit can leave (`Units.unprunable`) are in none, nor is what can go only together with them.
    """
    groups = []
    for keys in _tied(units):
        if any(key in units.unprunable for key, _, _ in keys):
            continue
        labels = list(dict.fromkeys(label for key in keys for label in units.labels[key]))
        place = {label: i for i, label in enumerate(labels)}
        members = [
            Member(trace.leaves[k], layer, name, torch.tensor([place[label] for label in units.labels[k, layer, name]]))
            for k, layer, name in keys
        ]
        group = Group(members, labels)
        at_rest = all(_rests_at_zero(m.leaf.cells[m.layer][0]) for m in members)
        group.untracked = torch.tensor([label in units.untracked for label in labels])
        group.not_zero_preserving = torch.tensor([label in units.not_zero_preserving for label in labels])
        group.nonzero_start = torch.tensor([not at_rest or label in units.nonzero_start for label in labels])
        group.reason = next((units.reasons[k] for k in labels if k in units.reasons), "")
        for member in members:
            for direction in range(member.leaf.directions):
                _own_parts(model, group, member, direction)
        for part, name in _outer_readers(model, group, units, trace.leaves):
            if _add(group.readers, part):
                group.reader_names.append(name)
        group.scalings += _scalings(model, group, units)
        for parts in (group.readers, group.writers, group.biases):
            _find_repeated(parts)
        own = {id(p) for m in members for p in original(model, m.leaf).parameters()}
        for part in group.readers:
            part.inside = any(id(tensor) in own for tensor in part.tensors())
        groups.append(group)
    return groups


def original(model: nn.Module, leaf: Leaf) -> nn.Module:
    """The layer of `model` that `leaf`, found in a copy, stands for."""
    return model if leaf.alone else model.get_submodule(leaf.name)


def _tied(units: Units) -> list[list[UnitSetKey]]:
    """The unit sets, those with a common label together."""
    found: list[list[UnitSetKey]] = []
    for key, labels in units.labels.items():
        together = [sets for sets in found if any(not set(labels).isdisjoint(units.labels[k]) for k in sets)]
        found = [sets for sets in found if sets not in together]
        found.append([k for sets in together for k in sets] + [key])
    return sorted(found)


def _rests_at_zero(cell: AbstractCell) -> bool:
    """Whether a cell with nothing written to it stays at zero, as LSTM, GRU and tanh do."""
    cell = copy.deepcopy(cell)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        states = cell.initial_states(1)
        projected = torch.zeros_like(cell.project(states[0].new_zeros(1, cell.input_size)))
        output, after = cell.step(cell.look_ahead(projected[None])[0], states)
    own = [s.units is not None for s in cell.states]
    return not any(tensor.any() for tensor in (output, *compress(states, own), *compress(after, own)))


def _add(parts: list[Part], part: Part) -> bool:
    """Append, unless it is there already: parameters may be shared."""
    known = any(
        p.axis == part.axis and identity(p.weight) == identity(part.weight) and torch.equal(p.units, part.units)
        for p in parts
    )
    if not known:
        parts.append(part)
    return not known


def _find_repeated(parts: list[Part]) -> None:
    """Note the parts whose slices are of a factor that a part before them has too."""
    known: list[tuple[int, tuple[int, ...], Tensor]] = []
    for part in parts:
        own = part.axis, part.carriers(), part.units
        part.repeated = any(own[:2] == other[:2] and torch.equal(own[2], other[2]) for other in known)
        known.append(own)


def _own_parts(model: nn.Module, group: Group, member: Member, direction: int) -> None:
    layer, cell = original(model, member.leaf), member.leaf.cells[member.layer][direction]
    unit_set = cell.unit_set(member.set_name)
    for name in unit_set.written_by:
        weight = getattr(cell, name, None)
        if weight is not None:
            held = stored(layer, part_name(layer, member.layer, direction, name))
            matrix = isinstance(weight, AbstractWeight)
            gates = weight.gates if matrix else weight.numel() // len(member.units)
            _add(group.writers if matrix else group.biases, Part(held, 0, member.units.repeat(gates)))
    for name in unit_set.read_by:
        _add(group.readers, Part(stored(layer, part_name(layer, member.layer, direction, name)), 1, member.units))


def _outer_readers(model: nn.Module, group: Group, units: Units, leaves: dict[int, Leaf]) -> Iterator[tuple[Part, str]]:
    """The next layer of the stack, other recurrent layers, and weights of the model."""
    for member in group.members:
        rows, leaf = member.leaf.cells, member.leaf
        outputs = rows[member.layer][0].output_units()
        if member.layer + 1 < len(rows) and member.set_name in {u.name for u in outputs}:
            labels = [label for u in outputs for label in units.labels[leaf.key, member.layer, u.name]]
            columns = group.places(torch.tensor(labels * len(rows[member.layer])))
            yield from _inputs(model, leaf, member.layer + 1, columns, f"{leaf.name}[{member.layer + 1}]")
    for consumer in units.layer_inputs:
        if (columns := group.places(consumer.labels)).max() >= 0:
            yield from _inputs(model, leaves[consumer.leaf.key], 0, columns, consumer.leaf.name)
    for reader in units.uses:
        if (columns := group.places(reader.labels)).max() >= 0:
            yield Part(stored(model, reader.name), reader.axis, columns), reader.name


def _scalings(model: nn.Module, group: Group, units: Units) -> Iterator[Part]:
    """Parameters with an entry for units of the group."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for scaling in units.scalings:
        if scaling.name in parameters and (places := group.places(scaling.labels)).max() >= 0:
            yield Part(parameters[scaling.name], scaling.axis, places)


def _inputs(model: nn.Module, leaf: Leaf, number: int, columns: Tensor, name: str) -> Iterator[tuple[Part, str]]:
    layer = original(model, leaf)
    for direction, cell in enumerate(leaf.cells[number]):
        for attribute in cell.reads_input:
            yield Part(stored(layer, part_name(layer, number, direction, attribute)), 1, columns), f"{name}.{attribute}"


def check_sizes(model: nn.Module, leaf: Leaf) -> None:
    """Refuse a model of which a layer has been cut, or changed otherwise, since it was traced."""
    for number, row in enumerate(leaf.cells):
        for direction, cell in enumerate(row):
            for name in cell.weight_names():
                traced = getattr(cell, name)
                try:
                    layer = original(model, leaf)
                    shape = shape_of(stored(layer, part_name(layer, number, direction, name)))
                except AttributeError:
                    shape = None
                if shape != shape_of(traced):
                    raise UnsupportedModelError(
                        f"{leaf.name or type(model).__name__}: the layer has other sizes than when this pruner was"
                        " made; make a new GroupLasso for the model that shrink() returned"
                    )
