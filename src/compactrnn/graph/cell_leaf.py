"""`nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell` as one operation of a graph: layers of one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..layers.bind import bind
from .leaf import Leaf

_FORWARDS = {nn.LSTMCell.forward: "LSTM", nn.GRUCell.forward: "GRU", nn.RNNCell.forward: "RNN_TANH"}


def is_cell(module: nn.Module) -> bool:
    """Whether `module` is one of torch's cells, or a subclass that runs as they do.

    >>> is_cell(nn.LSTMCell(2, 3)), is_cell(nn.LSTM(2, 3))
    (True, False)
    """
    return isinstance(module, nn.RNNCellBase) and type(module).forward in _FORWARDS


class CellLeaf(Leaf):
    """A cell seen as a recurrent layer that gets one step."""

    def make_cells(self) -> list[list[AbstractCell]]:
        """The one cell; the module gets the attributes of a layer, so it must be a copy."""
        self.module.mode = _FORWARDS[type(self.module).forward]  # pyright: ignore
        self.module.proj_size = 0  # pyright: ignore
        return [[bind(self.module, "")]]

    def part_name(self, layer: int, direction: int, part: str) -> str:
        """What the model calls a part: "decoder.cell.weight_ih"."""
        return super().part_name(layer, direction, part).removesuffix("_l0")

    @staticmethod
    def forward(module: nn.Module, input: Tensor, hx: Any = None) -> Any:
        """Stands for the cell's own `forward`."""
        leaf: CellLeaf = module._leaf  # pyright: ignore
        if not isinstance(input, Tensor) or input.dim() not in (1, 2):
            shape = tuple(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise UnsupportedModelError(f"{leaf.name or 'the model'}: expected (batch, features), got {shape}")
        given = [] if hx is None else [hx] if isinstance(hx, Tensor) else list(hx)
        batched = input.dim() == 2
        x, states = (input, given) if batched else (input[None], [state[None] for state in given])
        _, *after = torch.ops.compactrnn.recurrent(leaf.key, x[None], states)
        after = after if batched else [state[0] for state in after]
        return tuple(after) if len(after) > 1 else after[0]
