"""Which axis of the inputs is time, which is the batch? Enlarge one and see what the recurrent layers get."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..layers import is_recurrent


@dataclass(frozen=True)
class Axes:
    """The time axis, and the batch axis (None if unbatched), of the model's inputs."""

    time: int
    batch: int | None


def find_axes(model: nn.Module, inputs: tuple[Tensor, ...]) -> Axes:
    """Find the axes of `inputs` that reach the first recurrent layer as its time and its batch."""
    model = copy.deepcopy(model).eval()
    steps, batch = _sizes(model, inputs)
    time_axis = batch_axis = None
    for axis in range(inputs[0].dim()):
        try:
            grown = _sizes(model, resized(inputs, axis, inputs[0].shape[axis] + 1))
        except (RuntimeError, IndexError, ValueError):
            continue
        if grown[0] == steps + 1 and time_axis is None:
            time_axis = axis
        elif batch is not None and grown[1] == batch + 1 and batch_axis is None:
            batch_axis = axis
    if time_axis is None:
        raise UnsupportedModelError(
            f"{type(model).__name__}: no axis of example_inputs, of shape {tuple(inputs[0].shape)}, reaches the"
            " recurrent layers as their time axis, one step for one step"
        )
    return Axes(time_axis, batch_axis)


def resized(inputs: tuple[Tensor, ...], axis: int, size: int) -> tuple[Tensor, ...]:
    """`inputs` with `axis` (where it is as long as the first input's) cut or repeated to `size`."""
    length = inputs[0].shape[axis]
    index = torch.arange(size) % length
    fits = [x.dim() > axis and x.shape[axis] == length for x in inputs]
    return tuple(x.index_select(axis, index.to(x.device)) if f else x for x, f in zip(inputs, fits, strict=True))


@torch.no_grad()
def output_axes(model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> list[tuple[int | None, int | None]]:
    """The time axis and the batch axis of each tensor that the model returns for `inputs` of batch 1."""
    steps = inputs[0].shape[axes.time]
    one, longer = (_tensors(model(*resized(inputs, axes.time, n))) for n in (steps, steps + 1))
    two = one if axes.batch is None else _tensors(model(*resized(inputs, axes.batch, 2)))
    return [
        (
            _first(d for d in range(a.dim()) if c.shape[d] != a.shape[d]),
            _first(d for d in range(a.dim()) if (a.shape[d], b.shape[d]) == (1, 2)),
        )
        for a, b, c in zip(one, two, longer, strict=True)
    ]


def _first(found: Iterator[int]) -> int | None:
    return next(found, None)


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


@torch.no_grad()
def _sizes(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, int | None]:
    """(steps, batch) of the first call of a recurrent layer."""
    seen = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs["input"]
        if isinstance(x, Tensor):
            first = bool(module.batch_first) and x.dim() == 3
            seen.append((x.shape[1 if first else 0], x.shape[0 if first else 1] if x.dim() == 3 else None))

    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in model.modules() if is_recurrent(m)]
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise UnsupportedModelError(
            f"{type(model).__name__}: no recurrent layer is called with a plain tensor; a PackedSequence means nothing"
            " to a stream, pass the padded tensor"
        )
    return seen[0]
