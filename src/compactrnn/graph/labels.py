"""Which unit does each number come from, and who reads it?

The graph is run with an integer label per element: the unit that the element carries (1, 2, ...), or one of

- `ZERO`: zero, whatever the inputs and the parameters are;
- `CONSTANT`: made of parameters and constants only;
- `DATA`: made of inputs or of weighted sums, no single unit.

Data movement runs on the labels themselves. A unit that meets another, or an operation that is not known, or that
reaches the model's output, *escapes*: its readers cannot all be named. Nothing is guessed.

Units that can only go together have one label: those whose weights are one parameter, and those of which one gives the
first state of the other (the units of an encoder and of the decoder that starts from its state).

What scales or shifts a unit on the way to its readers, such as the vectors of a batch norm, *follows* it: it has an
entry for the unit that goes when the unit goes.
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
    """Entry `columns[i]` along `axis` of parameter `name` multiplies the unit labelled `labels[i]` (0: no unit)."""

    name: str
    axis: int
    labels: Tensor


@dataclass
class Scaling:
    """Entry i along the last axis of parameter or buffer `name` scales or shifts the unit labelled `labels[i]`."""

    name: str
    axis: int
    labels: Tensor


@dataclass
class LayerInput:
    """Column j of the input of recurrent layer `leaf` carries the unit labelled `labels[j]`."""

    leaf: Leaf
    labels: Tensor


@dataclass
class Units:
    """What the graph tells: labels per (leaf key, layer, unit set), their readers, and the labels that escape.

    A unit in `shifted` is heard by its readers even while it is zero; one in `given` may start from a state that is
    not zero. A tensor in `pinned` has a use of another kind beside those that are listed. `kept` are the layers (by
    leaf key) that no unit can leave, with the reason.
    """

    labels: dict[UnitSetKey, list[int]] = field(default_factory=dict)
    readers: list[Use] = field(default_factory=list)
    consumers: list[LayerInput] = field(default_factory=list)
    followers: list[Scaling] = field(default_factory=list)
    shifted: set[int] = field(default_factory=set)
    given: set[int] = field(default_factory=set)
    passed_on: set[int] = field(default_factory=set)  # as the first state of a unit of the same label
    escaped: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)
    kept: dict[int, str] = field(default_factory=dict)

    def escapes(self, labels: Tensor, reason: str) -> None:
        """Note that no complete list of readers exists for the units in `labels`."""
        for label in labels[labels > 0].unique().tolist():
            self.escaped.add(label)
            self.reasons.setdefault(label, reason)

    def shifts(self, labels: Tensor) -> None:
        """Note that the units in `labels`, when zero, do not reach their readers as zero."""
        self.shifted.update(labels[labels > 0].unique().tolist())

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
