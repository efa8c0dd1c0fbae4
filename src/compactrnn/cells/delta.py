"""Delta networks: matrices are multiplied only with what has changed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..weights.base import AbstractWeight
from .base import AbstractCell, StateSpec

_OWN = ("states", "units", "kernel")
Observer = Callable[["DeltaCell", Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], None]
_observers: list[Observer] = []


class DeltaCell(AbstractCell):
    """Any cell whose matrices see a number of a vector only once it has changed by more than a threshold.

    With s_t the vector that a matrix W reads at step t (the input, a state, or what is computed from them) and r_t its
    reference, the value of each number that was sent last:

        r_t[j] = r_{t-1}[j] if |s_t[j] - r_{t-1}[j]| <= threshold else s_t[j],     r_0 = 0
        W r_t stands in the place of W s_t

    As `W r_t = W r_{t-1} + W (r_t - r_{t-1})`, the columns of W whose number was not sent need be neither read nor
    multiplied, and the native engine skips them. What is defined, trained and compared is `W r_t` itself: a function of
    the references, and so without the rounding errors that a running sum collects over a long stream. A NaN is sent.
    With thresholds of zero the cell computes what the plain one does.

    The gradient is that of this function: it goes to the number that was sent, at the step at which it was sent.

    Args:
        cell: any cell without `steps_ahead`; it is used up, its parts are those of the new cell.
        thresholds: a vector, that of the input, then those of the vectors of `reads`; without it zeros.

    `reads` has, for each vector besides the input that a step multiplies with weights, the names of these. The
    references are states: `x_ref` of the input, and one for each such vector, called after the first of its weights:
    `hidden_ref` in an LSTM or a GRU. A layer starts every call with references of zero, and neither
    takes nor returns them (`StateSpec.internal`); a stream of the engine keeps them.

    >>> from compactrnn.cells import GRU
    >>> cell = DeltaCell(GRU(8, 16), torch.tensor([0.1, 0.05]))
    >>> y, (h, x_ref, hidden_ref) = cell(torch.randn(2, 8))
    >>> cell.reads, x_ref.shape, hidden_ref.shape
    ((('hidden',),), torch.Size([2, 8]), torch.Size([2, 16]))

    Raises:
        ValueError: a cell that reads later steps or has thresholds, or another number of thresholds than of vectors.

    Sources: Neil, Lee, Delbruck, Liu, "Delta Networks for Optimized Recurrent Network Computation", 2017; Gao, Neil,
    Ceolini, Liu, Delbruck, "DeltaRNN: A Power-efficient Recurrent Neural Network Accelerator", 2018.
    """

    thresholds: Tensor

    def __init__(self, cell: AbstractCell, thresholds: Tensor | None = None):
        super().__init__(cell.input_size, cell.hidden_size)
        if cell.steps_ahead or isinstance(cell, DeltaCell):
            got = f"{cell.title}, which " + ("reads later steps" if cell.steps_ahead else "has thresholds")
            raise invalid("cell of a delta network", got=got, expected="a plain cell that reads no later steps")
        vars(self).update(vars(cell))
        self.plain_class, self.plain = type(cell), {name: getattr(cell, name) for name in _OWN}
        self.units, self.kernel, self.reads_input = cell.units, "", cell.reads_input
        self.reads = _vectors_read(cell)
        count = 1 + len(self.reads)
        if thresholds is None:
            thresholds = torch.zeros(count, device=next(cell.parameters()).device)
        if thresholds.shape != (count,):
            expected = f"{count}: of the input" + "".join(f", of what {', '.join(names)} reads" for names in self.reads)
            raise invalid("thresholds", got=f"shape {tuple(thresholds.shape)}", expected=expected)
        self.register_buffer("thresholds", thresholds)
        self._declare()

    def _declare(self) -> None:
        """Set `states`."""
        states = [*self.plain["states"], StateSpec("x_ref", shape=(self.input_size,), internal=True)]
        for i, (name, *_) in enumerate(self.reads):
            units = next((u.name for u in self.units if name in u.read_by), None)
            shape = None if units else (getattr(self, name).in_features,)
            again = [names[0] for names in self.reads[:i]].count(name)
            states.append(StateSpec(f"{name}_ref{again + 1 if again else ''}", units, shape=shape, internal=True))
        self.states = tuple(states)

    def plain_cell(self) -> AbstractCell:
        """The cell without thresholds, on the same parts."""
        cell = object.__new__(self.plain_class)
        vars(cell).update(vars(self), **self.plain)
        return cell

    def project(self, x: Tensor) -> Tensor:
        """The input itself: it is multiplied within a step."""
        return x

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        count = len(self.plain["states"])
        x = held(projected, states[count], self.thresholds[0])
        vectors = _References(states[count + 1 :], self.thresholds)
        cell = self.plain_cell()
        readers = {name: _Reader(w, vectors) for name, w in _readers(self).items()}
        cell._modules = {**self._modules, **readers}
        y, after = cell.step(cell.project(x), states[:count])
        for observe in _observers:
            observe(self, (projected, *vectors.seen), states[count:], (x, *vectors.after))
        return y, (*after, x, *vectors.after)

    def initial_states(self, batch: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
        own = self.plain_cell().initial_states(batch, like)
        sizes = self.state_sizes()[len(own) :]
        return *own, *(own[0].new_zeros(batch, n) for n in sizes)

    def reset_parameters(self) -> None:
        self.plain_cell().reset_parameters()

    def size_options(self) -> dict[str, Any]:
        return self.plain_cell().size_options()

    def constrain_(self) -> None:
        self.plain_cell().constrain_()

    def penalty(self) -> Tensor | None:
        return self.plain_cell().penalty()

    def select_(self, keep: Mapping[str, Tensor], inputs: Tensor | None = None) -> DeltaCell:
        cell = self.plain_cell().select_(keep, inputs)
        self.input_size, self.hidden_size = cell.input_size, cell.hidden_size
        self._declare()
        return self

    def macs(self) -> int:
        """Multiply-accumulate operations of a step in which everything has changed."""
        return self.plain_cell().macs()

    @property
    def title(self) -> str:
        return f"{self.plain_cell().title} with thresholds"

    def extra_repr(self) -> str:
        return f"{self.plain_cell().title}, {super().extra_repr()}"


@contextlib.contextmanager
def observed(observe: Observer) -> Iterator[None]:
    """While it lasts, each step of a `DeltaCell` in the plain loop calls `observe(cell, vectors, before, after)`.

    `vectors` are the input and the vectors of `reads`, `before` and `after` their references.
    """
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


def held(x: Tensor, reference: Tensor, threshold: Tensor) -> Tensor:
    """The new reference of `x`: its numbers that differ from `reference` by more than `threshold`, else that.

    >>> held(torch.tensor([1.0, 2.0]), torch.tensor([1.05, 1.0]), torch.tensor(0.1))
    tensor([1.0500, 2.0000])
    """
    return torch.where((x - reference).abs() <= threshold, reference, x)


class _References:
    """The references within a step, in the order in which the vectors are read."""

    def __init__(self, before: tuple[Tensor, ...], thresholds: Tensor):
        self.before, self.thresholds = before, thresholds
        self.seen: list[Tensor] = []
        self.after: list[Tensor] = []

    def held(self, x: Tensor) -> Tensor:
        for known, reference in zip(self.seen, self.after, strict=True):
            if known is x:
                return reference
        number = len(self.after)
        self.seen.append(x)
        self.after.append(held(x, self.before[number], self.thresholds[1 + number]))
        return self.after[number]


class _Reader(nn.Module):
    """A weight that is multiplied with references."""

    def __init__(self, weight: nn.Module, references: _References):
        super().__init__()
        self.weight, self.references = weight, references

    def forward(self, x: Tensor) -> Tensor:
        return self.weight(self.references.held(x))

    def __getattr__(self, name: str) -> Any:
        """What a step asks a weight beside its product: `rows`, `in_features`, `dense()`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.weight, name)


def _readers(cell: AbstractCell) -> dict[str, nn.Module]:
    """The weights that read something else than the input; stand-ins for weights count, too."""
    return {name: part for name, part in cell.named_children() if name not in cell.reads_input}


def _vectors_read(cell: AbstractCell) -> tuple[tuple[str, ...], ...]:
    """For each vector that a step multiplies with weights, in order, the names of the weights that read it."""
    seen: list[tuple[Tensor, list[str]]] = []

    def note(name: str, _: nn.Module, given: tuple[Tensor]) -> None:
        (x,) = given
        known = next((names for vector, names in seen if vector is x), None)
        if known is None:
            seen.append((x, [name]))
        else:
            known.append(name)

    hooks = [
        part.register_forward_pre_hook(functools.partial(note, name))
        for name, part in _readers(cell).items()
        if isinstance(part, AbstractWeight)
    ]
    try:
        with torch.no_grad():
            states = cell.initial_states(1)
            cell.step(cell.project(states[0].new_zeros(1, cell.input_size)), states)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(tuple(names) for _, names in seen)
