"""A one-step model unrolled over sequences: the reference for a packed step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import invalid


class Layout(NamedTuple):
    """A tensor of the step: its shape for batch 1, its batch axis (None without one), its shape in an engine."""

    shape: tuple[int, ...]
    batch: int | None
    port: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], batch: int | None) -> Layout:
        """The batch axis is dropped, and so are leading axes of length one, such as that of the one step.

        >>> Layout.of((1, 1, 12), 1).port, Layout.of((2, 1, 16), 1).port, Layout.of((1, 1), 0).port
        ((12,), (2, 16), (1,))
        """
        port = [n for d, n in enumerate(shape) if d != batch]
        while len(port) > 1 and port[0] == 1:
            del port[0]
        return cls(tuple(1 if d == batch else n for d, n in enumerate(shape)), batch, tuple(port))

    def to_step(self, x: Tensor) -> Tensor:
        """From (batch, *port), or `port` without a batch axis, to what the step takes."""
        if self.batch is None:
            return x.reshape(self.shape)
        rest = [n for d, n in enumerate(self.shape) if d != self.batch]
        return x.reshape(len(x), *rest).movedim(0, self.batch)

    def from_step(self, y: Tensor) -> Tensor:
        """Inverse of the above."""
        if self.batch is None:
            return y.reshape(self.port)
        y = y.movedim(self.batch, 0)
        return y.reshape(len(y), *self.port)


class StepState(NamedTuple):
    """A state of the step: its name, the places of its argument and of its new value, its layout."""

    name: str
    argument: int
    output: int
    layout: Layout


class Unrolled(nn.Module):
    """(time, batch, *port) of each input to the same of each output and state, with the states fed back.

    Args:
        step: takes the tensors of inputs and states one by one.
        inputs: the place of each input among the arguments, and its layout.
        states: in any order.
        outputs: the place of each output among all that `step` returns, and its layout.
        initial: the states before the first step, by name, as engines have them.
    """

    def __init__(
        self,
        step: nn.Module,
        inputs: Sequence[tuple[int, Layout]],
        states: Sequence[StepState],
        outputs: Sequence[tuple[int, Layout]],
        initial: Mapping[str, Tensor],
    ):
        super().__init__()
        self.step = step
        self.inputs, self.states, self.outputs = tuple(inputs), tuple(states), tuple(outputs)
        self.start_from(initial)

    def start_from(self, initial: Mapping[str, Tensor]) -> None:
        """Set the initial states."""
        for i, state in enumerate(self.states):
            self.register_buffer(f"initial_{i}", initial[state.name].clone())

    def forward(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """All outputs for all steps, then all states after each step."""
        batched = next((x for x, (_, layout) in zip(xs, self.inputs, strict=True) if layout.batch is not None), None)
        given: list[Tensor] = [torch.empty(0)] * (len(self.inputs) + len(self.states))
        for i, state in enumerate(self.states):
            initial = getattr(self, f"initial_{i}")
            if state.layout.batch is not None and batched is not None:
                initial = initial.expand(batched.shape[1], *initial.shape)
            given[state.argument] = state.layout.to_step(initial)
        rows = []
        for t in range(len(xs[0])):
            for x, (place, layout) in zip(xs, self.inputs, strict=True):
                given[place] = layout.to_step(x[t])
            leaves = pytree.tree_leaves(self.step(*given))
            for state in self.states:
                given[state.argument] = leaves[state.output]
            told = [*self.outputs, *((state.output, state.layout) for state in self.states)]
            rows.append([layout.from_step(leaves[place]) for place, layout in told])
        return tuple(torch.stack(row) for row in zip(*rows, strict=True))

    def sequence(self, given: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
        """The inputs of one sequence, as `Engine.run` takes them, as `forward` takes them.

        Raises:
            ValueError: they are others; `names` are those of the inputs.
        """
        values = [given[n] for n in names] if isinstance(given, Mapping) and set(given) == set(names) else given
        values = values if isinstance(values, tuple | list) else [values]
        shapes = ", ".join(
            f"{name} of shape {('time', *p.port)}" for name, (_, p) in zip(names, self.inputs, strict=True)
        )
        if len(values) != len(names):
            raise invalid(
                "calibration", got=f"{len(values)} tensors", expected=f"for each sequence {shapes}, no states"
            )
        found = []
        for value, (_, layout) in zip(values, self.inputs, strict=True):
            x = torch.as_tensor(value).detach().cpu()
            x = x.float() if x.is_floating_point() else x
            if x.dim() == 0 or len(x) == 0 or [n for n in x.shape[1:] if n != 1] != [n for n in layout.port if n != 1]:
                raise invalid("calibration", got=f"a tensor of shape {tuple(x.shape)}", expected=f"sequences: {shapes}")
            x = x.reshape(len(x), *layout.port)
            found.append(x if layout.batch is None else x.unsqueeze(1))
        if len({len(x) for x in found}) > 1:
            raise invalid("calibration", got=f"{[len(x) for x in found]} steps", expected="as many steps of all inputs")
        return tuple(found)
