"""Unwrapping compiled and data-parallel models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    >>> inner = nn.Linear(2, 2)
    >>> unwrap(nn.DataParallel(inner)) is inner
    True
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def inner_names(model: nn.Module, names: Any) -> Any:
    """Names as the wrapped module has them: without `module.` or `_orig_mod.` in front."""
    if unwrap(model) is model or not isinstance(names, Iterable) or isinstance(names, str):
        return names

    def inner(name: str) -> str:
        while name.split(".")[0] in ("module", "_orig_mod"):
            name = name.partition(".")[2]
        return name

    if isinstance(names, Mapping):
        return {inner(name): value for name, value in names.items()}
    return [inner(name) for name in names]


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Norms and products in the precision of the weights, also inside of `torch.autocast`."""
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
