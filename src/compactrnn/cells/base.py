"""What every recurrent step declares: its products, its states, its units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .._errors import check_positive
from ..weights.base import AbstractWeight


@dataclass(frozen=True)
class StateSpec:
    """One state tensor of a cell: `(batch, size of the unit set)`, zero at the start unless `init` says otherwise."""

    name: str
    units: str = "h"
    init: float = 0.0


@dataclass(frozen=True)
class UnitSet:
    """The coordinates that live and die together.

    Unit k is written by row k of every gate of the weights and biases in `written_by`, read within the cell by
    column k of the weights in `read_by`; `output` says that it is entry k of what the cell gives to others.
    """

    name: str
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    output: bool = False


class AbstractCell(nn.Module, ABC):
    """One step of a recurrent network: `output, states = step(project(x), states)`.

    Attributes named in `units` are `AbstractWeight` modules or bias parameters. Sizes of unit sets are read off the
    weights, so a cell stays true to itself when it is cut.
    """

    states: ClassVar[tuple[StateSpec, ...]]
    units: ClassVar[tuple[UnitSet, ...]]

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = check_positive(input_size, "input_size")
        self.hidden_size = check_positive(hidden_size, "hidden_size")

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The part of the step that needs no state: (..., input_size) -> (..., gates * hidden_size)."""

    @abstractmethod
    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step from `project(x)`, (batch, gates * hidden_size), and the states: output and new states."""

    def active_units(self) -> tuple[UnitSet, ...]:
        """The unit sets that this instance really has (an LSTM without projection lacks one)."""
        return self.units

    def unit_set(self, name: str) -> UnitSet:
        """The unit set called `name`."""
        return next(u for u in self.active_units() if u.name == name)

    def output_units(self) -> UnitSet:
        """The unit set that others read."""
        return next(u for u in self.active_units() if u.output)

    def unit_count(self, units: UnitSet) -> int:
        """How many units the set has."""
        return next(w.rows for n in units.written_by if isinstance(w := getattr(self, n), AbstractWeight))

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return self.unit_count(self.output_units())

    def state_sizes(self) -> tuple[int, ...]:
        """Width of each state."""
        return tuple(self.unit_count(self.unit_set(s.units)) for s in self.states)

    def initial_states(self, batch: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
        """The states before the first step: one `(batch, size)` tensor each, of the dtype and device of `like`."""
        like = next(self.parameters()) if like is None else like
        return tuple(
            torch.full((batch, n), s.init, dtype=like.dtype, device=like.device)
            for s, n in zip(self.states, self.state_sizes(), strict=True)
        )

    def select_(self, keep: Mapping[str, Tensor], inputs: Tensor | None = None) -> AbstractCell:
        """Keep the units `keep[set name]` (index tensors) and the input columns `inputs`; returns self.

        Exact when every reader of a removed unit is zero or goes too. States are cut by the same indices.
        """
        counts = {u.name: self.unit_count(u) for u in self.active_units()}
        for name in self.weight_names():
            weight = getattr(self, name)
            rows = next((u for u in self.active_units() if name in u.written_by and u.name in keep), None)
            columns = next((u for u in self.active_units() if name in u.read_by and u.name in keep), None)
            out = None
            if rows is not None:
                gates = weight.gates if isinstance(weight, AbstractWeight) else weight.numel() // counts[rows.name]
                out = (torch.arange(gates)[:, None] * counts[rows.name] + keep[rows.name]).flatten()
            if isinstance(weight, AbstractWeight):
                inp = keep[columns.name] if columns is not None else (inputs if name in self.reads_input else None)
                if out is not None or inp is not None:
                    setattr(self, name, weight.select_(out=out, inp=inp))
            elif out is not None:
                setattr(self, name, nn.Parameter(weight.detach()[out].clone(), requires_grad=weight.requires_grad))
        if inputs is not None:
            self.input_size = len(inputs)
        if self.output_units().name in keep or len(self.active_units()) > 1:
            self.hidden_size = self.unit_count(self.unit_set(self.states[-1].units))
        return self

    reads_input: ClassVar[tuple[str, ...]] = ("input",)

    def weight_names(self) -> tuple[str, ...]:
        """Names of all weights and biases that belong to units, each once."""
        names = [n for u in self.active_units() for n in (*u.written_by, *u.read_by)]
        return tuple(dict.fromkeys(n for n in names if getattr(self, n, None) is not None))

    def macs(self) -> int:
        """Multiply-accumulate operations of the products of one step."""
        return sum(w.macs() for w in self.children() if isinstance(w, AbstractWeight))
