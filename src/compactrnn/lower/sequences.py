"""Test sequences for comparing a program with torch, made from the example."""

from __future__ import annotations

import math
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
    large = zip(varied, tokens, _flags(lowered), strict=True)
    yield LARGE, tuple(x * _TIMES if x.is_floating_point() and not flag else _highest(x, n) for x, n, flag in large)


def shuffled(lowered: Lowered, steps: int, rows: int) -> tuple[Tensor, ...]:
    """`steps` steps of the example's in random order, each number scaled at random; `rows` sequences.

    Tokens are random, and so are flags, 0 or 1.
    """
    axes, generator = lowered.axes, torch.Generator().manual_seed(0)
    found = []
    given = zip(lowered.example, lowered.program.inputs, axes.times, axes.batches, _flags(lowered), strict=True)
    for x, port, time, batch, flag in given:
        for axis, size in ((time, steps * axes.frames), (batch, rows)):
            if axis is not None:
                x = x.index_select(axis, torch.randint(x.shape[axis], (size,), generator=generator))
        two = torch.randint(2, x.shape, generator=generator).to(x.dtype)
        found.append(two if flag else _varied(x, port.vocabulary, generator))
    return tuple(found)


def _flags(lowered: Lowered) -> list[bool]:
    """For each input, whether it is a mask, or a flag such as that of a new episode: no other number makes sense there.

    It is 0 or 1 throughout the example, and both, or one number a step beside inputs that are none.
    """

    def flag(x: Tensor, width: int) -> bool:
        numbers = x.flatten()
        only = x.is_floating_point() and bool(((numbers == 0) | (numbers == 1)).all())
        return only and (width == 1 or bool((numbers != numbers[0]).any()))

    ports = lowered.program.inputs
    found = [flag(x, math.prod(port.shape)) for x, port in zip(lowered.example, ports, strict=True)]
    return found if not all(found) else [False] * len(found)


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
