"""Orthogonal matrices from free numbers, and what goes with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

MAPS = ("exp", "cayley")
_made: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("made", default=None)


@contextmanager
def one_sequence() -> Iterator[None]:
    """While it lasts, what `once` makes is made once: parameters do not change within a sequence."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def once(parameter: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """`make()`, a matrix made of `parameter`; within `one_sequence` the one of the first call."""
    made = _made.get()
    if made is None:
        return make()
    if id(parameter) not in made:
        made[id(parameter)] = parameter, make()
    return made[id(parameter)][1]


def widened(x: Tensor) -> Tensor:
    """x, in float32 where it is narrower: most of linear algebra has no narrower form."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def rotation(numbers: Tensor, size: int, kind: str) -> Tensor:
    """The orthogonal matrix of `size (size - 1) / 2` numbers, those of a skew-symmetric matrix A below its diagonal.

    `kind` is "exp", exp(A), or "cayley", `(I + A)^-1 (I - A)`, which has no eigenvalue -1. It is found in float32 at
    least.

    >>> q = rotation(torch.randn(6), 4, "cayley")
    >>> torch.allclose(q @ q.T, torch.eye(4), atol=1e-5)
    True
    """
    wide = widened(numbers)
    row, column = torch.tril_indices(size, size, -1, device=numbers.device)
    lower = wide.new_zeros(size * size).index_add(0, row * size + column, wide).view(size, size)
    skew = lower - lower.T
    if kind == "exp":
        return torch.matrix_exp(skew).to(numbers.dtype)
    eye = torch.eye(size, dtype=wide.dtype, device=wide.device)
    return torch.linalg.solve_ex(eye + skew, eye - skew)[0].to(numbers.dtype)  # I + A has an inverse for any A


@torch.no_grad()
def draw_rotation_(numbers: Tensor, size: int, kind: str, largest: float = math.pi / 2) -> None:
    """Rotations of pairs of units, by angles of U(0, largest), as in the scoRNN: A has a 2 x 2 block for each pair."""
    angle = torch.empty(size // 2, dtype=numbers.dtype, device=numbers.device).uniform_(0, largest)
    first = 2 * torch.arange(size // 2, device=numbers.device) + 1  # row of each block
    place = first * (first - 1) // 2 + first - 1
    numbers.zero_()
    numbers[place] = angle if kind == "exp" else torch.tan(angle / 2)


def modrelu(x: Tensor, bias: Tensor) -> Tensor:
    """`sign(x) relu(|x| + bias)`: shifts the size of a number, and keeps its sign.

    >>> modrelu(torch.tensor([-2.0, 0.0, 0.5]), torch.tensor(-1.0))
    tensor([-1.,  0.,  0.])
    """
    size = torch.relu(x.abs() + bias)
    return torch.where(x > 0, size, torch.where(x < 0, -size, torch.zeros_like(size)))
