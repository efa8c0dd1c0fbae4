"""The base class of recurrent cells, and how they declare states and units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import AbstractWeight, take

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class StateSpec:
    """One state tensor of a cell: `(batch, size of the unit set)`, zero at the start unless `init` says otherwise."""

    name: str
    units: str = "h"
    init: float = 0.0


@dataclass(frozen=True)
class UnitSet:
    """A set of hidden units that pruning removes one by one.

    Unit k is written by row k of every gate of the weights and biases in `written_by`, read within the cell by
    column k of the weights in `read_by`; `output` says that it is among what the cell gives to others: the units of all
    such sets, one set after the other. `buffers` hold a number per unit that is kept beside the parameters.
    """

    name: str
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    output: bool = False
    buffers: tuple[str, ...] = ()


class AbstractCell(nn.Module, ABC):
    """One step of a recurrent network: `output, states = step(project(x), states)`.

    Attributes named in `units` are `AbstractWeight` modules or vectors of parameters, such as biases (None where there
    is none). Sizes of unit sets are read off the weights, so a cell stays true to itself when it is cut. A subclass
    names its `states` and `units` and gives `step`; `__init__` ends with `self.reset_parameters()`. Where the
    declaration depends on an option, `__init__` sets `self.states`, `self.units` and `self.reads_input`.
    `compactrnn.testing.CellContract` checks that it is true.
    """

    states: tuple[StateSpec, ...]
    units: tuple[UnitSet, ...]
    input: AbstractWeight
    reads_input: tuple[str, ...] = ("input",)
    kernel: ClassVar[str] = ""  # the native operation that does this step whole, if there is one

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = check_positive(input_size, "input_size")
        self.hidden_size = check_positive(hidden_size, "hidden_size")

    def project(self, x: Tensor) -> Tensor:
        """Input projection, which needs no state: (..., input_size) -> (..., gates * hidden_size)."""
        projected = self.input(x)
        bias = getattr(self, "input_bias", None)
        return projected if bias is None else projected + bias

    @abstractmethod
    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step from `project(x)`, (batch, gates * hidden_size), and the states: output and new states."""

    def forward(self, x: Tensor, states: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step from x, (batch, input_size): output, (batch, output_size), and new states."""
        return self.step(self.project(x), self.initial_states(x.shape[0], x) if states is None else states)

    def reset_parameters(self) -> None:
        """Initialize all weights and biases as torch does: U(-b, b), b = hidden_size ** -0.5, or the same variance."""
        bound = self.hidden_size**-0.5
        for child in self.children():
            if isinstance(child, AbstractWeight):
                child.reset_parameters(bound)
        for parameter in self.parameters(recurse=False):
            if not parameter.is_meta:
                nn.init.uniform_(parameter, -bound, bound)

    def constrain_(self) -> None:
        """Project parameters onto their constraints, in place; called before every training sequence.

        An optimiser may overshoot a bound. What `step` sees is bounded without `step` knowing of it, and it is traced
        and packed without the constraint. Most cells have none.
        """

    def penalty(self) -> Tensor | None:
        """Regularization term to add to the training loss, or None."""
        return None

    def active_units(self) -> tuple[UnitSet, ...]:
        """The unit sets that this instance has (an LSTM with projection has one more)."""
        return self.units

    def unit_set(self, name: str) -> UnitSet:
        """The unit set called `name`."""
        return next(u for u in self.active_units() if u.name == name)

    def output_units(self) -> tuple[UnitSet, ...]:
        """The unit sets that make up the output, in output order."""
        return tuple(u for u in self.active_units() if u.output)

    def unit_count(self, units: UnitSet) -> int:
        """Number of units in the set."""
        return next(w.rows for n in units.written_by if isinstance(w := getattr(self, n), AbstractWeight))

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return sum(self.unit_count(u) for u in self.output_units())

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
        sets = {u.name: u for u in self.active_units()}
        counts = {name: self.unit_count(u) for name, u in sets.items()}
        for name, index in keep.items():
            if name not in sets:
                raise invalid("unit set", got=repr(name), expected=f"one of {sorted(sets)}")
            _check_index(index, counts[name], f"units kept of {name!r}")
        if inputs is not None:
            _check_index(inputs, self.input_size, "input columns kept")
        for name in self.weight_names():
            weight = getattr(self, name)
            rows = next((s for s, u in sets.items() if name in u.written_by and s in keep), None)
            columns = next((s for s, u in sets.items() if name in u.read_by and s in keep), None)
            out = None
            if rows is not None:
                gates = weight.gates if isinstance(weight, AbstractWeight) else weight.numel() // counts[rows]
                first = torch.arange(gates, device=keep[rows].device)[:, None] * counts[rows]
                out = (first + keep[rows]).flatten()
            if isinstance(weight, AbstractWeight):
                inp = keep[columns] if columns is not None else (inputs if name in self.reads_input else None)
                if out is not None or inp is not None:
                    setattr(self, name, weight.select_(out=out, inp=inp))
            elif out is not None:
                setattr(
                    self, name, nn.Parameter(take(weight.detach(), 0, out).clone(), requires_grad=weight.requires_grad)
                )
        for name, kept in keep.items():
            for buffer in sets[name].buffers:
                if (values := getattr(self, buffer)) is not None:
                    setattr(self, buffer, take(values, 0, kept).clone())
        self.input_size = self.input_size if inputs is None else len(inputs)
        self.hidden_size = self.state_sizes()[-1]
        return self

    def weight_names(self) -> tuple[str, ...]:
        """Names of all weights and biases that belong to units, without repetition."""
        names = [n for u in self.active_units() for n in (*u.written_by, *u.read_by)]
        return tuple(dict.fromkeys(n for n in names if getattr(self, n, None) is not None))

    def macs(self) -> int:
        """Multiply-accumulate operations of one step's matrix products."""
        return sum(w.macs() for w in self.children() if isinstance(w, AbstractWeight))

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        return f"{self.input_size}, {self.hidden_size}"


def new_bias(size: int, bias: bool) -> nn.Parameter | None:
    """An uninitialized bias of `size` numbers, or None."""
    return nn.Parameter(torch.empty(size)) if bias else None


def _check_index(index: Tensor, count: int, what: str) -> None:
    if index.dtype != torch.long or index.dim() != 1 or len(index) == 0:
        raise invalid(
            what, got=f"{index.dtype} of shape {tuple(index.shape)}", expected="at least one index, torch.long"
        )
    if int(index.min()) < 0 or int(index.max()) >= count:
        raise invalid(what, got=f"indices {int(index.min())} to {int(index.max())}", expected=f"0 to {count - 1}")
