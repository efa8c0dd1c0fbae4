"""A narrowed recurrent layer in the place of a wide one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Scattered(nn.Module):
    """Runs a narrowed layer and writes its output and states back to their old width, zeros elsewhere.

    Exact where the missing units are zero, or are read by nobody: the code around still sees the old shapes.
    States keep the form that the wide layer gave them.
    """

    def __init__(
        self,
        layer: nn.Module,
        kept: list[list[Tensor]],
        wide: nn.Module,
        widths: list[list[int]],
        outputs: list[int],
    ):
        """`kept[layer][state]` are the surviving entries of each state of `wide`, of `widths[layer][state]`.

        The output of a direction is the states `outputs` of the last layer, one after the other.
        """
        super().__init__()
        self.layer = layer
        self.hidden_size = wide.hidden_size
        self.num_layers, self.batch_first = layer.num_layers, layer.batch_first
        self.bidirectional = layer.bidirectional
        device = next(layer.parameters()).device
        for i, row in enumerate(kept):
            for s, index in enumerate(row):
                places = torch.full((widths[i][s],), len(index))
                places[index] = torch.arange(len(index))
                self.register_buffer(f"kept_{i}_{s}", index.to(device))
                self.register_buffer(f"places_{i}_{s}", places.to(device))
        self._outputs = [f"{len(kept) - 1}_{s}" for s in outputs] * (2 if layer.bidirectional else 1)
        self._sizes = [len(kept[-1][s]) for s in outputs] * (2 if layer.bidirectional else 1)
        self._single = len(kept[0]) == 1
        self._directions = 2 if layer.bidirectional else 1

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """As the layer of old: (..., input) -> (..., old width), states of the old widths."""
        if hx is not None:
            hx = self._each_state(hx, lambda x, slot: x.index_select(-1, getattr(self, f"kept_{slot}")), self.layer)
        y, states = self.layer(input, hx)
        parts = zip(y.split(self._sizes, -1), self._outputs, strict=True)
        wide = torch.cat([self._spread(part, slot) for part, slot in parts], -1)
        return wide, self._each_state(states, self._spread, self)

    def _spread(self, x: Tensor, slot: str) -> Tensor:
        return nn.functional.pad(x, (0, 1)).index_select(-1, getattr(self, f"places_{slot}"))

    def _each_state(self, states: Any, change: Callable[[Tensor, str], Tensor], form: nn.Module) -> Any:
        """`change` every entry of every state; the result has the form that `form` takes or gives."""
        kinds = []
        for s, kind in enumerate([states] if self._single else states):
            entries = [change(x, f"{i // self._directions}_{s}") for i, x in enumerate(kind)]
            kinds.append(tuple(entries) if isinstance(form.hidden_size, list | tuple) else torch.stack(entries))
        return kinds[0] if self._single else tuple(kinds)
