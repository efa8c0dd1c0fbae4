"""From a cell's `step` to a graph of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ...cells.base import AbstractCell
from ...weights.base import AbstractWeight
from ..dense_form import differs, is_dense_product, is_too_large, with_dense_forms
from .read_step import BATCH, GraphReader, NotTraceable, Step


def trace_step(cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]) -> Step:
    """The graph of `cell.step(projected, states)`.

    Raises:
        NotTraceable: the step does something that the graph has no value for; the message says what.
    """
    try:
        return _trace_step(cell, projected, states, {})
    except NotTraceable:
        dense = {path: w for path, w in _weights(cell).items() if not _is_traceable(w)}
        if not dense:
            raise
    for path, weight in dense.items():
        if is_too_large(weight):
            size = f"{weight.out_features:,} x {weight.in_features:,}"
            raise NotTraceable(f"{type(cell).__name__}.{path}: its dense matrix would be {size}")
        if not is_dense_product(weight):
            raise NotTraceable(differs(f"{type(cell).__name__}.{path}", weight))
    return _trace_step(cell, projected, states, dense)


def _trace_step(
    cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...], dense: dict[str, AbstractWeight]
) -> Step:
    """The step as a graph, the weights in `dense` by their matrices."""
    module = _Step(with_dense_forms(cell, dense.values()))  # pyright: ignore
    parts, call = _parts(module)
    wide = projected.new_zeros(BATCH, projected.shape[-1])
    narrow = [s.new_zeros(BATCH, s.shape[-1]) for s in states]

    def run(given: list[Tensor], projected: Tensor, *states: Tensor) -> list[Tensor]:
        y, after = call(given, projected, states)
        return [y, *after]

    what = f"{type(cell).__name__}.step"
    traced = _traced(run, [p.detach() for p in parts.values()], [wide, *narrow], what)
    delays = [(s.name, s.delay) for s in cell.states]
    return GraphReader(traced, list(parts), delays, tuple(dense), what).read()


def _traced(run: Callable[..., list[Tensor]], parts: list[Tensor], inputs: list[Tensor], what: str) -> GraphModule:
    try:
        with torch.no_grad():
            return make_fx(run, tracing_mode="fake", pre_dispatch=True)(parts, *inputs)
    except GuardOnDataDependentSymNode as error:
        raise NotTraceable(
            f"{what}: its Python code asks for numbers ({type(error).__name__}); torch.where chooses without"
        ) from error
    except Exception as error:  # whatever a user's code raises when it is run on tensors without numbers
        raise NotTraceable(f"{what}: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _parts(module: nn.Module) -> tuple[dict[str, Tensor], Callable[..., Any]]:
    """Parameters and buffers by name, each once, and `module` as a function of them and its arguments.

    What is shared, a tensor between modules or a module between names, is one part that stands in all of its places.
    """
    first: dict[int, str] = {}
    parts: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    for path, owner in module.named_modules():
        for name, tensor in (*owner.named_parameters("", False, False), *owner.named_buffers("", False, False)):
            place = f"{path}.{name}" if path else name
            places[place] = first.setdefault(id(tensor), place)
            parts.setdefault(places[place], tensor)

    def call(given: list[Tensor], *args: Any) -> Any:
        known = dict(zip(parts, given, strict=True))
        return functional_call(module, {p: known[name] for p, name in places.items()}, args, tie_weights=False)

    return parts, call


def _weights(cell: AbstractCell) -> dict[str, AbstractWeight]:
    """The weights in the cell, each once; those that are parts of others left out."""
    found = {path: module for path, module in cell.named_modules() if isinstance(module, AbstractWeight)}
    return {path: w for path, w in found.items() if not any(path.startswith(f"{other}.") for other in found)}


def _is_traceable(weight: AbstractWeight) -> bool:
    """Whether the weight's own product can be part of a graph."""
    parts, call = _parts(with_dense_forms(weight))

    def run(given: list[Tensor], x: Tensor) -> list[Tensor]:
        return [call(given, x)]

    what = f"{type(weight).__name__}.forward"
    x = next(iter(parts.values()), torch.zeros(())).new_zeros(BATCH, weight.in_features)
    try:
        GraphReader(_traced(run, [p.detach() for p in parts.values()], [x], what), list(parts), [], (), what).read()
    except NotTraceable:
        return False
    return True


class _Step(nn.Module):
    def __init__(self, cell: AbstractCell):
        super().__init__()
        self.cell = cell

    def forward(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.cell.step(projected, states)
