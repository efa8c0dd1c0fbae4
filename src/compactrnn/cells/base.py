"""The base class of recurrent cells, and how they declare states and units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import AbstractWeight, take
from ..weights.dense import select

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class StateSpec:
    """One state tensor of a cell, (batch, width).

    It belongs to a unit set, `units`, and has one number per unit; or it has a `shape` of its own and belongs to no
    unit, as a step counter, `shape=(1,)`, or the coefficients of a memory: its numbers then stand flat, in C order.
    With neither, it belongs to the unit set "h". `delay=k` makes it a delay line of that, which `step` updates by
    `push`: the last k rows, the newest first, one after the other.

    `init` is the value before the first step: a number, or the name of a parameter or buffer of the cell, with one
    number or one per entry; None where the cell's own `initial_states` computes it. `role` says what the numbers are: a
    "state", a "counter" of steps (whole numbers, which a narrow type cannot represent), or a "delay" line. Weights in
    `written_by` write a state of a `shape` by their rows, those in `read_by` read it by their columns; these rows and
    columns belong to no unit, and pruning keeps them.

    `products_only` says that the step gives the state of a unit set to the weights in `read_by` of the set and does
    nothing else with it, as an LSTM with h. With a projection of the output (`Projected`) it is then not kept.

    An `internal` state is neither taken nor returned by a layer: it starts from `init` with every call, and a stream of
    the engine keeps it from step to step. The states that are not come first.
    """

    name: str
    units: str | None = None
    init: float | str | None = 0.0
    shape: tuple[int, ...] | None = None
    delay: int = 0
    role: Literal["state", "counter", "delay"] = "state"
    written_by: tuple[str, ...] = ()
    read_by: tuple[str, ...] = ()
    products_only: bool = False
    internal: bool = False

    def __post_init__(self):
        if self.units is None and self.shape is None:
            object.__setattr__(self, "units", "h")
        if self.units is not None and self.shape is not None:
            got = f"units={self.units!r}, shape={self.shape}"
            raise invalid(f"StateSpec({self.name!r})", got=got, expected="a unit set or a shape of its own, not both")
        if isinstance(self.delay, bool) or not isinstance(self.delay, int) or self.delay < 0:
            raise invalid(f"StateSpec({self.name!r}).delay", got=repr(self.delay), expected="0 or a number of steps")
        if self.delay and self.role == "state":
            object.__setattr__(self, "role", "delay")
        if self.role not in ("state", "counter", "delay") or (self.role == "delay") != bool(self.delay):
            expected = '"state" or "counter", or "delay" with delay > 0'
            raise invalid(f"StateSpec({self.name!r}).role", got=repr(self.role), expected=expected)


def push(line: Tensor, x: Tensor) -> Tensor:
    """A delay line one step later: `x`, (batch, n), before all but the oldest row of `line`, (batch, k * n).

    It is the only way to update a state that has `delay` in its `StateSpec`: loops and engines then move no more than
    x.

    >>> push(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[9.0, 8.0]]))
    tensor([[9., 8., 1., 2.]])
    """
    return torch.cat([x, line[:, : line.shape[1] - x.shape[1]]], 1)


@dataclass(frozen=True)
class UnitSet:
    """A set of hidden units that pruning removes one by one.

    Unit k is written by row k of every gate of the weights and biases in `written_by`, read within the cell by
    column k of the weights in `read_by`; `output` says that it is among what the cell gives to others: the units of all
    such sets, one set after the other. `buffers` hold a number per unit that is kept beside the parameters.

    `fixed` says, in words, why no unit of the set can be removed: where all units enter each of them otherwise than by
    weights, as through a layer norm or an orthogonal matrix. Pruning then leaves the layer as it is, and says so; the
    columns of its input can still be removed.
    """

    name: str
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    output: bool = False
    buffers: tuple[str, ...] = ()
    fixed: str = ""


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
    steps_ahead: int = 0  # how many later steps `look_ahead` reads
    kernel: str = ""  # the native operation that does this step whole, if there is one
    exact: bool = False  # whether the step's matrices that are no weights stay float32 in any packed model

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = check_positive(input_size, "input_size")
        self.hidden_size = check_positive(hidden_size, "hidden_size")

    def project(self, x: Tensor) -> Tensor:
        """Input projection, which needs no state: (..., input_size) -> (..., gates * hidden_size)."""
        projected = self.input(x)
        bias = getattr(self, "input_bias", None)
        return projected if bias is None else projected + bias

    def look_ahead(self, projected: Tensor) -> Tensor:
        """What `step` gets of a whole sequence of projections, (time, batch, n): the same, unless later steps matter.

        A cell that reads later steps gives `steps_ahead` and this; beyond the end of a sequence projections are zero. A
        layer calls it before the loop over time, in the direction in which the cell reads. Such a cell runs offline
        only.
        """
        return projected

    @abstractmethod
    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step from a row of `look_ahead(project(x))`, (batch, n), and the states: output and new states."""

    def jump(self, x: Tensor, states: States) -> tuple[Tensor, States] | None:
        """Output and states after the last step of x, (time, batch, input_size), at once; None if there is no such way.

        It ends with `forward`, the last step.
        """
        return None

    def forward(self, x: Tensor, states: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step from x, (batch, input_size): output, (batch, output_size), and new states; no step follows it."""
        projected = self.look_ahead(self.project(x)[None])[0]
        return self.step(projected, self.initial_states(x.shape[0], x) if states is None else states)

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

        An optimizer may overshoot a bound. What `step` sees is bounded without `step` knowing of it, and it is traced
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
        """Number of units in the set: rows per gate of the first weight that writes it.

        Without such a weight, the length of the first vector that writes it, or the columns of a weight that reads it.
        """
        written = [part for n in units.written_by if (part := getattr(self, n)) is not None]
        rows = [part.rows for part in written if isinstance(part, AbstractWeight)]
        vectors = [part.numel() for part in written if isinstance(part, Tensor)]
        return next(iter([*rows, *vectors, *(getattr(self, n).in_features for n in units.read_by)]))

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return sum(self.unit_count(u) for u in self.output_units())

    def state_sizes(self) -> tuple[int, ...]:
        """Width of each state."""
        return tuple(max(1, s.delay) * self._row_width(s) for s in self.states)

    def size_options(self) -> dict[str, Any]:
        """The options, beside `hidden_size`, that give another cell of the class these sizes; most have no other size.

        They are not those of the constructor: pruning changes sizes, and a size may follow from another by default.
        """
        return {}

    def outer_states(self) -> tuple[StateSpec, ...]:
        """The states that a layer takes and returns, which are the first ones."""
        return tuple(s for s in self.states if not s.internal)

    def outer_sizes(self) -> tuple[int, ...]:
        """Width of each of these."""
        return self.state_sizes()[: len(self.outer_states())]

    def _row_width(self, state: StateSpec) -> int:
        return prod(state.shape) if state.shape is not None else self.unit_count(self.unit_set(str(state.units)))

    def initial_states(self, batch: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
        """The states before the first step: one `(batch, size)` tensor each, of the dtype and device of `like`."""
        like = next(self.parameters()) if like is None else like
        return tuple(self._initial(s, (batch, n), like) for s, n in zip(self.states, self.state_sizes(), strict=True))

    def _initial(self, state: StateSpec, shape: tuple[int, int], like: Tensor) -> Tensor:
        if isinstance(state.init, str):
            return getattr(self, state.init).to(like).reshape(-1).expand(shape)
        return like.new_full(shape, state.init or 0.0)

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
            if sets[name].fixed and index.tolist() != list(range(counts[name])):
                got = f"{len(index)} of {counts[name]}, or in another order"
                raise invalid(f"{self.title}: units kept of {name!r}", got=got, expected=f"all: {sets[name].fixed}")
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
                    setattr(self, name, select(weight, out=out, inp=inp))
            elif out is not None:
                setattr(
                    self, name, nn.Parameter(take(weight.detach(), 0, out).clone(), requires_grad=weight.requires_grad)
                )
        for name, kept in keep.items():
            for buffer in sets[name].buffers:
                if (values := getattr(self, buffer)) is not None:
                    setattr(self, buffer, take(values, 0, kept).clone())
        self.input_size = self.input_size if inputs is None else len(inputs)
        own = [n for s, n in zip(self.states, self.state_sizes(), strict=True) if s.units is not None and not s.delay]
        self.hidden_size = own[-1] if own else self.output_size
        return self

    def weight_names(self) -> tuple[str, ...]:
        """Names of all weights and biases that belong to units or states, without repetition."""
        names = [n for part in (*self.active_units(), *self.states) for n in (*part.written_by, *part.read_by)]
        return tuple(dict.fromkeys(n for n in names if getattr(self, n, None) is not None))

    def macs(self) -> int:
        """Multiply-accumulate operations of one step's matrix products."""
        return sum(w.macs() for w in self.children() if isinstance(w, AbstractWeight))

    @property
    def title(self) -> str:
        """What reports and messages call it."""
        return type(self).__name__

    def extra_repr(self) -> str:
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
