"""cuDNN weight layout: all weights of one call in one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Arguments = tuple[str, bool, int, int, bool]


@torch.no_grad()
def flatten_(weights: Sequence[Tensor], arguments: Arguments) -> None:
    """Move the weights of one layer into one buffer and make them views of it; a no-op off the GPU.

    `arguments` are the torch mode, whether there are biases, hidden size, projection size (0: none), bidirectional.
    """
    mode, bias, hidden_size, proj_size, bidirectional = arguments
    kinds = {w.dtype for w in weights}
    usable = all(w.is_cuda and torch.backends.cudnn.is_acceptable(w) for w in weights)
    aliased = len({w.data_ptr() for w in weights}) < len(weights)
    if not usable or aliased or len(kinds) > 1 or not torch._use_cudnn_rnn_flatten_weight():  # pyright: ignore
        return
    import torch.backends.cudnn.rnn as cudnn

    per_direction = 2 + 2 * bias + (proj_size > 0)
    with torch.cuda.device_of(weights[0]):
        torch._cudnn_rnn_flatten_weight(  # pyright: ignore
            list(weights),
            per_direction,
            weights[0].shape[1],
            cudnn.get_cudnn_mode(mode),
            hidden_size,
            proj_size,
            1,
            False,
            bidirectional,
        )


class Contiguous(torch.autograd.Function):
    """Identity whose results lie in one buffer, for matrices computed for this call."""

    @staticmethod
    def forward(ctx: Any, arguments: Arguments, *weights: Tensor) -> tuple[Tensor, ...]:
        """Copies in one buffer."""
        copies = [w.clone(memory_format=torch.contiguous_format) for w in weights]
        flatten_(copies, arguments)
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return None, *gradients
