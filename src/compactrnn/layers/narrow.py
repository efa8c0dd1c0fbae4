"""Removal of units from recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..cells.base import AbstractCell
from .bind import PARTS
from .convert import convert_
from .fused import AbstractFused
from .inspect import cells_of, is_cell
from .recurrent import Recurrent


@torch.no_grad()
def narrow_(
    layer: nn.Module, keep: Sequence[Sequence[Mapping[str, Tensor]]], inputs: Tensor | None = None
) -> AbstractFused | Recurrent | nn.RNNCellBase:
    """Keep the units `keep[layer][direction][unit set]` (indices) and the input columns `inputs`; returns the layer.

    torch's own layers are converted first; its cells stay torch's. Both directions of a layer must keep the same
    number; the next layer's input columns are cut to the outputs that are left. `hidden_size` becomes a list (and the
    states tuples) only where the sizes of the layers now differ, or where torch has no such layer (a projection as wide
    as what it projects); a list stays a list.
    """
    cells = cells_of(layer)
    for number, row in enumerate(cells):
        widths = [[cell.unit_count(units) for units in cell.output_units()] for cell in row]
        for cell, kept in zip(row, keep[number], strict=True):
            cell.select_(kept, inputs)
        if any(cell.state_sizes() != row[0].state_sizes() for cell in row):
            sizes = [cell.state_sizes() for cell in row]
            raise invalid(f"layer {number}", got=f"sizes {sizes}", expected="the same size in both directions")
        inputs = _kept_outputs(row, keep[number], widths)
    if isinstance(layer, Recurrent):
        layer.input_size = cells[0][0].input_size
        alike = len({row[0].outer_sizes() for row in cells}) == 1
        hidden = [row[0].hidden_size for row in cells]
        layer.hidden_size = _one_or_list(hidden, layer.hidden_size) if alike else hidden
        if layer.proj_size:
            projected = [row[0].output_size for row in cells]
            layer.proj_size = projected if isinstance(layer.hidden_size, list) else projected[0]
        return layer
    if is_cell(layer):
        return _narrow_cell_(layer, cells[0][0])  # pyright: ignore
    fused = convert_(layer)
    assert isinstance(fused, AbstractFused)
    for number, row in enumerate(cells):
        for cell, suffix in zip(row, ("", "_reverse"), strict=False):
            for name, own in PARTS.items():
                if (part := getattr(cell, own, None)) is not None:
                    fused.put(f"{name}_l{number}{suffix}", part)
    fused.input_size = cells[0][0].input_size
    hidden, projected = [row[0].hidden_size for row in cells], [row[0].output_size for row in cells]
    has_projection = fused.proj_size != 0
    wide = has_projection and any(p >= n for p, n in zip(projected, hidden, strict=True))
    fused.hidden_size = hidden if wide or len(set(projected)) > 1 else _one_or_list(hidden, fused.hidden_size)  # pyright: ignore
    if has_projection:
        fused.proj_size = projected if isinstance(fused.hidden_size, list) else projected[0]  # pyright: ignore
    fused.refresh()
    return fused


def _narrow_cell_(module: nn.RNNCellBase, cell: AbstractCell) -> nn.RNNCellBase:
    for name, own in PARTS.items():
        if (part := getattr(cell, own, None)) is not None:
            setattr(module, name, part if isinstance(part, Tensor) else part.weight)
    module.input_size, module.hidden_size = cell.input_size, cell.hidden_size
    return module


def _kept_outputs(
    row: list[AbstractCell], keep: Sequence[Mapping[str, Tensor]], widths: list[list[int]]
) -> Tensor | None:
    names = [units.name for units in row[0].output_units()]
    if not any(name in kept for kept in keep for name in names):
        return None
    parts, start = [], 0
    for kept, counts in zip(keep, widths, strict=True):
        for name, count in zip(names, counts, strict=True):
            parts.append(start + (kept[name] if name in kept else torch.arange(count)))
            start += count
    return torch.cat(parts)


def _one_or_list(sizes: list[int], before: object) -> int | list[int]:
    return sizes if isinstance(before, list) or len(set(sizes)) > 1 else sizes[0]


def put_tensor_(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer of `module`, and the sizes that it keeps of it."""
    before = getattr(module, name).shape
    setattr(module, name, tensor)
    if isinstance(module, nn.RNNBase | AbstractCell):
        return
    for axis, sizes in ((0, ("num_features",)), (1, ("in_features", "in_channels", "embedding_dim"))):
        for size in sizes:
            if len(before) > axis and getattr(module, size, None) == before[axis]:
                setattr(module, size, tensor.shape[axis])
