"""Check that the sequences of a batch are computed independently."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from .lowering import Lowered
from .reference import default_dtype, dtype_of, in_dtype
from .sequences import shuffled

_ROWS = 3
_CLOSE = 1e-4  # of the largest value


def check_rows(lowered: Lowered) -> None:
    """Raise an error if sequences of a batch depend on each other, naming the first module where they do.

    Raises:
        UnsupportedModelError: an output of one sequence changes with the others.
    """
    axes = lowered.axes
    if axes.one or all(axis is None for axis in axes.batches):
        return
    batch = shuffled(lowered, axes.steps(lowered.example), _ROWS)
    where = _differs(lowered.model, batch, axes.batches)
    if where is None:
        return
    with contextlib.suppress(RuntimeError, TypeError, ValueError):
        if _differs(copy_module(lowered.model).double(), in_dtype(batch, torch.float64), axes.batches) is None:
            return  # it was rounding
    raise UnsupportedModelError(
        f"{where}: the sequences of a batch depend on each other: one alone gives another result than within the batch."
        " An engine runs one sequence; give what belongs together, such as agents or bands, as features of one sequence"
    )


def _differs(model: nn.Module, batch: tuple[Tensor, ...], axes: Sequence[int | None]) -> str | None:
    """Where a row of `batch` first differs from the same row alone; None if the model returns the same for all."""
    together = _calls(model, batch)
    for row in range(_ROWS):
        alone = tuple(x if b is None else x.narrow(b, row, 1) for x, b in zip(batch, axes, strict=True))
        apart = _calls(model, alone)
        if not _all_agree(together[-1][1], apart[-1][1], row):
            calls = zip(together, apart, strict=False)
            return next((name for (name, a), (_, b) in calls if not _all_agree(a, b, row)), type(model).__name__)
    return None


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


def _all_agree(together: list[Any], alone: list[Any], row: int) -> bool:
    return all(_agree(a, b, row) for a, b in zip(together, alone, strict=False))


def _agree(together: Any, alone: Any, number: int) -> bool:
    """Whether this row of a batch is the same as alone."""
    if not isinstance(together, Tensor) or not isinstance(alone, Tensor) or together.dim() != alone.dim():
        return True
    axes = [d for d in range(alone.dim()) if (together.shape[d], alone.shape[d]) == (_ROWS, 1)]
    if together.shape != alone.shape and len(axes) != 1:
        return True
    row = together.narrow(axes[0], number, 1) if axes else together
    size = alone.double().abs().nan_to_num(0.0, 0.0, 0.0).amax().clamp(min=1e-30) if alone.numel() else 1.0
    return torch.allclose(row.double(), alone.double(), rtol=0.0, atol=float(_CLOSE * size), equal_nan=True)
