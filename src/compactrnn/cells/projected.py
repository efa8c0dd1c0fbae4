"""Projection of a cell's output, which its own recurrence reads, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import AbstractWeight, WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet

_OF_MODULES = frozenset(vars(nn.Module()))


class Projected(AbstractCell):
    """Any cell with a projection P of its output, shared by its recurrence and by what comes next.

        p_t = P y_t                        the output, `size` numbers
        U = Z P                            every matrix U of the cell that reads its output units

    With n hidden units P is (size, n), and each Z has `size` columns where U had n. An LSTM becomes that of
    `torch.nn.LSTM(proj_size=size)`. A cell whose units are recurrent each by itself alone (IndRNN, GILR, MinGRU) has no
    such U: its recurrence stays as it was, and its output is projected.

    States: `h` is p, `size` numbers, where the cell has a U. The cell's own output state follows as `c`, n numbers, if
    its step reads it by itself, as that of a GRU does, and its other states. Unit sets: `c`, the n hidden units that P
    reads by its columns, and `h`, the rows of P. `projection` is P, a `weight`; a U keeps its name and is now Z. In a
    step P y is computed once. `cell` is used up: its parts are those of the new cell.

    >>> import torch
    >>> from compactrnn.cells import GRU
    >>> cell = Projected(GRU(8, 16), 4)
    >>> y, (h, c) = cell(torch.randn(2, 8))
    >>> y.shape, h.shape, c.shape, cell.hidden.weight.shape
    (torch.Size([2, 4]), torch.Size([2, 4]), torch.Size([2, 16]), torch.Size([48, 4]))

    Raises:
        ValueError: a size below 1; a cell whose output is several unit sets, or that constrains a U in training.

    Sources: Sak, Senior, Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale
    Acoustic Modeling", 2014; one P for recurrence and next layer as a way to share low-rank factors: Lu, Sindhwani,
    Sainath, "Learning Compact Recurrent Neural Networks", 2016.
    """

    projection: AbstractWeight

    def __init__(self, cell: AbstractCell, size: int, weight: WeightSpec = DENSE):
        super().__init__(cell.input_size, cell.hidden_size)
        check_positive(size, "proj_size")
        self.kind = type(cell)
        output = _output_of(cell)
        vars(self).update(vars(cell))
        self.inner_states, self.inner_units = cell.states, cell.units
        self.kernel, self.reads_input, self.steps_ahead = cell.kernel, cell.reads_input, cell.steps_ahead
        self.readers = tuple(name for name in output.read_by if getattr(cell, name) is not None)
        self.carried = _state_read_by(cell, self.readers)
        if self.readers and self.kind.constrain_ is not AbstractCell.constrain_:
            got = f"{self.kind.__name__}, of which constrain_ may write to {', '.join(self.readers)}"
            raise invalid("cell with a projection", got=got, expected="one whose recurrent matrices are free")
        self._declare(output)
        for name in self.readers:
            old: AbstractWeight = getattr(cell, name)
            setattr(self, name, old.spec.build(old.out_features, size, old.gates))
        self.projection = weight.build(size, cell.unit_count(output))
        self.reset_parameters()

    def _declare(self, output: UnitSet) -> None:
        """Set `states` and `units`."""
        name, place = output.name, self.carried
        own = _free_name(name, self.inner_units)
        inside = replace(output, name=own, read_by=("projection",), output=False)
        outside = UnitSet(name, written_by=("projection",), read_by=self.readers, output=True)
        self.units = (*(inside if units is output else units for units in self.inner_units), outside)
        renamed = {name: _free_name(name, self.inner_states)}
        states = [
            replace(s, units=own, name=renamed.get(s.name, s.name)) if s.units == name else s for s in self.inner_states
        ]
        self.drops = place is not None and states[place].products_only
        if place is not None:
            first = 0.0 if states[place].init == 0 else None
            states = [StateSpec(name, units=name, init=first), *states[:place], *states[place + self.drops :]]
        self.states = tuple(states)

    def _inside(self, seen: Tensor | None = None, projected: Tensor | None = None) -> AbstractCell:
        """The cell as its class knows it, on the same parameters, `Z P` in the place of every Z."""
        cell = object.__new__(self.kind)
        vars(cell).update(vars(self), states=self.inner_states, units=self.inner_units)
        products = {name: _Product(getattr(self, name), self.projection, seen, projected) for name in self.readers}
        cell._modules = {**self._modules, **products}
        del cell._modules["projection"]
        return cell

    def size_options(self) -> dict[str, int]:
        return self._inside().size_options()

    def project(self, x: Tensor) -> Tensor:
        return self._inside().project(x)

    def look_ahead(self, projected: Tensor) -> Tensor:
        return self._inside().look_ahead(projected)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        place = self.carried
        if place is None:
            y, after = self._inside().step(projected, states)
            return self.projection(y), after
        h, own = states[0], list(states[1:])
        if self.drops:
            own.insert(place, h)  # which the readers get, and nothing else does
        y, after = self._inside(own[place], h).step(projected, tuple(own))
        output = self.projection(y)
        h = output if after[place] is y else self.projection(after[place])
        return output, (h, *(s for i, s in enumerate(after) if i != place or not self.drops))

    def initial_states(self, batch: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
        states = super().initial_states(batch, like)
        if self.carried is None or self.states[0].init is not None:
            return states
        shape, like = (batch, self.projection.in_features), next(self.projection.parameters())
        own = self._initial(self.inner_states[self.carried], shape, like)
        return self.projection(own).to(states[0]), *states[1:]

    def reset_parameters(self) -> None:
        """Initialize the cell as its class does, with Z for U, and P from U(-b, b), b = hidden_size ** -0.5."""
        self._change_inside("reset_parameters")
        self.projection.reset_parameters(self.projection.in_features**-0.5)

    def constrain_(self) -> None:
        self._change_inside("constrain_")

    def penalty(self) -> Tensor | None:
        return self._inside().penalty()

    def _change_inside(self, method: str) -> None:
        """Call a method of the cell's class that changes the cell, and keep what it sets."""
        cell = self._inside()
        getattr(cell, method)()
        kept = {"states", "units", *_OF_MODULES}
        vars(self).update({name: value for name, value in vars(cell).items() if name not in kept})

    def select_(self, keep: Mapping[str, Tensor], inputs: Tensor | None = None) -> Projected:
        super().select_(keep, inputs)
        self.hidden_size = self.projection.in_features
        return self

    def macs(self) -> int:
        """Multiply-accumulate operations of one step; P counts again where a U reads something other than y."""
        calls: list[int] = []
        states = self.initial_states(1)
        hook = self.projection.register_forward_hook(lambda *_: calls.append(1))
        try:
            with torch.no_grad():
                self(states[0].new_zeros(1, self.input_size), states)
        finally:
            hook.remove()
        return super().macs() + (len(calls) - 1) * self.projection.macs()

    @property
    def title(self) -> str:
        return f"{self.kind.__name__} with a projection"

    def extra_repr(self) -> str:
        return f"{self.kind.__name__}, {super().extra_repr()}, {self.projection.out_features}"


class _Product(AbstractWeight):
    """`W = Z P`, from what stands for Z and P; of the vector `seen` the product with P is known, `projected`."""

    def __init__(self, outer: nn.Module, inner: nn.Module, seen: Tensor | None, projected: Tensor | None):
        nn.Module.__init__(self)
        self.outer, self.inner = outer, inner
        self.out_features, self.in_features = outer.out_features, inner.in_features  # pyright: ignore
        self.gates, self.rows = outer.gates, outer.rows  # pyright: ignore
        self.known = seen, projected

    def forward(self, x: Tensor) -> Tensor:
        seen, projected = self.known
        return self.outer(projected if x is seen else self.inner(x))

    def dense(self) -> Tensor:
        return self.outer.dense() @ self.inner.dense()  # pyright: ignore

    def reset_parameters(self, bound: float | None = None) -> None:
        self.outer.reset_parameters(bound)  # pyright: ignore


def _free_name(name: str, parts: Sequence[StateSpec | UnitSet]) -> str:
    """A name for what was called `name`."""
    return f"{name}_own" if any(part.name == "c" for part in parts) else "c"


def _state_read_by(cell: AbstractCell, readers: tuple[str, ...]) -> int | None:
    """The number of the state that a step gives to `readers`, if it gives them one."""
    seen: list[Tensor] = []
    hooks = [getattr(cell, n).register_forward_pre_hook(lambda _, given: seen.append(given[0])) for n in readers]
    try:
        with torch.no_grad():
            states = cell.initial_states(1)
            cell.step(cell.look_ahead(cell.project(states[0].new_zeros(1, 1, cell.input_size)))[0], states)
    finally:
        for hook in hooks:
            hook.remove()
    return next((i for i, state in enumerate(states) if any(x is state for x in seen)), None)


def _output_of(cell: AbstractCell) -> UnitSet:
    """The one unit set that is the output."""
    output = cell.output_units()
    if len(output) != 1:
        got = f"{type(cell).__name__} with {', '.join(units.name for units in output)}"
        raise invalid("cell with a projection", got=got, expected="one whose output is one unit set")
    if hasattr(cell, "projection"):
        got = f"{type(cell).__name__}, which has a part of that name"
        raise invalid("cell with a projection", got=got, expected="a cell without a projection")
    return output[0]
