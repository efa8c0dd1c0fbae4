"""Finding the groups: which slices of which parameters belong to each hidden unit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import compress

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..graph.labels import Units, UnitSetKey
from ..graph.leaf import Leaf
from ..graph.rows import Rows
from ..graph.table import Table
from ..graph.trace import Trace
from ..layers import part_name
from ..weights.base import AbstractWeight
from .computed import shape_of, stored
from .groups import Group, Member
from .part import Part


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
        found = [
            Member(trace.source(k), layer, name, torch.tensor([place[label] for label in units.labels[k, layer, name]]))
            for k, layer, name in keys
        ]
        members = [member for member in found if not isinstance(member.leaf, Rows)]
        if not members:  # a recurrence that is written out
            first = next(member for member in found if isinstance(member.leaf, Rows) and member.leaf.recurs)
            members = [replace(first, units=torch.arange(len(labels)))]
        group = Group(members, labels)
        at_rest = all(_rests_at_zero(m.leaf.cells[m.layer][0]) for m in members if isinstance(m.leaf, Leaf))
        group.untracked = torch.tensor([label in units.untracked for label in labels])
        group.not_zero_preserving = torch.tensor([label in units.not_zero_preserving for label in labels])
        group.nonzero_start = torch.tensor([not at_rest or label in units.nonzero_start for label in labels])
        group.reason = next((units.reasons[k] for k in labels if k in units.reasons), "")
        for member in found:
            _own_parts(model, group, member)
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


def original(model: nn.Module, leaf: Leaf | Table | Rows) -> nn.Module:
    """The layer or embedding of `model` that `leaf`, found in a copy, stands for."""
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
    known = any(p.same_as(part) for p in parts)
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


def _own_parts(model: nn.Module, group: Group, member: Member) -> None:
    if isinstance(member.leaf, Table):
        _add(group.writers, Part(stored(model, member.leaf.parameter), 1, member.units))
        return
    if isinstance(member.leaf, Rows):
        if member.leaf.weight:
            _add(group.writers, Part(stored(model, member.leaf.weight), 0, member.units))
        if member.leaf.vector:
            vector = stored(model, member.leaf.vector)
            _add(group.biases, Part(vector, len(shape_of(vector)) - 1, member.units))
        return
    for direction in range(member.leaf.directions):
        _parts_of_cell(model, group, member, member.leaf, direction)


def _parts_of_cell(model: nn.Module, group: Group, member: Member, leaf: Leaf, direction: int) -> None:
    layer, cell = original(model, leaf), leaf.cells[member.layer][direction]
    unit_set = cell.unit_set(member.set_name)
    for name in unit_set.written_by:
        weight = getattr(cell, name, None)
        if weight is not None:
            held = stored(layer, part_name(layer, member.layer, direction, name))
            matrix = isinstance(weight, AbstractWeight)
            gates = weight.gates if matrix else weight.numel() // len(member.units)
            _add(group.writers if matrix else group.biases, Part(held, 0, member.units.repeat(gates), recurrent=True))
    for name in unit_set.read_by:
        held = stored(layer, part_name(layer, member.layer, direction, name))
        _add(group.readers, Part(held, 1, member.units, recurrent=True))


def _outer_readers(model: nn.Module, group: Group, units: Units, leaves: dict[int, Leaf]) -> Iterator[tuple[Part, str]]:
    """The next layer of the stack, other recurrent layers, and weights of the model."""
    for member in group.members:
        leaf = member.leaf
        if not isinstance(leaf, Leaf):
            continue
        rows = leaf.cells
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
            held = stored(layer, part_name(layer, number, direction, attribute))
            yield Part(held, 1, columns, recurrent=True), f"{name}.{attribute}"


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
                        " made; make a new pruner for the model that shrink() returned"
                    )
