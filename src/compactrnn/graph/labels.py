"""Dependencies of hidden units: which unit each element of a tensor carries, and which weights consume it.

The graph is run with an integer label per element: the unit that the element carries (1, 2, ...), or one of

- `ZERO`: zero, whatever the inputs and the parameters are;
- `CONSTANT`: made of parameters and constants only;
- `DATA`: made of inputs or of weighted sums, no single unit.

Data movement runs on the labels themselves. A unit that is combined with another, meets an operation that is not known,
or reaches the model's output, is *untracked* from there on: not all of its consumers are known. Nothing is guessed.

*Tied* units, which can only be removed together, have one label: those whose weights are one parameter, and those of
which one gives the initial state of the other (the units of an encoder and of the decoder that starts from its state).

A *scaling* is a tensor that scales or shifts units on the way to their consumers, such as the vectors of a batch norm:
it has an entry per unit, which is removed with the unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .leaf import Leaf

ZERO, CONSTANT, DATA = 0, -1, -2

UnitSetKey = tuple[int, int, str]  # leaf, layer, unit set


@dataclass
class Use:
    """A weight that consumes units: entry i along `axis` of parameter `name` multiplies unit `labels[i]` (0: none)."""

    name: str
    axis: int
    labels: Tensor


@dataclass
class Scaling:
    """Entry i along the last axis of parameter or buffer `name` scales or shifts the unit `labels[i]`."""

    name: str
    axis: int
    labels: Tensor


@dataclass
class LayerInput:
    """The input of a recurrent layer: column j of the input of `leaf` carries the unit `labels[j]`."""

    leaf: Leaf
    labels: Tensor


@dataclass
class Units:
    """The result of the analysis: labels per (leaf key, layer, unit set), their consumers, and the untracked labels.

    A unit in `not_zero_preserving`, when zero, reaches its consumers as something else; one in `nonzero_start` may
    start from a state that is not zero. A tensor in `fixed_width` is also used in ways that are not listed, and cannot
    be cut. `unprunable` are the layers (by leaf key) of which no unit can be removed, and why.
    """

    labels: dict[UnitSetKey, list[int]] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    makers: list[Use] = field(default_factory=list)  # columns of tables and rows: entry i gives unit `labels[i]`
    layer_inputs: list[LayerInput] = field(default_factory=list)
    scalings: list[Scaling] = field(default_factory=list)
    not_zero_preserving: set[int] = field(default_factory=set)
    nonzero_start: set[int] = field(default_factory=set)
    initial_states_of_ties: set[int] = field(default_factory=set)  # units that a tied unit starts from
    untracked: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)
    fixed_width: set[str] = field(default_factory=set)
    unprunable: dict[int, str] = field(default_factory=dict)

    def mark_untracked(self, labels: Tensor, reason: str) -> None:
        """Note that not all consumers of the units in `labels` are known."""
        for label in labels[labels > 0].unique().tolist():
            self.untracked.add(label)
            self.reasons.setdefault(label, reason)

    def mark_not_zero_preserving(self, labels: Tensor) -> None:
        """Note that the units in `labels`, when zero, do not reach their consumers as zero."""
        self.not_zero_preserving.update(labels[labels > 0].unique().tolist())

    def note(self, uses: list[Use], name: str, axis: int, labels: Tensor) -> None:
        """Add a use, unless it is there: a loop has the same ones in every step."""
        if not any(u.name == name and u.axis == axis and torch.equal(u.labels, labels) for u in uses):
            uses.append(Use(name, axis, labels))

    def labels_of(self, key: int) -> Tensor:
        """All labels of a recurrent layer."""
        return torch.tensor([label for (k, _, _), labels in self.labels.items() if k == key for label in labels])


def carries(x: Tensor) -> bool:
    """Whether a unit is among the labels."""
    return bool((x > 0).any())


def uniform(x: Tensor, dims: tuple[int, ...], keepdim: bool = True) -> Tensor | None:
    """The label along `dims` where all agree, else None; constants agree with data, and zeros with any unit."""
    high = x.amax(dims, keepdim=True)
    low = torch.where((x == ZERO) & (high > 0), high, x).amin(dims, keepdim=True)
    if not bool(((low == high) | (high <= 0)).all()):
        return None
    return low if keepdim else low.amin(dims)


def columns(x: Tensor) -> Tensor | None:
    """One label per entry of the last axis, if all other positions agree."""
    return uniform(x.reshape(-1, x.shape[-1]), (0,), False)
