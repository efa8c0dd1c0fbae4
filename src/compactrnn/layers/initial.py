"""The states that a recurrent layer starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .inspect import cells_of
from .sequence import StateForm


def initial_states(layer: nn.Module, batch: int, like: Tensor | None = None) -> Any:
    """The states that a recurrent layer starts `batch` sequences from, in the form in which it takes and gives them.

    They are those of its cells: zeros, another constant, or learned numbers with their gradient; of the dtype and
    device of `like`, by default those of its parameters. The batch is the last axis but one of every tensor.

    >>> h, c = initial_states(nn.LSTM(3, 8, num_layers=2), 5)
    >>> h.shape, c.abs().max().item()
    (torch.Size([2, 5, 8]), 0.0)
    """
    like = next(layer.parameters()) if like is None else like
    rows = cells_of(layer)
    form = StateForm(
        sizes=tuple(zip(*(row[0].outer_sizes() for row in rows), strict=True)),
        directions=len(rows[0]),
        per_layer=isinstance(layer.hidden_size, list),
    )
    each = [[cell.initial_states(batch, like)[: len(cell.outer_states())] for cell in row] for row in rows]
    return form.join([[torch.stack(kind) for kind in zip(*row, strict=True)] for row in each], True, None)
