"""Test sequences for comparing a program with torch, made from the example."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .lowering import Lowered

LARGE = "large inputs"
_TIMES = 1000.0


def made_up(lowered: Lowered, steps: int) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Inputs of batch 1 that a model may meet, and what they are."""
    varied = shuffled(lowered, steps, 1)
    tokens = [i.vocabulary for i in lowered.program.inputs]
    yield "zeros", tuple(torch.zeros_like(x) for x in varied)
    large = zip(varied, tokens, strict=True)
    yield LARGE, tuple(x * _TIMES if x.is_floating_point() else _highest(x, n) for x, n in large)


def shuffled(lowered: Lowered, steps: int, rows: int) -> tuple[Tensor, ...]:
    """`steps` steps of the example's in random order, each number scaled at random; random tokens; `rows` sequences."""
    axes, generator = lowered.axes, torch.Generator().manual_seed(0)
    found = []
    for x, port, time, batch in zip(lowered.example, lowered.program.inputs, axes.times, axes.batches, strict=True):
        for axis, size in ((time, steps * axes.frames), (batch, rows)):
            if axis is not None:
                x = x.index_select(axis, torch.randint(x.shape[axis], (size,), generator=generator))
        found.append(_varied(x, port.vocabulary, generator))
    return tuple(found)


def _varied(x: Tensor, vocabulary: int, generator: torch.Generator) -> Tensor:
    if vocabulary:
        return torch.randint(vocabulary, x.shape, generator=generator).to(x.dtype)
    if not x.is_floating_point():
        return x
    if bool((x == x.flatten()[0]).all()):  # an example that says nothing, such as zeros
        return torch.randn(x.shape, generator=generator)
    return x * (0.5 + torch.rand(x.shape, generator=generator))


def _highest(x: Tensor, vocabulary: int) -> Tensor:
    return torch.full_like(x, vocabulary - 1) if vocabulary else x
