"""Dependency analysis: number the hidden units of a traced model and find all of their consumers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from .carriers import carriers
from .labeler import Labeler
from .labels import Units as Units
from .labels import UnitSetKey
from .rows import ROWS, Rows
from .seeded import seeded
from .table import COLUMNS, Table
from .trace import Trace


def find_units(trace: Trace, example_inputs: tuple[Tensor, ...], embeddings: bool = False) -> Units:
    """Label every unit of every recurrent layer of `trace` and follow the labels to all consumers.

    Where the trace has a training graph too, consumers and untracked units are those of both. With `embeddings` the
    columns of embedding tables are units, too; without it those that are tied to units of a layer, as by an output
    layer that has the table as its weight. Rows from which cells start go with the units of these, if all can.
    """
    graphs = [graph for graph in (trace, trace.training) if graph is not None]
    with seeded():
        values = [graph.run(example_inputs) for graph in graphs]
    sources: list[Table | Rows] = [*trace.tables.values(), *trace.rows.values()]
    reasons: dict[str, str] = {}
    while True:
        units = _labeled(trace, sources, list(zip(graphs, values, strict=True)), example_inputs)
        useful = [source for source in sources if _can_lose(source, trace, units, embeddings)]
        for source in sources:
            if isinstance(source, Rows) and source.recurs and source not in useful:
                labels = units.labels[source.key, 0, ROWS]
                reasons[source.name] = next((units.reasons[k] for k in labels if k in units.reasons), "read otherwise")
        if len(useful) == len(sources):
            break
        sources = useful
    if not trace.leaves and not any(isinstance(source, Rows) for source in sources):
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UnsupportedModelError(
            f"{type(trace.model).__name__}: no unit of its recurrence, which is written out, can be removed, as not all"
            f" that reads them can lose columns ({why}). nn.GRU, nn.LSTM and cells of them keep their width then"
        )
    units.nonzero_start |= units.initial_states_of_ties & units.not_zero_preserving
    for leaf in trace.leaves.values():
        if leaf.takes_state:
            units.nonzero_start.update(units.labels_of(leaf.key).tolist())
    _keep_what_is_read_otherwise(trace, units)
    for key, reason in trace.unseen.items():
        units.mark_untracked(units.labels_of(key), reason)
        units.nonzero_start.update(units.labels_of(key).tolist())  # what is not seen may start it from any state
    return units


def _labeled(
    trace: Trace,
    sources: Sequence[Table | Rows],
    graphs: list[tuple[Trace, dict[str, Any]]],
    example_inputs: tuple[Tensor, ...],
) -> Units:
    """The labels of all graphs, units being tied where one of them ties them."""
    same = _shared(trace, sources)
    while True:
        units, ties = Units(labels=same.labels()), []
        for graph, values in graphs:
            ties += Labeler(graph, units, values, example_inputs, sources).run()
        if not same.join(ties):
            return units


def _can_lose(source: Table | Rows, trace: Trace, units: Units, embeddings: bool) -> bool:
    """Whether all that reads a source is known, and it is to be units: rows go with those of layers only."""
    if isinstance(source, Table):
        return _can_lose_columns(source, units, embeddings)
    own = set(units.labels[source.key, 0, ROWS])
    known = {*trace.leaves, *(rows.key for rows in trace.rows.values() if rows.recurs)}
    started = {label for (key, _, _), labels in units.labels.items() if key in known for label in labels}
    return own <= started and own.isdisjoint(units.untracked)


def _can_lose_columns(table: Table, units: Units, embeddings: bool) -> bool:
    """Whether all that reads a table's columns is known, and they are to be units."""
    own = set(units.labels[table.key, 0, COLUMNS])
    tied = any(key != table.key and not own.isdisjoint(labels) for (key, _, _), labels in units.labels.items())
    return (embeddings or tied) and own.isdisjoint(units.untracked) and table.parameter not in units.fixed_width


class _Classes:
    """Equivalence classes of labels (union-find): `parent[i]` leads to the first label of the class."""

    def __init__(self, sets: dict[UnitSetKey, range]):
        self.sets = sets
        self.parent = list(range(1 + max((r[-1] for r in sets.values()), default=0)))

    def find(self, label: int) -> int:
        """The first label of the class."""
        while self.parent[label] != label:
            label = self.parent[label]
        return label

    def join(self, pairs: list[tuple[int, int]]) -> bool:
        """Merge the labels of every pair; returns whether any two were distinct."""
        changed = False
        for a, b in pairs:
            a, b = sorted((self.find(a), self.find(b)))
            self.parent[b] = a
            changed |= a != b
        return changed

    def labels(self) -> dict[UnitSetKey, list[int]]:
        """The label of every unit."""
        return {key: [self.find(label) for label in labels] for key, labels in self.sets.items()}


def _shared(trace: Trace, sources: Sequence[Table | Rows]) -> _Classes:
    """Number the units; units are tied whose rows, or whose columns within a layer, are of one parameter."""
    sets: dict[UnitSetKey, range] = {}
    known: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    pairs: list[tuple[int, int]] = []

    def tie(cell: AbstractCell, names: tuple[str, ...], axis: int, labels: list[int]) -> None:
        for part in (getattr(cell, name, None) for name in names):
            if part is not None:
                pairs.extend(zip(known.setdefault((axis, carriers(part, axis)), labels), labels, strict=False))

    first = 1
    for leaf in trace.leaves.values():
        for i, row in enumerate(leaf.cells):
            for unit_set in row[0].active_units():
                count = row[0].unit_count(unit_set)
                labels = sets[leaf.key, i, unit_set.name] = range(first, first + count)
                first += count
                for cell in row:
                    tie(cell, unit_set.written_by, 0, list(labels))
                    tie(cell, unit_set.read_by, 1, list(labels))
            if i:  # the layer before in the same module
                outputs = leaf.cells[i - 1][0].output_units()
                read = [label for units in outputs for label in sets[leaf.key, i - 1, units.name]]
                for cell in row:
                    tie(cell, cell.reads_input, 1, read * len(row))
    for source in sources:
        name = COLUMNS if isinstance(source, Table) else ROWS
        sets[source.key, 0, name] = range(first, first + source.count)
        first += source.count
    classes = _Classes(sets)
    classes.join(pairs)
    return classes


def _keep_what_is_read_otherwise(trace: Trace, units: Units) -> None:
    """Mark layers as unprunable whose cells say so, that no graph runs, or whose parameters others read, too."""
    run = {consumer.leaf.key for consumer in units.layer_inputs}
    readers: dict[int, str] = {}
    for graph in (trace, trace.training):
        for node in graph.nodes if graph else ():
            for a in node.all_input_nodes:
                if name := graph.parameters.get(a.name):  # pyright: ignore
                    readers[id(trace.model.get_parameter(name))] = graph.module_of(node)  # pyright: ignore
    for key, leaf in trace.leaves.items():
        fixed = [u.fixed for row in leaf.cells for cell in row for u in cell.active_units() if u.fixed]
        if fixed:
            units.unprunable[key] = fixed[0]
        if key not in run:
            units.unprunable[key] = "forward does not run it on example_inputs, so what reads it is not known"
        for name, parameter in leaf.module.named_parameters():
            if id(parameter) in readers:
                units.unprunable[key] = f"{readers[id(parameter)]} computes with its {name} itself, which would change"
