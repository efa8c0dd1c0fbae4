"""Parameters and multiply-accumulates of a model."""

from __future__ import annotations

from torch import nn

from ..graph.copy import copy_module
from ..layers import cells_of, has_cells
from .gating import fold_masks_


def counts(model: nn.Module) -> tuple[int, int, int]:
    """Parameters of `model`, those of its recurrent layers, and the multiply-accumulates of these per step.

    Of its plain form: gates and what else weights are computed from is not counted.
    """
    plain = fold_masks_(copy_module(model))
    layers = [m for m in plain.modules() if has_cells(m)]
    own = {id(p): p.numel() for m in layers for p in m.parameters()}
    macs = sum(cell.macs() for m in layers for row in cells_of(m) for cell in row)
    return sum(p.numel() for p in plain.parameters()), sum(own.values()), macs
