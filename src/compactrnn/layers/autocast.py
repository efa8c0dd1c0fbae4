"""`torch.autocast` on processors without hardware support for the requested type."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


def casts_in_vain(layer: nn.Module) -> bool:
    """Whether a CPU layer runs under `torch.autocast` to a type that the processor does not support.

    torch emulates some operations in such a type, slowly, and has no LSTM in it at all.
    """
    if not torch.is_autocast_enabled("cpu") or next(layer.parameters()).device.type != "cpu":
        return False
    return not _lstm_runs_in(torch.get_autocast_dtype("cpu"), torch.is_grad_enabled())


def without_casts(layer: nn.Module, input: Any, hx: Any) -> Any:
    """`layer(input, hx)` in the dtype of its parameters."""
    dtype = next(layer.parameters()).dtype
    with torch.autocast("cpu", enabled=False):
        return layer.forward(_to(input, dtype), _to(hx, dtype))


def _to(tensors: Any, dtype: torch.dtype) -> Any:
    if isinstance(tensors, Tensor | PackedSequence):
        return tensors.to(dtype)
    return tuple(_to(t, dtype) for t in tensors) if isinstance(tensors, tuple | list) else tensors


@cache
def _lstm_runs_in(dtype: torch.dtype, training: bool) -> bool:
    """As torch reports it for this processor."""
    with torch.inference_mode(False), torch.set_grad_enabled(training), torch.autocast("cpu", dtype=dtype):
        x = torch.zeros(1, 1, 1, device="cpu", dtype=torch.float32)
        matrix = torch.zeros(4, 1, device="cpu", dtype=torch.float32, requires_grad=training)
        try:
            output, *_ = torch._VF.lstm(x, (x, x), [matrix, matrix], False, 1, 0.0, training, False, False)  # pyright: ignore
            if training:
                output.sum().backward()
        except RuntimeError:
            return False
    return True
