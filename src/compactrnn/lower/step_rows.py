"""Detection of batch axes in a one-step model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .calls import Reading, calls, resized
from .step_states import Pair

_MOST_READINGS = 400
_CLOSE = 1e-4


class Rows(NamedTuple):
    """The batch axis of each argument and of each leaf that is returned; None where there is none."""

    arguments: Reading
    outputs: Reading


@torch.no_grad()
def find_rows(step: nn.Module, inputs: tuple[Tensor, ...], pairs: Sequence[Pair]) -> Rows:
    """Enlarge an axis of all states and of as many inputs as can be; the rows must then be independent, if they can.

    Without such an axis all are None: the step takes no batch, or one of a fixed size. An axis along which a recurrent
    layer runs, as one over frequency does, is none.
    """
    states = {pair.argument for pair in pairs}
    base = pytree.tree_leaves(step(*inputs))
    found = [rows for reading in _readings(inputs, states) if (rows := _grown(step, inputs, reading, base, pairs))]
    apart = (rows for rows in found if _independent(step, inputs, rows))
    mixed = (rows for rows in found if not _runs_along(step, inputs, rows.arguments))
    return next(apart, next(mixed, Rows((None,) * len(inputs), (None,) * len(base))))


def _runs_along(step: nn.Module, inputs: tuple[Tensor, ...], reading: Reading) -> bool:
    """Whether a recurrent layer gets more steps where the axes are larger."""
    size = next(x.shape[axis] for x, axis in zip(inputs, reading, strict=True) if axis is not None)
    before, after = calls(step, inputs), calls(step, resized(inputs, reading, size + 1))
    return [c.steps for c in before] != [c.steps for c in after]


def _readings(inputs: tuple[Tensor, ...], states: set[int]) -> list[Reading]:
    """Axes of one length that may be the batch's, those of most arguments first, then leading axes."""
    found: list[Reading] = []
    for size in {n for x in inputs for n in x.shape}:
        choices: list[list[int | None]] = []
        for i, x in enumerate(inputs):
            last = x.dim() - (i in states or x.dim() > 1)  # the last axis is of features
            axes: list[int | None] = [d for d in range(last) if x.shape[d] == size]
            choices.append(axes if i in states else [*axes, None])
        found += itertools.islice(itertools.product(*choices), _MOST_READINGS)
    found = [r for r in found if any(r[i] is not None for i in range(len(inputs)) if i not in states)]
    none = max((x.dim() for x in inputs), default=0)
    return sorted(found, key=lambda r: (r.count(None), [none if axis is None else axis for axis in r]))


def _grown(
    step: nn.Module, inputs: tuple[Tensor, ...], reading: Reading, base: list[Any], pairs: Sequence[Pair]
) -> Rows | None:
    """What the reading makes of the outputs; None if the step does not take it, or not the states that it gives."""
    size = next(x.shape[axis] for x, axis in zip(inputs, reading, strict=True) if axis is not None)
    larger = resized(inputs, reading, size + 1)
    try:
        leaves = pytree.tree_leaves(step(*larger))
    except Exception:  # whatever a model raises that is not made for these shapes
        return None
    if len(leaves) != len(base) or any(leaves[p.output].shape != larger[p.argument].shape for p in pairs):
        return None
    axes = []
    for small, large in zip(base, leaves, strict=True):
        axis = None
        if isinstance(small, Tensor):
            if not isinstance(large, Tensor) or small.dim() != large.dim():
                return None
            more = [d for d in range(small.dim()) if small.shape[d] != large.shape[d]]
            if len(more) > 1 or any(large.shape[d] != small.shape[d] + 1 for d in more):
                return None
            axis = more[0] if more else None
        axes.append(axis)
    return Rows(reading, tuple(axes))


def _independent(step: nn.Module, inputs: tuple[Tensor, ...], rows: Rows) -> bool:
    """Whether each of two rows gives alone what it gives beside the other."""
    generator = torch.Generator().manual_seed(0)
    two = tuple(
        x + torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for x in resized(inputs, rows.arguments, 2)
    )
    try:
        together = pytree.tree_leaves(step(*two))
        for row in range(2):
            alone = (x if b is None else x.narrow(b, row, 1) for x, b in zip(two, rows.arguments, strict=True))
            leaves = pytree.tree_leaves(step(*alone))
            for both, one, axis in zip(together, leaves, rows.outputs, strict=True):
                if axis is not None and not _same(both.narrow(axis, row, 1), one):
                    return False
    except Exception:  # as above
        return False
    return True


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
