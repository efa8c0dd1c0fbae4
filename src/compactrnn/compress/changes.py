"""How much of the vectors that recurrent matrices read changes from step to step, and how many products that leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import DeltaCell
from ..cells.delta import observed
from ..graph.arguments import arguments
from ..layers import cells_of, is_recurrent, time_loop
from ..weights.base import AbstractWeight
from ..weights.terms import Matrix
from .table import table


@dataclass(frozen=True)
class VectorChanges:
    """One vector that matrices of a recurrent layer read.

    Attributes:
        name: of the layer's cell in the model, and the vector: "encoder.lstm, layer 1, input".
        threshold: that on its changes.
        share: of its numbers that are sent in a step.
        products: multiply-accumulates of a step with the matrices that read it, before and after what is not sent has
            been left out. Only the matrix that is multiplied first is spared: of a low-rank weight that of fewer rows.
        rms: root mean square of the vector.
    """

    name: str
    threshold: float
    share: float
    products: tuple[int, float]
    rms: float


@dataclass(frozen=True)
class DeltaReport:
    """The vectors of all layers with thresholds, in the order in which the model runs the layers."""

    vectors: tuple[VectorChanges, ...]

    @property
    def products(self) -> tuple[int, float]:
        """Multiply-accumulates of a step of these layers, before and after."""
        return sum(v.products[0] for v in self.vectors), sum(v.products[1] for v in self.vectors)

    @property
    def share(self) -> float:
        """The share of the products that is left."""
        before, after = self.products
        return after / max(before, 1)

    def __str__(self) -> str:
        rows = [["vector", "threshold", "sent", "products", "left"]]
        for v in self.vectors:
            sizes = f"{v.products[0]:,}", f"{v.products[1]:,.0f}"
            rows.append([v.name, f"{v.threshold:.3g}", f"{v.share:.1%}", *sizes])
        before, after = self.products
        rows.append(["all", "", f"{self.share:.1%}", f"{before:,}", f"{after:,.0f}"])
        return "\n".join(table(rows))


def measure_changes(model: nn.Module, inputs: Any) -> DeltaReport:
    """What changes in a model with thresholds while it runs on `inputs`, in eval mode.

    Every step of every sequence of the batch counts, with what pads it, and from references of zero on.
    """
    counts: dict[int, _Counts] = {}

    def observe(cell: DeltaCell, vectors: Any, before: Any, after: Any) -> None:
        own = counts.setdefault(id(cell.thresholds), _Counts(len(after)))
        own.add(vectors, before, after)

    modes = {module: module.training for module in model.modules()}
    args, kwargs = arguments(model, inputs)
    try:
        model.eval()
        with torch.no_grad(), time_loop("plain"), observed(observe):
            model(*args, **kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    cells = {id(cell.thresholds): (name, cell) for name, cell in delta_cells(model)}
    return DeltaReport(tuple(v for key, own in counts.items() for v in own.report(*cells[key])))


def delta_cells(model: nn.Module) -> list[tuple[str, DeltaCell]]:
    """All cells with thresholds, by the name of their layer, its number and its direction."""
    return [
        (f"{path or type(layer).__name__}, layer {i}" + (" backwards" if d else ""), cell)
        for path, layer in model.named_modules()
        if is_recurrent(layer)
        for i, row in enumerate(cells_of(layer))
        for d, cell in enumerate(row)
        if isinstance(cell, DeltaCell)
    ]


class _Counts:
    """Sums over the steps of one cell, for each vector."""

    def __init__(self, vectors: int):
        self.sent, self.numbers, self.squares = ([0.0] * vectors for _ in range(3))

    def add(self, vectors: list[Tensor], before: list[Tensor], after: list[Tensor]) -> None:
        for i, (vector, old, new) in enumerate(zip(vectors, before, after, strict=True)):
            self.sent[i] += int((old != new).sum())
            self.numbers[i] += new.numel()
            self.squares[i] += float(vector.square().sum())

    def report(self, name: str, cell: DeltaCell) -> list[VectorChanges]:
        readers = [cell.reads_input, *cell.reads]
        names = ["input", *(", ".join(parts) for parts in cell.reads)]
        shares = [sent / numbers for sent, numbers in zip(self.sent, self.numbers, strict=True)]
        sizes = [(squares / numbers) ** 0.5 for squares, numbers in zip(self.squares, self.numbers, strict=True)]
        return [
            VectorChanges(f"{name}, {vector}", float(threshold), share, _products(cell, parts, share), size)
            for vector, threshold, share, parts, size in zip(
                names, cell.thresholds, shares, readers, sizes, strict=True
            )
        ]


def _products(cell: DeltaCell, parts: tuple[str, ...], share: float) -> tuple[int, float]:
    before, after = 0, 0.0
    for weight in (getattr(cell, name) for name in parts):
        assert isinstance(weight, AbstractWeight)
        first = weight.terms()[-1]
        spared = first.macs if isinstance(first, Matrix) else 0
        before += weight.macs()
        after += weight.macs() - (1 - share) * spared
    return before, after
