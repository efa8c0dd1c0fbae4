"""Each sequence of a batch by itself must give what it gives within the batch."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from .lower import Lowered
from .reference import default_dtype, dtype_of, in_dtype
from .sequences import shuffled

_ROWS = 3
_CLOSE = 1e-4  # of the largest value


def check_rows(lowered: Lowered) -> None:
    """Refuse a model in which the sequences of a batch depend on each other, and name where they first do.

    Raises:
        UnsupportedModelError: an output of one sequence changes with the others.
    """
    axes = lowered.axes
    if axes.one or all(axis is None for axis in axes.batches):
        return
    batch = shuffled(lowered, axes.steps(lowered.example), _ROWS)
    alone = tuple(x if b is None else x.narrow(b, 0, 1) for x, b in zip(batch, axes.batches, strict=True))
    where = _differs(lowered.model, batch, alone)
    if where is None:
        return
    with contextlib.suppress(RuntimeError, TypeError, ValueError):
        if _differs(copy_module(lowered.model).double(), *(in_dtype(x, torch.float64) for x in (batch, alone))) is None:
            return  # it was rounding
    raise UnsupportedModelError(
        f"{where}: the sequences of a batch depend on each other: one alone gives another result than within the batch."
        " An engine runs one sequence; give what belongs together, such as agents or bands, as features of one sequence"
    )


def _differs(model: nn.Module, batch: tuple[Tensor, ...], alone: tuple[Tensor, ...]) -> str | None:
    """Where the first row of `batch` first differs from `alone`; None if the model returns the same."""
    together, apart = _calls(model, batch), _calls(model, alone)
    if all(map(_agree, together[-1][1], apart[-1][1])):
        return None
    calls = zip(together, apart, strict=False)
    return next((name for (name, a), (_, b) in calls if not all(map(_agree, a, b))), type(model).__name__)


@torch.no_grad()
def _calls(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[str, list[Any]]]:
    """What enters and leaves each module of the model, in the order in which that is known."""
    found: list[tuple[str, list[Any]]] = []
    hooks = []
    for name, module in model.named_modules():
        before, after = f"before {name}", name or type(model).__name__
        if name:
            hooks.append(module.register_forward_pre_hook(lambda m, x, n=before: found.append((n, _leaves(x)))))
        hooks.append(module.register_forward_hook(lambda m, x, y, n=after: found.append((n, _leaves(y)))))
    try:
        with default_dtype(dtype_of(model)):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _leaves(tree: Any) -> list[Any]:
    return [t.clone() if isinstance(t, Tensor) else t for t in pytree.tree_leaves(tree)]


def _agree(together: Any, alone: Any) -> bool:
    """Whether the first row of a batch is the same as alone."""
    if not isinstance(together, Tensor) or not isinstance(alone, Tensor) or together.dim() != alone.dim():
        return True
    axes = [d for d in range(alone.dim()) if (together.shape[d], alone.shape[d]) == (_ROWS, 1)]
    if together.shape != alone.shape and len(axes) != 1:
        return True
    row = together.narrow(axes[0], 0, 1) if axes else together
    size = alone.double().abs().nan_to_num(0.0, 0.0, 0.0).amax().clamp(min=1e-30) if alone.numel() else 1.0
    return torch.allclose(row.double(), alone.double(), rtol=0.0, atol=float(_CLOSE * size), equal_nan=True)
