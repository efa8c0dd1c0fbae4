"""Thresholds on the changes of what the matrices of a recurrent layer read."""

from __future__ import annotations

from torch import nn

from ..cells import DeltaCell
from .bind import thresholds_name
from .convert import convert_
from .fused import AbstractFused
from .inspect import cells_of
from .recurrent import Recurrent


def delta_(layer: nn.Module) -> list[list[DeltaCell]]:
    """Give every cell of a recurrent layer thresholds, zeros, in place; those that it has stay.

    torch's own layer becomes this package's first, see `convert_`. Names, parameters, calls and results of the layer
    stay; its thresholds are buffers, `thresholds_l0` of a layer with torch's names. Returns the cells, `[layer]
    [direction]`, whose `thresholds` are these buffers.

    Raises:
        ValueError: a cell that reads later steps; nothing was changed then.
        UnsupportedModelError: what cannot be converted, see `convert_`.
    """
    cells = cells_of(layer)
    made = [[cell if isinstance(cell, DeltaCell) else DeltaCell(cell) for cell in row] for row in cells]
    if isinstance(layer, Recurrent):
        for row, wrapped in zip(layer.cells, made, strict=True):
            for d, cell in enumerate(wrapped):
                row[d] = cell  # pyright: ignore
        return made
    fused = convert_(layer)
    assert isinstance(fused, AbstractFused)
    for i, row in enumerate(made):
        for suffix, cell in zip(("", "_reverse"), row, strict=False):
            fused.register_buffer(thresholds_name(f"_l{i}{suffix}"), cell.thresholds)
    return made


def has_thresholds(layer: nn.Module) -> bool:
    """Whether `delta_` was called for a recurrent layer."""
    return any(isinstance(cell, DeltaCell) for row in cells_of(layer) for cell in row)
