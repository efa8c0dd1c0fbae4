"""Parameter groups: all weights that belong to one hidden unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..graph.leaf import Leaf
from ..graph.rows import Rows
from ..graph.table import Table
from .gates import AbstractGate
from .part import Part as Part


@dataclass
class Member:
    """A unit set of a layer (both directions), or a table's columns; its unit i is unit `units[i]` of the group."""

    leaf: Leaf | Table | Rows
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
        all_go = self.written_out  # there is no layer that could keep its width outside
        own = (*self.writers, *self.biases, *(p for p in (*self.readers, *self.scalings) if p.inside or all_go))
        return "frozen" if any(part.frozen for part in own) else ""

    @property
    def written_out(self) -> bool:
        """Whether they are rows of matrices around which code is a recurrence."""
        return isinstance(self.members[0].leaf, Rows)

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
    def count(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the layer's own weights are."""
        return self.writers[0].tensors()[0].device

    def squares(self) -> Tensor:
        """Sum of squares of each unit's group: rows of its writers and columns of its readers, without biases."""
        return self._sum(self.writers + [p for p in self.readers if not any(p.same_as(w) for w in self.writers)])

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

    @torch.no_grad()
    def regrown(self, pruned: Tensor) -> bool:
        """Whether a unit of `pruned` has weights again where `decay_` made them zero."""
        for part, scaled in self._scaled():
            squares = part.squares(self.count).to(pruned.device)
            if bool((squares[pruned if scaled is None else pruned & scaled.to(pruned.device)] > 0).any()):
                return True
        return False

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
