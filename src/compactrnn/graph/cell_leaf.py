"""`nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell` as one operation of a graph: layers of one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from .leaf import LEFT_OUT, Leaf


class CellLeaf(Leaf):
    """A cell seen as a recurrent layer that gets one step."""

    is_step = True

    @staticmethod
    def forward(module: nn.Module, input: Tensor, hx: Any = LEFT_OUT) -> Any:
        """Stands for the cell's own `forward`."""
        leaf: CellLeaf = module._leaf  # pyright: ignore
        leaf.takes_state |= hx is None
        if not isinstance(input, Tensor) or input.dim() not in (1, 2):
            shape = tuple(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise UnsupportedModelError(f"{leaf.name or 'the model'}: expected (batch, features), got {shape}")
        given = [] if hx is None or hx is LEFT_OUT else [hx] if isinstance(hx, Tensor) else list(hx)
        batched = input.dim() == 2
        x, states = (input, given) if batched else (input[None], [state[None] for state in given])
        _, *after = torch.ops.compactrnn.recurrent(leaf.key, x[None], states)
        after = after if batched else [state[0] for state in after]
        return tuple(after) if len(after) > 1 else after[0]
