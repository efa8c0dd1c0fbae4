"""Masks of every two steps that are made of several: of the steps to come, and of keys by what is computed from data.

Such a mask is never in place. `Mask` has its parts, which then mask the scores of attention one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..emit.address import LazyView
from ..emit.builder import Operand


@dataclass(frozen=True)
class Part:
    """A part of a mask: numbers to add to scores; or, with `keeps`, conditions of scores that count or do not.

    `source` is the node that gives `value`. The scores that do not count are `low`, once the mask says so.
    """

    value: Any
    source: torch.fx.Node
    keeps: bool | None = None
    low: float | None = None


@dataclass(frozen=True)
class Mask:
    """All of several conditions, or the sum of several parts, moved.

    `entries` says where each of its entries lies in an array of the shape `whole`, to which all parts are broadcast.
    `keeps` is for conditions: whether the mask is true where scores count. None: numbers to add.
    """

    entries: np.ndarray
    whole: tuple[int, ...]
    parts: tuple[Part, ...]
    keeps: bool | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """With both axes of time."""
        return self.entries.shape

    def moved(self, run: Callable[[np.ndarray], np.ndarray]) -> Mask:
        """Moved by `run`, which may only move entries."""
        return replace(self, entries=run(self.entries))

    def plain(self) -> list[Part] | None:
        """The parts as they are broadcast to scores; None where entries have been moved otherwise than by views."""
        whole, shape = (_without_ones(s) for s in (self.whole, self.shape))
        if len(whole) > len(shape):
            return None
        kept = np.arange(self.entries.size if whole == shape else math.prod(whole)).reshape(whole)
        if any(n not in (1, m) for n, m in zip(whole[::-1], shape[::-1], strict=False)):
            return None
        if not np.array_equal(np.broadcast_to(kept, shape), self.entries.reshape(shape)):
            return None
        return [replace(part, value=_of_axes(part.value, len(whole))) for part in self.parts]


def combined(node: torch.fx.Node, shape: tuple[int, ...], values: list[Any], keeps: bool | None) -> Mask | None:
    """A mask of this shape from masks and what has one axis of time, the arguments of a node; None for any others.

    With `keeps` scores count where all are true; where it is false, where none is; without it all are added.
    """
    parts: list[Part] = []
    for value, source in zip(values, node.args, strict=False):
        if isinstance(value, Mask):
            found = value.plain()
            if found is None or value.keeps != keeps:
                return None
            parts += found
        elif isinstance(value, Operand | LazyView | Tensor) and isinstance(source, torch.fx.Node):
            parts.append(Part(value, source, keeps))
        else:
            return None
    return Mask(np.arange(math.prod(shape)).reshape(shape), shape, tuple(parts), keeps)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without leading axes of length one, but for the last two axes."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _of_axes(x: Any, count: int) -> Any:
    """`x` without what leading axes, of length one, it has beyond so many."""
    extra = len(x.shape) - count
    if extra <= 0:
        return x
    if isinstance(x, Tensor):
        return x.reshape(x.shape[extra:])
    time = x.time - extra if isinstance(x.time, int) else x.time
    if isinstance(x, Operand):
        return replace(x, shape=x.shape[extra:], time=time)
    return replace(x, address=x.address.reshape(x.shape[extra:]), time=time, value=None)
