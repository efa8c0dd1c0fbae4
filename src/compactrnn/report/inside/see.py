"""Run a model on one sequence and keep what its recurrent layers do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..._errors import UnsupportedModelError, invalid
from ...cells.base import AbstractCell, States
from ...graph.copy import copy_module
from ...graph.example import Example
from ...layers import cells_of, convert_, is_recurrent, time_loop
from ...layers.loop import StepFunction, watched
from .gates import GateFinder, numbered
from .spectrum import matrix_spectra, step_spectrum
from .view import LayerView


@dataclass
class _Record:
    """A cell over a sequence, in the order in which it reads."""

    name: str
    cell: AbstractCell
    reverse: bool
    projected: list[Tensor] = field(default_factory=list)
    before: list[States] = field(default_factory=list)
    after: list[States] = field(default_factory=list)
    gates: list[list[Tensor]] = field(default_factory=list)
    gate_names: list[str] = field(default_factory=list)

    def step(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        """A step of the cell, from states that are nodes of the graph of their own."""
        if len(projected) != 1:
            raise invalid("inputs", got=f"{len(projected)} sequences side by side in {self.name}", expected="one")
        states = tuple(s.view_as(s) if s.requires_grad else s.detach().requires_grad_() for s in states)
        finder = GateFinder()
        with finder:
            output, after = self.cell.step(projected, states)
        names = numbered(finder.names)
        if self.gates and names != self.gate_names:
            raise UnsupportedModelError(f"{self.cell.title}.step: computes other sigmoids from step to step")
        self.gate_names = names
        self.projected.append(projected.detach())
        self.before.append(states)
        self.after.append(tuple(s.detach() for s in after))
        self.gates.append([g.detach() for g in finder.values])
        return output, after


def see_inside(model: nn.Module, inputs: Any) -> tuple[LayerView, ...]:
    """What the recurrent layers of a model do on one sequence: states, gates, memory, gradients and eigenvalues.

    `inputs` is a tensor, or a tuple or dict of arguments, as the model takes them, with one sequence in the batch. The
    model runs on a copy, in eval mode, in float32 on the CPU. There is a `LayerView` for each recurrent layer of the
    model in each direction and each call, in the order in which they run. Every sigmoid of a cell's step counts as a
    gate, whoever wrote the cell.

    The answer whose gradient is taken is the largest output at the last step. Its derivative by the state that one step
    gives to the next one says how much that memory still matters, the other ways of the input to the answer left out.
    A linear recurrence `h' = a h + x`, read at the end with weight v, has |v| |a|^k at lag k.

    >>> import compactrnn as cr
    >>> model = nn.Sequential(nn.Linear(3, 4), cr.GRU(4, 5, batch_first=True))
    >>> (view,) = see_inside(model, torch.randn(1, 20, 3))
    >>> view.name, view.cell, list(view.gates), view.states["h"].shape, view.gradient.shape
    ('1', 'GRU', ['reset', 'update'], (20, 5), (20,))

    Raises:
        ValueError: a model without a recurrent layer; inputs of several sequences; outputs without a gradient.
        UnsupportedModelError: a layer that cannot be run step by step, or that the model calls with packed sequences.
    """
    model = copy_module(model).cpu().float().eval().requires_grad_(False)
    convert_(model)
    layers = {name: module for name, module in model.named_modules() if is_recurrent(module)}
    if not layers:
        raise invalid("model", got=type(model).__name__, expected="a model with a recurrent layer")
    example = Example.of(model, inputs)
    given = [x.detach().cpu().float() if x.is_floating_point() else x.detach().cpu() for x in example.tensors]
    records = _Recorder(layers)
    with records, torch.enable_grad(), time_loop("plain"), watched(records.watch):
        answer = _answer(example.with_tensors(given).call(model))
    gradients = _gradients(answer, records.found)
    return tuple(_view(record, norms) for record, norms in zip(records.found, gradients, strict=True))


class _Recorder:
    """A record of every cell of every call of the layers, in order."""

    def __init__(self, layers: dict[str, nn.Module]):
        self.layers, self.found = layers, list[_Record]()
        self.calls = dict.fromkeys(layers, 0)
        self.current: list[list[tuple[str, bool]]] = []  # cells still to come of the calls in progress
        self.hooks: list[Any] = []

    def __enter__(self) -> None:
        for name, layer in self.layers.items():
            rows = cells_of(layer)
            places = [
                (f", layer {number}" * (len(rows) > 1) + ", backward" * direction, direction == 1)
                for number, row in enumerate(rows)
                for direction in range(len(row))
            ]
            begin, end = self._hooks(name, places)
            self.hooks += [layer.register_forward_pre_hook(begin), layer.register_forward_hook(end)]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hooks(self, name: str, places: list[tuple[str, bool]]) -> tuple[Any, Any]:
        def begin(*_: Any) -> None:
            self.calls[name] += 1
            call = f", call {self.calls[name]}" if self.calls[name] > 1 else ""
            self.current.append([((name or "layer") + where + call, back) for where, back in places])

        def end(*_: Any) -> None:
            if self.current.pop():
                hint = "give one sequence, without lengths"
                raise UnsupportedModelError(
                    f"{name or 'model'}: reads packed sequences, whose steps are not seen; {hint}"
                )

        return begin, end

    def watch(self, cell: AbstractCell) -> StepFunction:
        if not self.current:
            raise UnsupportedModelError("model: calls the forward of a recurrent layer itself; call the layer")
        name, reverse = self.current[-1].pop(0)
        self.found.append(_Record(name, cell, reverse))
        return self.found[-1].step


def _answer(outputs: Any) -> Tensor:
    """The largest number of the last row of a model's first output."""
    tensors = [x for x in tree_leaves(outputs) if isinstance(x, Tensor)]
    if not tensors or not tensors[0].requires_grad:
        got = f"{tensors[0].dtype} without a gradient" if tensors else "no tensor"
        raise invalid("model output", got=got, expected="numbers that depend on the recurrent layers")
    first = tensors[0]
    return first.reshape(-1, first.shape[-1] if first.dim() else 1)[-1].max()


def _gradients(answer: Tensor, records: list[_Record]) -> list[np.ndarray]:
    """Of each record the norm of the derivative of the answer by the states that enter step T - k, k = 1, ..., T."""
    kept = [[i for i, spec in enumerate(r.cell.states) if spec.role != "counter"] for r in records]
    nodes = [states[i] for r, those in zip(records, kept, strict=True) for states in r.before for i in those]
    found = iter(torch.autograd.grad(answer, nodes, allow_unused=True))
    norms = []
    for record, those in zip(records, kept, strict=True):
        squares = [sum(0.0 if (g := next(found)) is None else float(g.double().square().sum()) for _ in those)
                   for _ in record.before]  # fmt: skip
        norms.append(np.sqrt(squares)[:: 1 if record.reverse else -1].copy())
    return norms


def _view(record: _Record, gradient: np.ndarray) -> LayerView:
    order = slice(None, None, -1 if record.reverse else 1)
    middle = len(record.before) // 2

    def over_time(rows: list[Any], number: int) -> np.ndarray:
        values = torch.cat([row[number] for row in rows]).numpy()
        return values[order].copy()

    return LayerView(
        name=record.name,
        cell=record.cell.title,
        states={s.name: over_time(record.after, i) for i, s in enumerate(record.cell.states) if s.role == "state"},
        gates={name: over_time(record.gates, i) for i, name in enumerate(record.gate_names)},
        gradient=gradient,
        matrices=matrix_spectra(record.cell),
        step=step_spectrum(record.cell, record.projected[middle], tuple(s.detach() for s in record.before[middle])),
    )
