"""When native code may read tensor memory directly."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def who_looks_on() -> str:
    """What sees torch's operations rather than numbers at present, as the reason to use these; empty for nothing."""
    recorded = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if recorded or _get_current_dispatch_mode_stack():
        return "torch.compile, torch.export, torch.jit.trace and dispatch modes see torch's operations only"
    if forward_ad._current_level >= 0 or _functorch.maybe_current_level() is not None:
        return "torch.func and forward-mode derivatives see torch's operations only"
    return ""


def why_not_ordinary(tensors: Iterable[Tensor]) -> str:
    """Why these are not plain arrays of numbers, or "" if they are."""
    if reason := who_looks_on():
        return reason
    for t in tensors:
        if _functorch.is_legacy_batchedtensor(t):
            return "a batch of gradients sees torch's operations only"
        if type(t) not in (Tensor, nn.Parameter):
            return f"a {type(t).__name__} is not an ordinary tensor"
    return ""


def why_not_native(tensors: Iterable[Tensor]) -> str:
    """Why native code must not read these tensors, or "" if it may (plain float32 on the CPU)."""
    tensors = list(tensors)
    if reason := why_not_ordinary(tensors):
        return reason
    for t in tensors:
        if t.device.type != "cpu" or t.dtype != torch.float32:
            return f"the native loop is for float32 on the CPU, and one of its tensors is {t.dtype} on {t.device}"
        if t.layout != torch.strided or t.is_nested or t.is_neg():
            return "the native loop is for numbers that lie in memory as they are"
    return ""


def is_batched_or_dual() -> bool:
    """Whether `torch.func.vmap` or a forward-mode derivative (`torch.func.jvp`) is active."""
    if forward_ad._current_level >= 0:
        return True
    levels = _functorch.get_interpreter_stack() if _functorch.maybe_current_level() is not None else None
    return any(level.key() in (_functorch.TransformType.Vmap, _functorch.TransformType.Jvp) for level in levels or ())
