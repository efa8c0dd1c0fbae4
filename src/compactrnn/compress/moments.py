"""Second moments of what the matrices of a model are multiplied with, on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..cells.base import AbstractCell
from ..graph.copy import copy_module
from ..graph.example import Example
from ..graph.trace import beside
from ..layers import convert_
from ..layers.bind import PARTS, bound_cell
from ..layers.loop import time_loop
from ..layers.matrices import Place, matrices
from ..runtime.error_feedback import shrinkage
from ..weights.base import AbstractWeight


class Moment:
    """The second moment E[x x^T] of vectors x that come in batches, (..., n)."""

    def __init__(self) -> None:
        self.count, self.sum, self.fourth = 0, torch.zeros(()), 0.0

    def add(self, x: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1]).double()
        self.count += len(rows)
        self.sum = self.sum.to(rows) + rows.T @ rows
        self.fourth += float(rows.square().sum(1).square().sum())

    def value(self) -> Tensor:
        """Its estimate `(1 - d) S + d tr(S) / n I`: S is the mean of `x x^T`; `shrinkage` gives d."""
        mean = self.sum / self.count
        share, scale = shrinkage(mean, self.fourth, self.count)
        return (1 - share) * mean + share * scale * torch.eye(len(mean)).to(mean)


class Frequency:
    """How often each row of a table is looked up: the diagonal of the second moment of one-hot vectors."""

    def __init__(self, rows: int) -> None:
        self.counts = torch.zeros(rows, dtype=torch.double)

    def add(self, tokens: Tensor) -> None:
        self.counts += torch.bincount(tokens.detach().flatten().cpu(), minlength=len(self.counts))

    def value(self) -> Tensor:
        """Their shares, each row counted once more than it was seen."""
        return (self.counts + 1) / (self.counts + 1).sum()


Run = Callable[[nn.Module, Any], Any]


def call(model: nn.Module, batch: Any) -> Any:
    """What the model returns for a batch: a tensor, a tuple of arguments or a dict of keyword arguments."""
    example = Example.of(model, batch)
    return example.with_tensors(beside(model, example.tensors)).call(model)


def check_batches(batches: Iterable[Any]) -> list[Any]:
    """The batches as a list.

    Raises:
        ValueError: there is none, or it is a single tensor.
    """
    if isinstance(batches, Tensor | dict):
        raise invalid("batches", got=f"a {type(batches).__name__}", expected="a list of what the model is called with")
    if not (found := list(batches)):
        raise invalid("batches", got="none", expected="at least one, like those that the model is trained on")
    return found


@torch.no_grad()
def input_moments(model: nn.Module, batches: Iterable[Any], run: Run = call) -> dict[str, Tensor]:
    """By the name of a matrix the second moment of what it is multiplied with.

    A copy of `model` runs on the batches in eval mode. For a matrix (out, in) the moment is of shape (in, in); for a
    table, of which rows are looked up, it is the frequency of each row. What is not used on the batches has none. Uses
    of one matrix are counted together, and lookups in a table that is a matrix elsewhere are not counted.
    """
    model = copy_module(model).eval()
    found: dict[str, Moment | Frequency] = {}
    hooks = []
    for matrix in matrices(model):
        tables = all(place.is_table for place in matrix.places)
        moment = found[matrix.name] = Frequency(matrix.shape[0]) if tables else Moment()
        for place in matrix.places:
            if place.is_table == tables and not isinstance(place.module, nn.RNNCellBase):  # which stay as they are
                hook = lambda _, args, moment=moment: moment.add(args[0])  # noqa: E731
                hooks.append(_called(place).register_forward_pre_hook(hook))
    try:
        with time_loop("plain"):
            for batch in batches:
                run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: m.value() for name, m in found.items() if isinstance(m, Frequency) or m.count}


def _called(place: Place) -> nn.Module:
    """The module of which the input is what the matrix is multiplied with."""
    module = place.module
    if isinstance(module, AbstractCell) and isinstance(weight := place.held, AbstractWeight):
        return weight
    if isinstance(module, nn.RNNBase):
        part, _, suffix = place.attribute.partition("_l")
        return getattr(bound_cell(convert_(module), f"_l{suffix}"), PARTS[part])
    return module
