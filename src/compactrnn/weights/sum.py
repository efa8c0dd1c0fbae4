"""Sums of weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .._errors import invalid
from . import terms
from .base import AbstractWeight, WeightSpec

_ROUNDS = 100  # of fits; they end earlier as a rule


@dataclass(frozen=True)
class Sum(WeightSpec):
    """`W = W_1 + W_2 + ...`, the weights of `parts`: what `LowRank(4) + Diagonal()` makes.

    >>> from compactrnn.weights import Diagonal, LowRank
    >>> LowRank(rank=4) + Diagonal()
    Sum(parts=(LowRank(rank=4), Diagonal()))
    >>> (LowRank(rank=4) + Diagonal()).build(64, 64).stored_parameters()
    576

    Raises:
        ValueError: fewer than two parts, or what is not a specification.
    """

    parts: tuple[WeightSpec, ...]

    def __post_init__(self):
        flat: list[WeightSpec] = []
        for part in self.parts:
            if not isinstance(part, WeightSpec):
                raise invalid("parts of a Sum", got=repr(part), expected="weights such as LowRank(rank=4)")
            flat += part.parts if isinstance(part, Sum) else (part,)
        if len(flat) < 2:
            raise invalid("parts of a Sum", got=str(len(flat)), expected="two weights or more")
        object.__setattr__(self, "parts", tuple(flat))

    def build(self, out_features: int, in_features: int, gates: int = 1) -> SumWeight:
        return SumWeight(self, self.parts, out_features, in_features, gates)


class SumWeight(AbstractWeight):
    """`parts` has the summands.

    `row_factors`, None or (parts, out_features), multiplies each row of each summand while the module is in training
    mode: what `compactrnn.compress.Doping` drops at random.
    """

    row_factors: Tensor | None

    def __init__(
        self, spec: WeightSpec, parts: Sequence[WeightSpec], out_features: int, in_features: int, gates: int = 1
    ):
        super().__init__(spec, out_features, in_features, gates)
        self.parts = nn.ModuleList(part.build(out_features, in_features, gates) for part in parts)
        self.register_buffer("row_factors", None, persistent=False)
        self.reset_parameters()

    @property
    def summands(self) -> list[AbstractWeight]:
        """The parts as weights."""
        return [cast(AbstractWeight, part) for part in self.parts]

    def forward(self, x: Tensor) -> Tensor:
        products = [part(x) for part in self.parts]
        if self.training and self.row_factors is not None:
            products = [row * y for row, y in zip(self.row_factors, products, strict=True)]
        return functools.reduce(torch.add, products)

    def dense(self) -> Tensor:
        matrices = [part.dense() for part in self.summands]
        if self.training and self.row_factors is not None:
            matrices = [row[:, None] * m for row, m in zip(self.row_factors, matrices, strict=True)]
        return functools.reduce(torch.add, matrices)

    def reset_parameters(self, bound: float | None = None) -> None:
        """Each summand has its share of the variance."""
        bound = self.in_features**-0.5 if bound is None else bound
        for part in self.summands:
            part.reset_parameters(bound * len(self.parts) ** -0.5)

    def terms(self) -> tuple[terms.Term, ...]:
        return (terms.Sum(tuple(part.terms() for part in self.summands)),)

    @torch.no_grad()
    def from_dense_(self, matrix: Tensor) -> SumWeight:
        """Each summand is fitted to what the others leave, one after the other, until the error falls no more.

        The first fit of a summand is to what those fitted before leave. That is done from the first summand to the
        last, and from the last to the first, and the better result taken. Where a summand's own fit is the nearest of
        its kind, the error never grows; the end is a local minimum.
        """
        self._check_matrix(matrix)
        target = matrix.detach()
        orders = (range(len(self.parts)), range(len(self.parts))[::-1])
        _, made = min((_fit(copy.deepcopy(self).summands, target, order) for order in orders), key=lambda fit: fit[0])
        for part, its in zip(self.summands, made, strict=True):
            part.from_dense_(its)
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> AbstractWeight | None:
        """Where every summand can be cut."""
        cut = [copy.deepcopy(part).select_(out, inp) for part in self.summands]
        if any(part is None for part in cut):
            return None
        first = cast(AbstractWeight, cut[0])
        self.parts = nn.ModuleList(cast("list[AbstractWeight]", cut))
        self.out_features, self.in_features, self.rows = first.out_features, first.in_features, first.rows
        self.row_factors = None
        return self

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> SumWeight:
        """Exact where it is for every summand."""
        for part in self.summands:
            part.scale_(out, inp)
        return self


def _fit(parts: list[AbstractWeight], target: Tensor, order: Sequence[int]) -> tuple[float, list[Tensor]]:
    """The error, and what the parts make, after fits to what the others leave in this order."""
    made, error = [torch.zeros_like(target) for _ in parts], float("inf")
    for _ in range(_ROUNDS):
        for number in order:
            rest = target - functools.reduce(torch.add, made[:number] + made[number + 1 :])
            made[number] = parts[number].from_dense_(rest).dense().to(target)
        before, error = error, float((target - functools.reduce(torch.add, made)).norm())
        if not error < (1 - 1e-3) * before:
            break
    return error, made
